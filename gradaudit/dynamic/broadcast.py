"""`[B]` against `[B, 1]`: two operands of one size and different rank that are stretched over each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradaudit.dynamic.judgement import Case, Judgement, finding
from gradaudit.dynamic.shapes import LOSSES, is_discrepancy
from gradaudit.tape import INDEX, Node

ELEMENTWISE = LOSSES - {"cross_entropy", "nll_loss", "cosine_similarity"} | {"add", "sub", "mul", "div", "where"}
_SHAPING = frozenset(("reshape", "getitem", "cast", "stop"))


def broadcasts(case: Case) -> Iterator[Judgement]:
    """One judgement for each line of the loss on which that happens, the innermost operation of it."""
    seen: set[tuple[str, int]] = set()
    for node in case.analysis.graph.nodes:
        where = node.location
        if node.op not in ELEMENTWISE or not where.line or (where.path, where.line) in seen:
            continue
        pair = _pair(case, node)
        if pair is None:
            continue
        seen.add((where.path, where.line))
        severity = "error" if is_discrepancy(case, node) else "warning"
        low, high = sorted(pair, key=len)
        message = (
            f"an operand of shape {_text(low)} meets one of shape {_text(high)}: "
            f"the result is {_text(_together(low, high))}, every row against every other"
        )
        advice = f"give both the same shape: `squeeze(-1)` on the one of shape {_text(high)}"
        yield Judgement(finding(case, "GA603", severity, message, where, fix=advice), nodes=(node,))


Shape = tuple[int, ...]


def _pair(case: Case, node: Node) -> tuple[Shape, Shape] | None:
    shapes = case.recording.shapes
    operands = [edge.source for edge in node.inputs if edge.kind != INDEX and edge.source in shapes][:2]
    if len(operands) < 2:
        return None
    one, other = (shapes[operand] for operand in operands)
    size = math.prod(one)
    if len(one) == len(other) or size != math.prod(other) or size < 2 or not one or not other:
        return None
    whole = _together(one, other)
    if not whole or math.prod(whole) <= size or _meant(operands[0], operands[1]):
        return None
    return one, other


def _together(one: Shape, other: Shape) -> Shape:
    """The broadcast shape; () where there is none."""
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    filled = (1,) * (len(long) - len(short)) + short
    if any(a != b and a != 1 and b != 1 for a, b in zip(long, filled, strict=True)):
        return ()
    return tuple(max(a, b) for a, b in zip(long, filled, strict=True))


def _meant(one: Node, other: Node) -> bool:
    """Made on purpose: an axis was put in by hand, or both are one value in two shapes."""
    return _core(one) is _core(other) or _widened(one) or _widened(other)


def _widened(node: Node) -> bool:
    return (node.op == "getitem" and "None" in node.detail) or (node.op == "reshape" and "unsqueeze" in node.detail)


def _core(node: Node) -> Node:
    for _ in range(16):
        if node.op not in _SHAPING or not node.inputs:
            return node
        node = node.inputs[0].source
    return node


def _text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
