"""Factors that are nothing but a gradient: `1 - exp(x - stop(x))` is zero, and so is what comes to the other factor.

DiCE's baseline: `(1 - magic_box(log_probs)) * values` lowers the variance of a policy's gradient and trains no values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES, behind

if TYPE_CHECKING:
    from gradaudit.paths import Analysis
    from gradaudit.tape import Node


def is_nothing(analysis: Analysis, node: Node) -> bool:
    """One less one, the second one as an exponential of what cancels."""
    sides = [behind(side, SHAPES, 6) for side in behind(node, SHAPES, 6).arguments()]
    if behind(node, SHAPES, 6).op != "sub" or len(sides) != 2:
        return False
    ones = [constant(side) == 1.0 or side.op == "exp" and _cancels(analysis, side.inputs[0].source) for side in sides]
    return all(ones)


def _cancels(analysis: Analysis, node: Node) -> bool:
    form = analysis.algebra.lin(node)
    return not form.forward() and form.constant == 0.0
