"""K12: summands of a loss that pass nothing of the gradient that they are there for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.dead_term import REDUCED, dead_terms
from gradaudit.rules.criteria.discrepancy import LOSSES, SQUARES
from gradaudit.rules.criteria.marks import SHAPES, SUMS, bare, behind
from gradaudit.rules.criteria.references import copies_of, feeds_copy
from gradaudit.rules.criteria.score import swapped_products
from gradaudit.rules.criteria.starved import Starved, events_of, fed_leaves, frozen_at, held_with, is_test, owned
from gradaudit.tape import DATA, PARAMETER, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

ERRORS = LOSSES | SQUARES | {"pow"}
"""What a difference goes through to be an error."""


def starved_terms(analysis: Analysis) -> Iterator[Starved]:
    """Summands of a loss without the gradient that they are there for.

    `actor_loss + (alpha.detach() * gap).mean()`, stepped by an optimizer that holds alpha, which no loss reaches;
    a penalty of a gradient that was taken without a graph of its own; `logsumexp(q) - q[action].detach()`.
    """
    fed = fed_leaves(analysis)
    for view in analysis.views:
        mine = owned(view)
        own = mine & ~frozen_at(view)
        if view.sink.kind == "library" or is_test(view) or not analysis.alive(view.sink.loss):
            continue
        for product, stop in swapped_products(view):
            yield Starved(view, product, stop, analysis.alive(stop.inputs[0].source))
        for term in summands_of(analysis, view.sink.loss):
            if _is_out(term):
                continue
            leaves = analysis.dep(term) & (own or held_with(view))
            yield from _given_to_others(view, term, own & leaves, mine)
            if analysis.alive(term):
                yield from _without_choice(view, term)
                continue
            hungry = leaves & ~fed if not _is_bias(term) else 0
            learning = view.live(view.sink.loss)
            hungry &= ~copies_of(analysis, hungry, learning)
            for event in events_of(analysis, Edge(term), hungry):
                if feeds_copy(analysis, event, learning):
                    continue
                if event.op == "stop" or not event.grad_mode and term.grad_mode:
                    yield Starved(view, term, event, hungry)
            for event in _first_order(analysis, term) if leaves else ():
                yield Starved(view, term, event, leaves)
        yield from dead_terms(view, own or held_with(view))


def _is_bias(term: Node) -> bool:
    """A parameter that is applied as a constant: of a layer that is written out, the last one is a summand."""
    return behind(term, SHAPES | {"stop", "mean", "sum"}).leaf is not None


def _is_out(term: Node) -> bool:
    """Is its weight an argument that is zero unless somebody asks for the term?"""
    weights = (source for source in term.arguments() if source.leaf is not None and source.leaf.kind == "input")
    return term.op == "mul" and any(weight.detail in ("0", "0.0") for weight in weights)


def _given_to_others(view: View, term: Node, leaves: int, mine: int) -> Iterator[Starved]:
    """`alpha * log_prob - critic(obs, action.detach())`: what somebody else's network makes of a stopped action trains
    nobody who is stepped with this loss, which has another summand that does."""
    analysis = view.analysis
    if not leaves or analysis.alive(term) & mine or not view.live(view.sink.loss) & leaves:
        return
    for event in events_of(analysis, Edge(term), leaves):
        if (event.op == "stop" or not event.grad_mode) and _judged(analysis, event, term, mine):
            yield Starved(view, term, event, leaves)


def _judged(analysis: Analysis, event: Node, term: Node, own: int) -> bool:
    """Is the term made of the stopped value by a network that is not stepped here, and no error of that network, by
    which it learns itself (a probe)?"""
    beyond = _between(analysis, event, term)
    if any(node.op in ERRORS for node in (*beyond, term)):
        return False
    by_hand = analysis.tape.framework == "jax"  # a layer may be a product with a matrix of a tree that is passed in
    return any(
        (edge.kind == PARAMETER or by_hand and node.op == "matmul" and edge.source not in beyond)
        and not analysis.dep(edge.source) & own
        for node in beyond
        for edge in node.inputs
    )


def _between(analysis: Analysis, start: Node, end: Node) -> set[Node]:
    """What lies on the ways from one value to another, both left out."""
    graph = analysis.graph
    before, waiting = {end}, [end]
    while waiting:
        sources = (edge.source for edge in waiting.pop().inputs if edge.kind == DATA)
        new = [source for source in sources if source not in before]
        before.update(new)
        waiting += new
    found, waiting = {start}, [start]
    while waiting:
        users = (graph.nodes[position] for position in graph.users[graph.index[waiting.pop()]])
        new = [user for user in users if user in before and user not in found]
        found.update(new)
        waiting += new
    return found - {start, end}


def summands_of(analysis: Analysis, loss: Node) -> Iterator[Node]:
    """What a loss that has gradient is the sum of, sums included; of joined alternatives none is sure to be one."""
    seen, waiting = {loss}, [loss]
    while waiting:
        node = waiting.pop()
        scaled = node.op in ("mul", "div") and sum(bool(analysis.alive(source)) for source in node.arguments()) == 1
        if node.op not in SUMS and not scaled:
            continue
        for edge in node.inputs:
            if edge.kind != DATA or edge.source in seen:
                continue
            seen.add(edge.source)
            if edge.passes and analysis.alive(edge.source):
                yield edge.source
                waiting.append(edge.source)
            elif not scaled and edge.source.op != "phi":
                yield edge.source


def _first_order(analysis: Analysis, term: Node) -> Iterator[Node]:
    """Gradients of live values, taken as numbers."""
    seen, waiting = {term}, [term]
    while waiting:
        node = waiting.pop()
        if node.op == "gradient" and any(not edge.passes and analysis.alive(edge.source) for edge in node.inputs):
            yield node
            continue
        for edge in node.inputs:
            if edge.kind == DATA and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)


def _without_choice(view: View, term: Node) -> Iterator[Starved]:
    """`logsumexp(q) - q[action].detach()`: all values go down, and the chosen one does not go up."""
    arguments = term.arguments()
    if term.op != "sub" or len(arguments) != 2:
        return
    for whole, chosen in (arguments, arguments[::-1]):
        whole = behind(whole, REDUCED)
        if whole.op != "logsumexp" or not whole.inputs:
            continue
        stop = behind(chosen, REDUCED | {"reshape"})
        if stop.op == "stop" and stop.inputs and _is_chosen(view, stop.inputs[0].source, whole.inputs[0].source):
            yield Starved(view, term, stop, view.live(whole))


def _is_chosen(view: View, chosen: Node, values: Node) -> bool:
    """Whether a value is one of these, picked by an index."""
    node = behind(chosen, REDUCED | {"reshape"})
    picked = node.op == "gather" or (node.op == "getitem" and len(node.inputs) > 1)
    return picked and view.analysis.algebra.same(bare(node), bare(values))
