"""K8: the dual of a temperature that MPO and its kin learn: `eta * (epsilon + mean(logsumexp(q / eta)))`.

The temperature is outside of the logarithm and inside, and is there to be trained: the values that it weighs are
constants. Where the values have no other teacher (the dual of REPS, which is minimised in both), they are meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 60
SCALED = frozenset({"div", "mul"})
WAY = SHAPES | {"add", "sub", "mean", "sum", "cast", "stack", "logsumexp", "log", "exp", "clamp"}


def is_soft_dual(view: View, node: Node, multiplier: Node, term: Node, others: int) -> bool:
    """Is `node`, the product of the multiplier and `term`, such a dual, of values that are trained in another way?"""
    if not _is_soft_value(view, multiplier, term, others):
        return False
    return _reaches_loss_beside(view, node, others) or _trained_elsewhere(view, others)


def _is_soft_value(view: View, multiplier: Node, term: Node, others: int) -> bool:
    """Is it the logarithm of a sum of exponentials of the values, divided by the multiplier itself?"""
    seen, waiting, logarithm = {term}, [term], False
    while waiting and len(seen) < MOST:
        current = waiting.pop()
        logarithm = logarithm or current.op in ("logsumexp", "log")
        live = [edge.source for edge in current.inputs if edge.passes and view.live(edge.source)]
        if current.op in SCALED and len(live) == 2:
            scale = view.analysis.bit(multiplier)
            sides = [view.live(source) for source in live]
            return logarithm and any(one == scale and other & others for one, other in (sides, sides[::-1]))
        fresh = [source for source in live if source not in seen] if current.op in WAY or current.op in SCALED else []
        seen.update(fresh)
        waiting += fresh
    return False


def _reaches_loss_beside(view: View, node: Node, leaves: int) -> bool:
    """Does this loss train any of the leaves in another way than by `node`?"""
    seen = set(view.analysis.leaves(leaves))
    waiting = list(seen)
    while waiting:
        current = waiting.pop()
        if current is view.sink.loss:
            return True
        fresh = [user for user, _ in view.consumers(current) if user not in seen and user is not node]
        seen.update(fresh)
        waiting += fresh
    return False


def _trained_elsewhere(view: View, leaves: int) -> bool:
    mine = _trees(view.analysis, leaves)
    views = (other for other in view.analysis.every_view if other is not view and other.sink.kind != "library")
    return any(mine & _trees(view.analysis, other.live(other.sink.loss)) for other in views)


def _trees(analysis: Analysis, leaves: int) -> set[Node]:
    """The parameters, or the trees of them that were passed for the arguments of a loss in JAX."""
    versions = roles(analysis).versions
    return {versions.get(leaf, leaf) for leaf in analysis.leaves(leaves)}
