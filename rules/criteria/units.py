"""Vectors of length one, however they are brought to it."""

from __future__ import annotations

from itertools import permutations

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES, behind
from gradaudit.tape import Node

AROUND = SHAPES | {"add", "maximum", "clamp"}
"""What keeps a length from zero, and brings it to the vector's shape."""
NEAR = 5


def direction(node: Node) -> Node | None:
    """The vector that is divided by a length, or multiplied by one over it."""
    data = node.arguments()
    if node.op == "normalize" and data:
        return data[0]
    if len(data) != 2:
        return None
    if node.op == "div":
        return data[0] if _is_length(data[1]) else None
    if node.op == "mul":
        return next((vector for vector, scale in permutations(data) if _is_inverse(scale)), None)
    return None


def _is_length(node: Node) -> bool:
    return behind(node, AROUND, NEAR).op in ("norm", "sqrt", "rsqrt") or _is_summed_with(node)


def _is_summed_with(node: Node) -> bool:
    """`eps + length`"""
    bare = behind(node, SHAPES, NEAR)
    return bare.op == "add" and any(behind(one, SHAPES, NEAR).op in ("norm", "sqrt") for one in bare.arguments())


def _is_inverse(node: Node) -> bool:
    bare = behind(node, SHAPES, NEAR)
    data = bare.arguments()
    if bare.op in ("rsqrt", "reciprocal"):
        return bare.op == "rsqrt" or _is_length(data[0])
    if len(data) != 2:
        return False
    if bare.op == "div":
        return constant(data[0]) is not None and _is_length(data[1])
    power = constant(data[1]) if bare.op == "pow" else None
    return power is not None and power < 0 and _is_length(data[0])
