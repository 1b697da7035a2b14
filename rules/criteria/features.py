"""K6: features of a network that nobody trains, before a head that is trained: a probe whose backbone must be frozen.

The optimizers are all known and hold nothing of the network, and its output is what a trained layer is called with.
That nobody means to train it is told by its evaluation mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.foreign import Foreign
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import PARAMETER, Node

if TYPE_CHECKING:
    from gradaudit.paths import View


def is_backbone(flow: Foreign) -> bool:
    """Are the flow's leaves the weights of a network that no optimizer holds any of, and its output a head's input?"""
    view, analysis = flow.view, flow.view.analysis
    facts = roles(analysis)
    if flow.held or not view.own or not facts.complete or not analysis.tape.optimizers:
        return False
    if any(leaf.leaf is None or leaf.leaf.owner is None for leaf in facts.held):
        return False  # something of unknown origin is trained: it may be a part of the network
    leaves = analysis.leaves(flow.leaves)
    if any(leaf.leaf is None or leaf.leaf.owner is None or facts.is_copy(leaf) for leaf in leaves):
        return False
    if not _is_weight(view, leaves) or not _enters_own_layer(view, flow):
        return False
    return all(leaf in facts.evaluated for leaf in leaves)


def _is_weight(view: View, leaves: list[Node]) -> bool:
    return all(any(edge.kind == PARAMETER for _, edge in view.consumers(leaf)) for leaf in leaves)


def _enters_own_layer(view: View, flow: Foreign) -> bool:
    """Is it a layer that the loss trains which takes the value?"""
    joint = flow.joint
    return joint.op == "module_call" and any(
        edge.kind == PARAMETER and view.analysis.bit(edge.source) & (view.own or 0) for edge in joint.inputs
    )
