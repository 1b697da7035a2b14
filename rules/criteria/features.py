"""K6: features of a network that nobody trains, before a head that is trained: a probe whose backbone must be frozen.

The optimizers are all known and hold nothing of the network, and its output is what a trained layer is called with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.foreign import Foreign
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import PARAMETER, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


def is_backbone(flow: Foreign) -> bool:
    """Are the flow's leaves the weights of a network that no optimizer holds any of, and its output a head's input?"""
    view, analysis = flow.view, flow.view.analysis
    facts = roles(analysis)
    if flow.held or not view.own or not facts.complete or not analysis.tape.optimizers:
        return False
    leaves = analysis.leaves(flow.leaves)
    if any(leaf.leaf is None or leaf.leaf.owner is None or facts.is_copy(leaf) for leaf in leaves):
        return False
    return _is_weight(view, leaves) and _enters_own_layer(view, flow) and not _partly_held(analysis, leaves)


def _is_weight(view: View, leaves: list[Node]) -> bool:
    return all(any(edge.kind == PARAMETER for _, edge in view.consumers(leaf)) for leaf in leaves)


def _enters_own_layer(view: View, flow: Foreign) -> bool:
    """Is it a layer that the loss trains which takes the value?"""
    joint = flow.joint
    return joint.op == "module_call" and any(
        edge.kind == PARAMETER and view.analysis.bit(edge.source) & (view.own or 0) for edge in joint.inputs
    )


def _partly_held(analysis: Analysis, leaves: list[Node]) -> bool:
    """Does an optimizer hold another part of the network: is it fine-tuned in part, or not all of it seen?"""
    facts = roles(analysis)
    held = {network for leaf in facts.held for network in _owners(leaf)}
    return all(any(network in held for network in _owners(leaf)[:1]) for leaf in leaves) or any(
        leaf in facts.held for leaf in leaves
    )


def _owners(leaf: Node) -> list[Network]:
    return list(leaf.leaf.owner.chain()) if leaf.leaf is not None and leaf.leaf.owner is not None else []
