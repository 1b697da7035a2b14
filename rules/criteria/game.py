"""Two losses that are one value with opposite signs: both sides of a game feel it, each has its own optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradaudit.paths import View
    from gradaudit.tape import Node

SIGNED = frozenset({"neg", "mean", "sum", "reshape", "identity"})


def opposed(view: View) -> int:
    """What other losses train that are this very value with the other sign."""
    sign, value = _signed(view.sink.loss)
    found = 0
    for other in view.analysis.every_view:
        if other is not view and other.own:
            its_sign, its_value = _signed(other.sink.loss)
            found |= other.own if its_sign != sign and _is_same(value, its_value) else 0
    return found & ~(view.own or 0)


def _signed(loss: Node) -> tuple[int, Node]:
    """A loss without its sign, which is told beside it."""
    sign, node = 1, loss
    for _ in range(8):
        ways = [edge.source for edge in node.inputs]
        joined = node.op == "phi" and ways and all(_is_same(ways[0], way) for way in ways)
        if not joined and (node.op not in SIGNED or len(ways) != 1):
            break
        sign, node = -sign if node.op == "neg" else sign, ways[0]
    return sign, node


def _is_same(value: Node, other: Node) -> bool:
    """One value, or what one expression of the text computes at two times."""
    return value is other or (value.op, value.location) == (other.op, other.location)
