"""K11: two networks that learn from nothing but how far they are apart.

`mse(predictor(obs), target(obs))`, stepped by an optimizer that holds both: the two agree soonest if they say nothing.
Random network distillation and its kin fix one of them. What keeps two networks from it is a reason to be silent: any
other loss of one of them, other data on one side, a summand that is no network's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import ENTROPIES, Discrepancy, discrepancies
from gradaudit.rules.criteria.place import private
from gradaudit.rules.criteria.selfprediction import DISTANCES, given, is_output
from gradaudit.rules.criteria.starved import is_test, owned
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 400


class Collapse(NamedTuple):
    """`first` was computed before the other side of `node`; the loss trains `leaves` through it."""

    view: View
    node: Node
    first: Node
    leaves: int


def collapses(analysis: Analysis) -> Iterator[Collapse]:
    """Every comparison of two networks' outputs for one input that is all that either of them learns from."""
    found: dict[View, Discrepancy] = {}
    for view in analysis.views:
        meetings = discrepancies(view)
        if view.sink.kind != "library" and not is_test(view) and len(meetings) == 1:
            if _brings_together(view, meetings[0]):
                found[view] = meetings[0]
    for view, meeting in found.items():
        learning = view.live(view.sink.loss)
        if all(other in found or not other.live(other.sink.loss) & learning for other in analysis.every_view):
            first = min((side.source for side in meeting.sides), key=lambda node: node.time)
            yield Collapse(view, meeting.node, first, view.live(first))


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
