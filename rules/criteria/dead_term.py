"""K12: a term of a loss that is a constant as a whole, beside terms that train the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import WRITES
from gradaudit.rules.criteria.marks import bare
from gradaudit.rules.criteria.product import is_multiplier
from gradaudit.rules.criteria.starved import Starved, events_of, is_known, starved_predictions
from gradaudit.tape import Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

REDUCED = frozenset({"mean", "sum"})
STORED = WRITES | {"phi"}


def dead_terms(view: View, own: int) -> Iterator[Starved]:
    """`td_loss + weight * penalty(q(obs).detach())`: a term was measured for itself of what is to be trained, and it is
    stopped as a whole."""
    analysis = view.analysis
    terms = list(_measured(analysis, view.sink.loss, own))
    living = [term for term in terms if analysis.alive(term)]
    told = {found.meeting for found in starved_predictions(analysis)}
    for term in terms:
        leaves = analysis.dep(term) & own
        if analysis.alive(term) or not leaves & view.live(view.sink.loss) or not told.isdisjoint(_made_of(term)):
            continue
        if not is_known(term):  # it may train what an object makes of which the text does not tell what it is
            continue
        events = [event for event in events_of(analysis, Edge(term), leaves) if not _is_penalty(view, event, own)]
        if events and all(_of_this_alone(view, event, term) for event in events):
            if not any(analysis.algebra.same(bare(term), bare(one)) for one in living):
                yield from (Starved(view, term, event, leaves) for event in events)


def _is_penalty(view: View, event: Node, own: int) -> bool:
    """What is stopped is a multiplier, which its dual trains: whatever the penalty weighs, it is a constant there."""
    analysis = view.analysis
    stopped = analysis.dep(event) & own
    trained = not stopped & ~view.live(view.sink.loss)
    return trained and all(is_multiplier(analysis, leaf) for leaf in analysis.leaves(stopped))


def _measured(analysis: Analysis, loss: Node, own: int) -> Iterator[Node]:
    """The means and sums over a batch that a loss adds up; what a multiplier is trained on is no summand."""
    waiting, seen = [loss], {loss}
    while waiting:
        node = waiting.pop()
        if node.op in REDUCED:
            yield node
            continue
        if node.op not in ("add", "sub", "mul", "div", "neg"):
            continue
        parts = node.arguments()
        trained = [part for part in parts if analysis.alive(part) or analysis.dep(part) & own]
        if node.op in ("mul", "div") and len(trained) > 1:
            if not any(analysis.alive(part) for part in trained) and all(map(_is_scalar, trained)):
                yield node  # measured, and scaled with its own size
            continue
        waiting += [part for part in parts if part not in seen]
        seen.update(parts)


def _is_scalar(node: Node) -> bool:
    """Is it a mean or a sum over a batch, or a number made of such?"""
    for _ in range(6):
        if node.op in REDUCED:
            return True
        parts = [part for part in node.arguments() if part.op != "const"]
        if node.op not in ("neg", "mul", "div", "add", "stop") or len(parts) != 1:
            return False
        node = parts[0]
    return False


def _of_this_alone(view: View, event: Node, term: Node) -> bool:
    """Is it a stop of its own, whose value gets into the loss by this term only? What is stopped to be a target or a
    weight of another term is a constant here as it is there; and what an update before left behind measures nothing of
    this one."""
    graph = view.analysis.graph
    if event.op == "stop":
        if bare(event.inputs[0].source).op in STORED:
            return False
    elif event.grad_mode:
        return False
    seen, waiting = {event}, [event]
    while waiting:
        node = waiting.pop()
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            if user is term or user in seen:
                continue
            if view.analysis.alive(user):
                return False
            seen.add(user)
            waiting.append(user)
    return True


def _made_of(term: Node) -> set[Node]:
    found, waiting = {term}, [term]
    while waiting:
        new = [source for source in waiting.pop().arguments() if source not in found]
        found.update(new)
        waiting += new
    return found
