"""K8: a multiplier that is stopped in its own loss.

`stop(alpha) * (entropy - target)`: the constant in the gap gives gradient to alpha alone, and alpha gets none. What is
left of the term pushes against the policy's own one, which weighs the same thing with a stopped alpha, as it should.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.product import LINEAR, SIGNED, has_constant, is_multiplier, pushed_up, stopped_sibling
from gradaudit.rules.criteria.starved import Starved, events_of, fed_leaves, frozen_at, held_with, is_test, owned
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


def stopped_duals(analysis: Analysis) -> Iterator[Starved]:
    """Every product of a gap that learns and a multiplier that does not, though this step is its only one."""
    fed = fed_leaves(analysis)
    for view in analysis.views:
        if view.sink.kind == "library" or is_test(view):
            continue
        hungry = (owned(view) or held_with(view)) & ~frozen_at(view) & ~fed & analysis.dep(view.sink.loss)
        for node in view.slice if hungry else ():
            sides = [edge for edge in node.inputs if edge.kind == DATA] if node.op == "mul" else []
            for factor, gap in (sides, sides[::-1]) if len(sides) == 2 else ():
                yield from _judged(view, node, factor, gap, hungry)


def _judged(view: View, node: Node, factor: Edge, gap: Edge, hungry: int) -> Iterator[Starved]:
    analysis = view.analysis
    others = view.live(gap.source) if gap.passes else 0
    leaves = analysis.leaves(analysis.dep(factor.source) & hungry)
    if not others or view.live(factor.source) or len(leaves) != 1 or not is_multiplier(analysis, leaves[0]):
        return
    if not all(step.op in LINEAR | SIGNED for step in view.way_to_loss(node)) or not has_constant(view, gap.source):
        return
    if pushed_up(view, node, factor.source, gap.source) and stopped_sibling(view, node, leaves[0], others) == "factor":
        mask = analysis.bit(leaves[0])
        for event in events_of(analysis, factor, mask):
            if event.op == "stop" or not event.grad_mode:
                yield Starved(view, node, event, mask)
