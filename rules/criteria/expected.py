"""A critic of discrete actions that one loss fits and raises at once.

An actor's objective `sum(pi * q)` follows the values of all actions. Where one of these values, `q[action]`, is
regressed on constants in the same loss (of the same states, or what the same last layer says of others), the values are
the critic's to fit: here they have to be constants. Of several critics' values the least, or their mean, is as good.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.imagined import last_layer
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.scale import is_scaled
from gradaudit.rules.criteria.sites import stop_at
from gradaudit.rules.criteria.weight import is_probability
from gradaudit.tape import DATA, INDEX, Edge, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 40
AMONG = frozenset({"minimum", "min", "maximum", "mean", "stack", "cat", "phi", "where"})
"""What is made of the values of several critics."""


class Expected(NamedTuple):
    """At `node` the loss of `view` weighs `values`, which it regresses as well, with probabilities that it trains."""

    view: View
    leaves: int
    node: Node
    values: Node
    location: Location


def expected_values(analysis: Analysis) -> Iterator[Expected]:
    """Every such product, once for a place in the text."""
    told: set[Location] = set()
    for view in analysis.views:
        fitted, behind = _fitted(view) if view.sink.kind != "library" else (None, set())
        for node in view.slice if fitted is not None else ():
            edges = [edge for edge in node.inputs if edge.kind == DATA and edge.passes and view.live(edge.source)]
            if node.op != "mul" or len(edges) != 2 or node in behind:
                continue
            for policy, rated in (edges, edges[::-1]):
                values = _values(view, rated.source, fitted) if fitted and is_probability(policy.source) else None
                leaves = view.live(values) & ~view.live(policy.source) if values is not None else 0
                if values is None or not leaves:
                    continue
                if not view.live(rated.source) & ~view.live(values):
                    values = rated.source  # an advantage: all of it is to be a constant
                where = stop_at(view, node, values, leaves)
                if where not in told:
                    told.add(where)
                    yield Expected(view, leaves, node, values, where)


class _Fitted(NamedTuple):
    """The values of which chosen ones are regressed on constants: their numbers, and the last layers that make them."""

    numbers: frozenset[int]
    layers: frozenset[Node]

    def has(self, view: View, node: Node) -> bool:
        return view.analysis.algebra.vn(node) in self.numbers or not self.layers.isdisjoint(last_layer(node))


def _fitted(view: View) -> tuple[_Fitted | None, set[Node]]:
    """Those, if there are any, and all that is behind a regression."""
    numbers: set[int] = set()
    layers: set[Node] = set()
    behind: set[Node] = set()
    for meeting in discrepancies(view):
        for side in meeting.sides:
            behind |= view.backward(side.source)
        for prediction, target in zip(meeting.sides, meeting.sides[::-1], strict=True):
            constant_target = not (target.passes and view.live(target.source))
            if len(meeting.sides) == 2 and not meeting.entropy and prediction.passes and constant_target:
                whole = _chosen_from(view, prediction.source)
                if whole is not None and view.live(whole):
                    numbers.add(view.analysis.algebra.vn(whole))
                    layers.update(last_layer(whole))
    return (_Fitted(frozenset(numbers), frozenset(layers)) if numbers else None), behind


def _chosen_from(view: View, node: Node) -> Node | None:
    """What the prediction is one entry of, for each example; a part of the label may be taken from it first."""
    chosen = False
    for _ in range(MOST):
        live = [edge.source for edge in node.inputs if _flows(view, edge)]
        if node.op in ("add", "sub") and len(live) == 1:
            node = live[0]
        elif node.op in SHAPES and node.inputs:
            chosen = chosen or node.op == "gather" or any(edge.kind == INDEX for edge in node.inputs)
            node = node.inputs[0].source
        else:
            break
    return node if chosen else None


def _values(view: View, weight: Node, fitted: _Fitted) -> Node | None:
    """The summand of a weight that is one of these, or is chosen among several."""
    seen, waiting = {weight}, [(weight, weight)]
    while waiting and len(seen) < MOST:
        node, summand = waiting.pop()
        if fitted.has(view, node):
            return summand
        if node.op in SHAPES | {"add", "sub", "neg"} or node.op == "mul" and is_scaled(node):
            further = [(edge.source, edge.source) for edge in node.inputs if _flows(view, edge)]
        elif node.op in AMONG:
            further = [(edge.source, summand) for edge in node.inputs if _flows(view, edge)]
        else:
            continue
        new = [item for item in further if item[0] not in seen]
        seen.update(source for source, _ in new)
        waiting += new
    return None


def _flows(view: View, edge: Edge) -> bool:
    return edge.kind == DATA and edge.passes and bool(view.live(edge.source))
