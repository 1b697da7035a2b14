"""Labels that encode a number: two bins beside it, or what is near it on a support. The number is what is regressed on,
so that a bootstrapped value whose encoding meets a distribution is a target like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES, marks
from gradaudit.tape import DATA, INDEX, PARAMETER, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import View

DISTANCES = frozenset({"abs", "relu", "erf", "maximum", "clamp"})
"""What a difference from a support goes through on its way to a weight of a bin."""
WRITES = frozenset({"scatter", "scatter_add", "scatter_reduce", "index_put", "index_add", "index_copy", "store"})
SCALES = SHAPES | {"mul", "div", "add", "sub", "neg", "sqrt", "sign", "log", "log1p", "clamp"}
MOST = 80
NEAR = 8


def encoded(view: View, labels: Edge) -> Iterator[Node]:
    """The live values that these labels may be an encoding of, the nearest first."""
    seen = {labels.source}
    waiting: list[tuple[Node, bool]] = [(labels.source, False)]
    choosers: list[Node] = []
    while waiting and len(seen) < MOST:
        node, is_near = waiting.pop(0)
        if node.op == "add" and (is_near or any(_behind(one, node) for one in choosers)):
            yield node
        choosers += _choosers(node)
        is_near = is_near or _is_distance(view, node)
        if any(edge.kind == PARAMETER for edge in node.inputs):
            continue
        for edge in node.inputs:
            if edge.kind == DATA and edge.passes and edge.source not in seen and view.live(edge.source):
                seen.add(edge.source)
                waiting.append((edge.source, is_near))


def _choosers(node: Node) -> list[Node]:
    """What says which bins are written, or which of two classes a part of the number is for."""
    if node.op in WRITES:
        return [edge.source for edge in node.inputs if edge.kind == INDEX]
    return [one for one in map(_bare, node.arguments()) if one.op == "one_hot"] if node.op == "mul" else []


def _is_distance(view: View, node: Node) -> bool:
    """Whether it measures how far the number is from each place of a support: from what no network made."""
    if node.op not in DISTANCES or not node.inputs:
        return False
    facts, current = marks(view.analysis), node.inputs[0].source
    for _ in range(NEAR):
        data = current.arguments()
        if current.op == "sub" and len(data) == 2 and facts.network(data[0]) != facts.network(data[1]):
            plain = data[1] if facts.network(data[0]) else data[0]
            if not _is_number(plain):
                return True
        if current.op not in SCALES or not data:
            return False
        current = next((one for one in data if facts.network(one)), data[0])
    return False


def _is_number(node: Node) -> bool:
    """Whether it is one number for all: a shift of the value, no support."""
    bare = _bare(node)
    return constant(bare) is not None or bare.leaf is not None and bare.leaf.scalar


def _behind(chooser: Node, value: Node) -> bool:
    seen, waiting = {chooser}, [chooser]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node is value:
            return True
        for edge in node.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _bare(node: Node) -> Node:
    for _ in range(NEAR):
        if node.op not in SHAPES or not node.inputs:
            break
        node = node.inputs[0].source
    return node
