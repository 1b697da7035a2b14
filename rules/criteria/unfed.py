"""K12: one of two towers that are compared is stopped, and no loss of the program trains it.

`embed(image) @ embed(text).detach().T` with both towers in the optimizer. A teacher or a random target is given what
the other side is given; of two towers each has data of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.foreign import scalars
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.selfprediction import given
from gradaudit.rules.criteria.starved import Starved, fed_leaves, frozen_at, held_with, is_test, owned
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MEETS = frozenset({"matmul", "einsum", "mul", "dot", "cosine_similarity"})
KEEPS = SHAPES | {"normalize", "div", "mul", "norm"}
MOST = 40


def stopped_towers(analysis: Analysis) -> Iterator[Starved]:
    """Every stop behind which a network of the loss's own optimizer gets nothing, beside another one that learns."""
    if analysis.tape.framework == "jax":
        return  # a tree that is differentiated as a whole may well have constant parts, such as an averaged copy
    fed = fed_leaves(analysis)
    for view in analysis.views:
        hungry = (owned(view) or held_with(view)) & ~frozen_at(view) & ~fed
        if view.sink.kind == "library" or is_test(view) or not hungry & analysis.dep(view.sink.loss):
            continue
        for node in view.slice:
            if node.op in MEETS:
                yield from _at(view, node, hungry)


def _at(view: View, node: Node, hungry: int) -> Iterator[Starved]:
    sides = [edge for edge in node.inputs if edge.kind == DATA]
    if len(sides) != 2:
        return
    for dead, live in (sides, sides[::-1]):
        if not live.passes or not view.live(live.source) or view.live(dead.source):
            continue
        stop = _stop_behind(dead.source)
        leaves = view.analysis.dep(dead.source) & hungry
        if (
            stop is None
            or not leaves
            or scalars(view.analysis, leaves)
            or not view.analysis.alive(stop.inputs[0].source) & leaves
        ):
            continue
        mine, its = given(view, dead.source), given(view, live.source)
        if mine and its and not mine & its:
            yield Starved(view, node, stop, leaves)


def _stop_behind(node: Node) -> Node | None:
    """The stop that a value comes from, with nothing in between but what keeps it what it is."""
    for _ in range(MOST):
        if node.op == "stop" and node.inputs and node.grad_mode:
            return node
        if node.op not in KEEPS or not node.inputs:
            return None
        node = node.inputs[0].source
    return None
