"""K11: two networks that learn from nothing but how far they are apart.

`mse(predictor(obs), target(obs))`, stepped by an optimizer that holds both: the two agree soonest if they say nothing.
Random network distillation and its kin fix one of them. What else the loss adds up trains others. What keeps two
networks from it is a reason to be silent: any other loss of one of them, other data on one side, a summand that is no
network's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import ENTROPIES, LOSSES, Discrepancy, discrepancies
from gradaudit.rules.criteria.place import private
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.selfprediction import DISTANCES, given, is_output
from gradaudit.rules.criteria.starved import is_test, owned
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 400


class Collapse(NamedTuple):
    """`target` is the side of `node` that is rather to be predicted; the loss trains `leaves` through it."""

    view: View
    node: Node
    target: Node
    leaves: int


def collapses(analysis: Analysis) -> Iterator[Collapse]:
    """Every comparison of two networks' outputs for one input that is all that either of them learns from."""
    found = {
        view: pairs
        for view in analysis.views
        if view.sink.kind != "library" and not is_test(view)
        if (pairs := [meeting for meeting in discrepancies(view) if _brings_together(view, meeting)])
    }
    for view, pairs in found.items():
        for meeting in pairs:
            if not any(_learns_elsewhere(view, meeting, other, found.get(other, [])) for other in analysis.every_view):
                target = _target(meeting)
                yield Collapse(view, meeting.node, target, view.live(target))


def _target(meeting: Discrepancy) -> Node:
    """The side that is rather to be predicted: a loss function's second argument, else what is computed first."""
    if meeting.node.op in LOSSES:
        return meeting.sides[1].source
    return min((side.source for side in meeting.sides), key=lambda node: node.time)


def _learns_elsewhere(view: View, meeting: Discrepancy, other: View, pairs: list[Discrepancy]) -> bool:
    """Does another loss train one of the two, in another way than by such a comparison?"""
    if other is view:
        return False
    trained = other.live(other.sink.loss)
    for pair in pairs:
        trained &= ~_both(other, pair)
    return bool(_trees(view, _both(view, meeting)) & _trees(other, trained))


def _both(view: View, meeting: Discrepancy) -> int:
    one, other = (view.live(side.source) for side in meeting.sides)
    return one | other


def _trees(view: View, leaves: int) -> set[Node]:
    """The parameters, or the trees of them that were passed for the arguments of a loss in JAX."""
    versions = roles(view.analysis).versions
    return {versions.get(leaf, leaf) for leaf in view.analysis.leaves(leaves)}


def _brings_together(view: View, meeting: Discrepancy) -> bool:
    if len(meeting.sides) != 2 or meeting.entropy or meeting.node.op in ENTROPIES | DISTANCES:
        return False
    one, other = (side.source for side in meeting.sides)
    mine, its, own = view.live(one), view.live(other), owned(view)
    if not all(side.passes for side in meeting.sides) or not mine or not its or mine & its or (mine | its) & ~own:
        return False
    if not is_output(view, one) or not is_output(view, other) or given(view, one) != given(view, other):
        return False
    alone = all(private(view, side, {meeting.node}) and _learns_here(view, side, meeting.node) for side in (one, other))
    return alone and not _is_taken_away(view, meeting.node)


def _learns_here(view: View, side: Node, node: Node) -> bool:
    """Do the parameters behind a side get no gradient of this loss but by way of it?"""
    behind = view.backward(side) | {node}
    leaves = view.analysis.leaves(view.live(side))
    return all(user in behind for leaf in leaves for user, _ in view.consumers(leaf))


def _is_taken_away(view: View, node: Node) -> bool:
    """Whether the loss pushes the two apart: a negative sign on the way."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST:
        current = waiting.pop()
        for user, edge in view.consumers(current):
            if user.op == "neg" or (user.op == "sub" and len(user.inputs) > 1 and edge is user.inputs[1]):
                return True
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False
