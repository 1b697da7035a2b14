"""K11: two answers of one network to one question, the labels of which one makes for the other.

Both learn from the labels in the data, and the one is compared with the other's soft answer besides: a deep exit that
teaches the shallow ones (self-distillation). Without a stop the teacher is drawn to its pupils. Not meant: pairs of
terms in which each labels the other, and labels that are a mean of answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.branches import by_reward
from gradaudit.rules.criteria.discrepancy import Discrepancy, discrepancies
from gradaudit.rules.criteria.labels import NORMALISED, is_answer
from gradaudit.rules.criteria.marks import SHAPES, behind
from gradaudit.tape import DATA, INDEX, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

SCALED = SHAPES | NORMALISED | {"div", "mul", "log", "log_softmax", "logsigmoid", "clamp", "neg"}


class Exit(NamedTuple):
    """`labels` are made of one answer, with `leaves`; `nodes` compare others with them."""

    view: View
    labels: Node
    nodes: tuple[Node, ...]
    leaves: int


def taught_by_itself(analysis: Analysis) -> Iterator[Exit]:
    """Every answer of a network that makes live labels for others of its answers."""
    if not (NORMALISED | {"exp"}) & analysis.graph.ops:
        return
    for view in analysis.views:
        found: dict[Node, list[tuple[Node, Node]]] = {}
        for answer, labels, node in _in_view(view):
            found.setdefault(answer, []).append((labels, node))
        for answer, uses in found.items():
            yield Exit(view, uses[0][0], tuple(node for _, node in uses), view.live(answer))


def _in_view(view: View) -> Iterator[tuple[Node, Node, Node]]:
    """(the answer, the labels made of it, where another one meets them)"""
    meetings = [_sides(meeting) for meeting in discrepancies(view) if meeting.entropy and len(meeting.sides) == 2]
    soft = [meeting for meeting in meetings if _is_live(view, meeting[1]) and _is_live(view, meeting[2])]
    if not soft or by_reward(view):
        return
    asked = _asked(view, meetings)
    pairs = {(_logits(label), _logits(prediction)) for _, label, prediction in soft}
    for node, label, prediction in soft:
        mine, its = _logits(label), _logits(prediction)
        if mine is its or not asked.get(mine, set()) & asked.get(its, set()) or (its, mine) in pairs:
            continue
        if view.live(mine) & view.live(its) and is_answer(view.analysis, label):
            yield mine, label.source, node


def _sides(meeting: Discrepancy) -> tuple[Node, Edge, Edge]:
    """(where they meet, the label, the prediction)"""
    label, prediction = meeting.labelled
    return meeting.node, label, prediction


def _is_live(view: View, side: Edge) -> bool:
    return side.passes and bool(view.live(side.source))


def _asked(view: View, meetings: list[tuple[Node, Edge, Edge]]) -> dict[Node, set[int]]:
    """The labels that are data, for each answer that is to give them: distributions, or classes that are picked."""
    asked: dict[Node, set[int]] = {}
    pairs = [(label, prediction) for _, label, prediction in meetings]
    for node in view.slice:
        picks = [edge for edge in node.inputs if edge.kind == INDEX]
        pairs += [(picks[0], edge) for edge in node.inputs if picks and edge.kind == DATA]
    for label, prediction in pairs:
        if _is_live(view, prediction) and not view.analysis.dep(label.source) & view.mask:
            asked.setdefault(_logits(prediction), set()).add(view.analysis.algebra.vn(label.source))
    return asked


def _logits(side: Edge) -> Node:
    return behind(side.source, SCALED, 12)
