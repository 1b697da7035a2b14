"""A divergence written out: one expression that compares several values, each with its own stopped copy. Where one of
them is compared with itself instead, a stop was lost: `x - x` in such company is no accident of how parts are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import View

ARITHMETIC = SHAPES | {"add", "sub", "mul", "div", "pow", "square", "neg", "sum", "mean", "exp", "log"}
MOST = 80


def beside_stopped(view: View, node: Node) -> bool:
    """Does the expression that `node` is part of compare another value with its own stopped copy?"""
    whole = _whole(view, node)
    seen, waiting = {whole}, [whole]
    while waiting and len(seen) < MOST:
        part = waiting.pop()
        if part is not node and part.op == "sub" and _own_copy(view, part):
            return True
        for source in part.arguments() if part.op in ARITHMETIC else ():
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _whole(view: View, node: Node) -> Node:
    """The expression, in the same function, that all of this is computed for."""
    for _ in range(16):
        users = [user for user, _ in view.consumers(node) if user.op in ARITHMETIC and user.call is node.call]
        if len(users) != 1:
            break
        node = users[0]
    return node


def _own_copy(view: View, node: Node) -> bool:
    """`x - stop(x)`, whichever way round: one value, live on one side only."""
    sources = node.arguments()
    if len(sources) != 2 or sources[0] is sources[1]:
        return False
    live = [bool(view.analysis.alive(source)) for source in sources]
    return live[0] != live[1] and view.analysis.algebra.same(*sources)
