"""Members of an ensemble that are chosen by a draw: which values they give, and where these go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import MEETS, Discrepancy, meetings_at
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.tape import INDEX, PARAMETER, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

REPLACEMENT = "drawn-with-replacement"
DRAWN = frozenset({REPLACEMENT, "drawn"})
LOWEST = frozenset({"min", "minimum", "amin", "mean", "sort", "max", "maximum", "amax", "median"})
NETWORKS = frozenset({"module_call", "einsum", "matmul"})
JOINS = frozenset({"stack", "cat", "pack", "phi", "store", "container", "append", "stop", "cast", "clone", "identity"})


def draw_of(node: Node) -> Node | None:
    """The draw that chose which member's value this is."""
    if node.op == "gather" or "," in node.detail:
        return None  # a position in each row: an action
    for place, _, kind, _ in node.inputs:
        if kind == INDEX:
            source: Node | None = place
            for _ in range(6):
                if source is None or source.marks & DRAWN:
                    break
                source = source.inputs[0].source if source.op in SHAPES and source.inputs else None
            if source is not None:
                return source
    return None


def behind(value: Node, most: int = 400) -> list[Node]:
    """The nodes that a value is computed from."""
    seen = {value: None}
    waiting = [value]
    while waiting and len(seen) < most:
        for edge in waiting.pop().inputs:
            if edge.source not in seen and edge.kind != INDEX:
                seen[edge.source] = None
                waiting.append(edge.source)
    return list(seen)


def targets(analysis: Analysis) -> Iterator[tuple[Discrepancy, Edge, Edge]]:
    """Discrepancies of a prediction and a constant: the meeting, the constant's side, the prediction's."""
    for view in analysis.views:
        for node in view.slice:
            for meeting in meetings_at(analysis, node) if node.op in MEETS else ():
                if len(meeting.sides) != 2:
                    continue
                for mine, other in (meeting.sides, meeting.sides[::-1]):
                    live = other.passes and view.live(other.source)
                    if live and not (mine.passes and view.live(mine.source)):
                        yield meeting, mine, other


def reduced_members(target: Node) -> Iterator[tuple[Node, Node]]:
    """(draw, reduction): drawn members' values of which the lowest, or the mean, enters a target."""
    for node in behind(target):
        if node.op in LOWEST:
            for part in _members(node):
                draw = draw_of(part)
                if draw is not None and is_value(part):
                    yield draw, node


def _members(reduction: Node) -> list[Node]:
    """What a reduction takes, through the containers it was collected in."""
    found: list[Node] = []
    seen = {reduction}
    waiting = [reduction]
    while waiting and len(seen) < 60:
        node = waiting.pop()
        for edge in node.inputs:
            if edge.kind == INDEX or edge.source in seen:
                continue
            seen.add(edge.source)
            found.append(edge.source)
            if edge.source.op in JOINS or edge.source.op in SHAPES and draw_of(edge.source) is None:
                waiting.append(edge.source)
    return found


def is_value(node: Node) -> bool:
    """What a network gives, or a part of what several give together."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 60:
        current = waiting.pop()
        if current.op in NETWORKS or any(edge.kind == PARAMETER for edge in current.inputs):
            return True
        if current.op in SHAPES or current.op in JOINS or current.op == "add":
            for edge in current.inputs:
                if edge.kind != INDEX and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False


def draws_rows(value: Node, draw: Node) -> bool:
    """Does the draw choose rows of the data that a value is made of?"""
    return any(draw_of(node) is draw and not is_value(node) for node in behind(value))


def added_to(value: Node, wanted: Node) -> bool:
    """Is `wanted` part of one summand of the value, and not of another one?"""
    for node in behind(value):
        parts = [edge.source for edge in node.inputs if edge.kind != INDEX]
        if node.op == "add" and len(parts) == 2:
            has = [wanted in behind(part, 2000) for part in parts]
            if has[0] != has[1]:
                return True
    return False
