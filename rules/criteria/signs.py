"""With which sign a value is a summand of its loss: what is raised, and what is lowered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SUMS

if TYPE_CHECKING:
    from gradaudit.paths import View
    from gradaudit.tape import Edge, Node

SUMMED = SUMS | {"stack", "cat", "phi"}


def signs(view: View, node: Node) -> set[int]:
    """The signs with which a value enters the loss as a summand; 0 where it is a factor of something else."""
    found: set[int] = set()
    waiting = [(node, 1)]
    seen = set(waiting)
    while waiting:
        current, sign = waiting.pop()
        if current is view.sink.loss:
            found.add(sign)
        for user, edge in view.consumers(current):
            step = (user, sign * _sign(user, edge))
            if not step[1]:
                found.add(0)
            elif step not in seen:
                seen.add(step)
                waiting.append(step)
    return found


def _sign(user: Node, edge: Edge) -> int:
    if user.op == "neg" or user.op == "sub" and edge is not user.inputs[0]:
        return -1
    if user.op in ("mul", "div"):
        others = [each.source for each in user.inputs if each is not edge]
        known = [constant(other) for other in others if other.op == "const"]
        if len(known) < len(others):
            return 0
        return -1 if any(value is not None and value < 0 for value in known) else 1
    return 1 if user.op in SUMMED else 0
