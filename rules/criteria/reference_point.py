"""A reference point that learns (KTO): answers are rated by how far their log-ratios are from the batch's mean one.

`sigmoid(beta * (log_ratio - clamp(mean(log_ratios), min=0)))`: the mean is an estimate of the divergence from the
reference policy, which answers are measured against. With a graph, the policy rates its answers by moving the point.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.preference import OF_MARGINS
from gradaudit.rules.criteria.reference import is_log_ratio
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

FLOORS = frozenset({"clamp", "relu", "maximum", "activation"})
FACTORS = SHAPES | {"mul", "div", "neg"}


class Point(NamedTuple):
    """`point`, which is live, is taken from a log-ratio at `node` (or the ratio from it, elsewhere)."""

    view: View
    node: Node
    point: Node
    uses: tuple[Node, ...]


def live_points(analysis: Analysis) -> Iterator[Point]:
    """Every such point, with all the differences that it is in."""
    for view in analysis.views if not OF_MARGINS.isdisjoint(analysis.graph.ops) else ():
        found: dict[Node, list[Node]] = {}
        for node in view.slice:
            gap = _main(view, node.inputs[0].source) if node.op in OF_MARGINS and node.inputs else node
            sides = gap.arguments()
            for ratio, point in permutations(sides, 2) if gap.op == "sub" and len(sides) == 2 else ():
                if view.live(ratio) & view.live(point) and is_log_ratio(analysis, ratio) and _is_point(view, point):
                    found.setdefault(point, []).append(gap)
        for point, uses in found.items():
            yield Point(view, uses[0], point, tuple(uses))


def _is_point(view: View, node: Node) -> bool:
    """The mean of log-ratios over the whole batch, no less than zero."""
    floored = False
    for _ in range(8):
        if node.op == "mean":
            ratios = _main(view, node.inputs[0].source)
            return floored and not node.detail and is_log_ratio(view.analysis, ratios)
        floored = floored or node.op in FLOORS
        if node.op not in FLOORS | FACTORS or not node.inputs:
            return False
        node = _live_input(view, node)
    return False


def _main(view: View, node: Node) -> Node:
    """What is scaled by constants."""
    for _ in range(8):
        if node.op not in FACTORS or not node.inputs:
            break
        node = _live_input(view, node)
    return node


def _live_input(view: View, node: Node) -> Node:
    sources = [one for one in node.arguments() if constant(one) is None]
    return next((one for one in sources if view.live(one)), node.inputs[0].source)
