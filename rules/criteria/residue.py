"""What is left of a value when a straight-through version of it is subtracted: `x - (x + stop(q - x))`.

Its value is `x - q`, and no gradient comes through it, since the two x cancel: stages of a residual quantiser that are
given it train nothing before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.tape import ALWAYS, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Residue(NamedTuple):
    """`node` is the difference, `side` what is subtracted; `leaves` get no gradient through it."""

    view: View
    node: Node
    side: Node
    leaves: int


def residues(analysis: Analysis) -> Iterator[Residue]:
    """Every difference that a loss depends on with gradient, as it is written, and whose gradient cancels."""
    for view in analysis.views:
        for node in view.slice:
            if node.op != "sub":
                continue
            edges = [edge for edge in node.inputs if edge.kind == "data"]
            if len(edges) == 2 and all(edge.passes and edge.guard == ALWAYS for edge in edges):
                leaves = view.live(edges[0].source)
                if leaves and _copies_gradient(analysis, *edges):
                    yield Residue(view, node, edges[1].source, leaves)


def _copies_gradient(analysis: Analysis, whole: Edge, part: Edge) -> bool:
    """Has the one the gradient of the other one, and a value of its own?"""
    algebra = analysis.algebra
    value = algebra.vn(whole.source)
    straight = algebra.lin(part.source)
    if straight.gradient() != {value: 1.0} or value in straight.forward():
        return False
    return any(not term.passes and term.guard == ALWAYS and analysis.alive(term.node) for term in straight.terms)
