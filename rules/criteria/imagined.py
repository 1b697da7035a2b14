"""K2 without a reward from outside: a return of what networks say of each step (imagined rewards, learned features).

The side that bootstraps from the network on the other side, or from what follows that, is the target; the rest of the
sum speaks of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import Atom, Sum
from gradaudit.rules.criteria.marks import CHOICES, SHAPES, bare, marks
from gradaudit.rules.criteria.roles import related, roles
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

LAYERS = frozenset({"module_call", "matmul"})
MOST_BEHIND = 80


def imagined(view: View, total: Sum, against: Sum) -> bool:
    """A return of predicted rewards that bootstraps from the network that predicts it."""
    facts, analysis = marks(view.analysis), view.analysis
    if view.sink.kind == "library":
        return False
    values = [atom for atom in total.network() if atom.factor and not facts.reward(atom.node)]
    predicting = heads(analysis, against.network())
    if any(facts.reward(one.node) or _given(view, one) for one in total.network()):
        return bool(values) and related(analysis, heads(analysis, values), predicting)
    # a value that is its own next value (or its copy's), discounted, and what another network says of the step
    discounted = [atom for atom in total.atoms if atom.factor or atom.raw and bare(atom.node).op == "mul"]
    following = [atom for atom in discounted if not facts.reward(atom.node) and is_next(analysis, atom, predicting)]
    if not predicting or not following:
        return False
    ends = any(_ends_with(analysis, atom.node) for atom in following)  # a mixture of two answers has no such factor
    said = [atom for atom in total.network(1) if atom not in following and (ends or not atom.factor)]
    whole = _made_by(analysis, said)
    return bool(whole) and not whole & predicting


def is_next(analysis: Analysis, atom: Atom, predicting: int) -> bool:
    """Is it a value of the network that predicts, or of one that follows it, whether a loss sees parameters in that or
    a tree that is a constant?"""
    if not atom.raw:
        return bool(uncopied(analysis, heads(analysis, [atom])) & predicting)
    facts = roles(analysis)
    passed = {facts.versions.get(leaf) for leaf in analysis.leaves(predicting)} - {None}
    values = analysis.leaves(analysis.dep(atom.node)) if passed else ()
    if any(not passed.isdisjoint(facts.originals(leaf)) for leaf in values):
        return True
    return bool(passed) and any(node in passed for node in _behind(atom.node))  # what the copy was before any step


def _behind(node: Node) -> set[Node]:
    """What a value was computed of. What an environment answered to a chosen action is no value of the network."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST_BEHIND:
        current = waiting.pop()
        for source in current.arguments() if current.op not in CHOICES else ():
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


def _ends_with(analysis: Analysis, value: Node) -> bool:
    """Is the value multiplied by data, as a next value is by what says that an episode has ended?"""
    facts, graph = marks(analysis), analysis.graph
    seen, waiting = {value}, [value]
    while waiting and len(seen) < MOST_BEHIND:
        for position in graph.users[graph.index[waiting.pop()]]:
            user = graph.nodes[position]
            if user.op == "mul" and any(facts.raw(source) for source in user.arguments()):
                return True
            if user.op in SHAPES | {"mul", "minimum"} and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _given(view: View, atom: Atom) -> bool:
    """Whether a network's output enters the sum whole and as a constant, as a predicted reward does."""
    return not atom.factor and not view.reaches(atom.node)


def uncopied(analysis: Analysis, leaves: int) -> int:
    """These leaves, a copy's as those that it was copied from."""
    facts, found = roles(analysis), analysis.leaves(leaves)
    return analysis.mask(one for leaf in found for one in facts.originals(leaf) or (leaf,))


def heads(analysis: Analysis, atoms: Iterable[Atom]) -> int:
    """The parameters of the last layers that made these values."""
    return analysis.mask(leaf for atom in atoms for leaf in last_layer(bare(atom.node)))


def last_layer(node: Node) -> Iterator[Node]:
    """The leaves that enter an operation, and with a bias that is added (a run shows both) those of the product."""
    for edge in node.inputs:
        source = bare(edge.source) if node.op == "add" else edge.source
        if source.leaf is not None:
            yield source
        elif node.op == "add" and source.op in LAYERS:
            yield from last_layer(source)


def _made_by(analysis: Analysis, atoms: Iterable[Atom]) -> int:
    """The same, whatever was made of what the layers gave: features brought to length one, an error of a forecast."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = [atom.node for atom in atoms]
    while waiting and len(seen) < MOST_BEHIND:
        node = bare(waiting.pop())
        if node in seen:
            continue
        seen.add(node)
        last = set(last_layer(node))
        found |= last
        waiting += [] if last else [edge.source for edge in node.inputs if edge.kind == DATA]
    return analysis.mask(found)
