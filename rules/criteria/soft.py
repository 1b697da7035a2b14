"""The entropy bonus of a soft value: `r + g * (q' - alpha * log_pi)` in which only the temperature carries gradient.

The value of the next state is a constant already (another tree of parameters, a frozen network): that the network which
predicts computed it is what makes the sum a bootstrap target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import Sum

if TYPE_CHECKING:
    from gradaudit.tape import Node

LAYERS = frozenset({"module_call", "matmul", "linear", "conv", "einsum"})
MOST = 200


def is_soft_backup(total: Sum, against: Sum, signs: set[int]) -> bool:
    """Is a frozen value, of the network that predicts, in one sum with a reward of its sign and a live multiplier?"""
    frozen = [atom.node for atom in total.atoms if atom.raw and atom.factor and atom.sign in signs]
    live = total.network()
    if not frozen or not live or any(_layers(atom.node) for atom in live):
        return False
    predicting = {layer for atom in against.network() for layer in _layers(atom.node)}
    return any(_layers(node) & predicting for node in frozen)


def _layers(value: Node) -> set[object]:
    """What computes a value: the networks that are called, or the lines of its layers where these are written out."""
    found: set[object] = set()
    seen, waiting = {value}, [value]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node.op in LAYERS:
            called = node.op == "module_call" and node.frame is not None
            found.add(id(node.frame.network) if called and node.frame else (node.location.path, node.location.line))
        for edge in node.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found
