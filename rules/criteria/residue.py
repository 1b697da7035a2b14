"""What is left of a value when a straight-through version of it is subtracted: `x - (x + stop(q - x))`.

Its value is `x - q`, and no gradient comes through it, since the two x cancel: stages of a residual quantiser that are
given it train nothing before them, and a commitment that is measured so trains nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.selfcancel import DISCREPANCIES
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

SAME = frozenset({"reshape", "identity", "phi", "clone", "cast"})
"""What a value goes through and stays what it is: it is laid out another way, or one of several."""
MOST = 60


class Residue(NamedTuple):
    """`node` is the difference, `side` what is subtracted; `leaves` get no gradient through it.

    `measured`: its size is a loss. `sure`: whatever switches say; else there is a way to set them that makes it so.
    """

    view: View
    node: Node
    side: Node
    leaves: int
    measured: bool
    sure: bool


def residues(analysis: Analysis) -> list[Residue]:
    """Every difference that a loss depends on with gradient, as it is written, and whose gradient cancels."""
    known = analysis.cache.get("residues")
    if not isinstance(known, list):
        views = analysis.views if "stop" in analysis.graph.ops else ()
        known = analysis.cache["residues"] = [found for view in views for found in _of_view(view)]
    return known


def _of_view(view: View) -> Iterator[Residue]:
    for node in view.slice:
        if node.op == "sub" or node.op in DISCREPANCIES:
            edges = [edge for edge in node.inputs if edge.kind == DATA]
            if len(edges) == 2 and all(edge.passes and view.live(edge.source) for edge in edges):
                yield from _between(view, node, *edges)


def _between(view: View, node: Node, first: Edge, second: Edge) -> Iterator[Residue]:
    for whole, part in ((first, second), (second, first)):
        ways = _straight(view, part.source, whole.source)
        if True in ways:
            leaves = view.live(whole.source)
            yield Residue(view, node, part.source, leaves, node.op in DISCREPANCIES, False not in ways)
            return


def _straight(view: View, part: Node, whole: Node) -> set[bool]:
    """The ways of gradient from `part`: does one lead to `whole` alone, past something that is added as a constant?"""
    found: set[bool] = set()
    ends = _ends(whole)
    seen, waiting = {(part, False)}, [(part, False)]
    while waiting and len(seen) < MOST:
        node, added = waiting.pop()
        live = [edge.source for edge in node.inputs if edge.passes and view.live(edge.source)]
        if added and node in ends:
            found.add(True)
            continue
        if node.op == "add" and len(live) == 1 and _is_correction(view, node, live[0]):
            added = True
        elif node.op not in SAME or node.detail == "loop":
            found.add(False)
            continue
        fresh = [(source, added) for source in live if (source, added) not in seen]
        seen.update(fresh)
        waiting += fresh
    return found


def _ends(whole: Node) -> set[Node]:
    """The value itself, and what it is laid out from."""
    ends = {whole}
    while whole.op in ("reshape", "identity", "cast") and whole.inputs:
        whole = whole.inputs[0].source
        ends.add(whole)
    return ends


def _is_correction(view: View, node: Node, soft: Node) -> bool:
    """Is what is added a difference from this value, without gradient?"""
    others = [edge.source for edge in node.inputs if edge.source is not soft]
    if len(others) != 1 or others[0].op != "stop" or not others[0].inputs:
        return False
    inner = others[0].inputs[0].source
    return inner.op == "sub" and len(inner.arguments()) == 2 and view.analysis.algebra.same(inner.arguments()[1], soft)
