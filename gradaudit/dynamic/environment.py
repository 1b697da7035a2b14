"""What a run's own environment answers, by the text that takes the answer.

A reward that the program computes looks like any other value of a run, and one that is a Python number like a constant
of the loss. The text tells both: `obs, reward, done, info = env.step(action)` and what that `step` returns there; a
number that is read at a place which changes from round to round (`rewards[i]`, the variable of a loop).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple

from gradaudit.dynamic.arguments import span, span_of
from gradaudit.dynamic.lines import Span, parsed
from gradaudit.tape import Leaf, Node, Tape

SUMS = (ast.Add, ast.Sub)
ANSWERS = (4, 5)
"""How many values `step` gives: with one flag for the end of an episode, or with two."""


def mark(tape: Tape) -> None:
    """Mark the rewards among the values of a run, and make data of the numbers that are data."""
    for node in tape.nodes:
        if _is_reward(node):
            node.marks |= {"reward"}
        elif node.op in ("add", "sub") and any(edge.source.op == "const" for edge in node.inputs):
            _numbers(node)


def _is_reward(node: Node) -> bool:
    """Whether the value is the second one that an environment's `step` returns."""
    place, call = node.location, node.call
    while call is not None:
        if call.function == "step" and place.line:
            answered = span(call.location) in _taken(call.location.path)
            return answered and span(place) in _rewards(place.path)
        place, call = call.location, call.parent
    return False


def _numbers(node: Node) -> None:
    """The constant operand of a sum that its text reads at a changing place. A run does not tell `1.0 + x` from
    `x + 1.0`: the constant is what the other operand is not."""
    sides = _read(node.location.path).get(span(node.location)) if node.location.line else None
    if sides is None or len(node.inputs) != 2:
        return
    for edge, beside in (node.inputs, node.inputs[::-1]):
        number = edge.source
        if number.op != "const" or number.leaf is not None:
            continue
        for side, other in (sides, sides[::-1]):
            if side.changing and other.makes(beside.source):
                number.op, number.leaf = "leaf", Leaf("input", side.text)
                return


class Operand(NamedTuple):
    """One side of a sum in the text. `changing`: what it reads changes from round to round."""

    where: Span
    text: str
    changing: bool

    def makes(self, node: Node) -> bool:
        """Whether the value is computed in this text, or has its name."""
        line, column, end_line, end_column = span(node.location)
        inside = self.where[:2] <= (line, column) and (end_line, end_column) <= self.where[2:]
        return inside or node.name == self.text


@functools.lru_cache(maxsize=256)
def _taken(path: str) -> frozenset[Span]:
    """The calls whose result is unpacked like an environment's answer."""
    return frozenset(
        span_of(one.value)
        for one in ast.walk(parsed(path))
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Call)
        if any(isinstance(target, ast.Tuple) and len(target.elts) in ANSWERS for target in one.targets)
    )


@functools.lru_cache(maxsize=256)
def _rewards(path: str) -> frozenset[Span]:
    """What `step` functions return as the reward: the expression, or what its name is given."""
    found: set[Span] = set()
    for function in ast.walk(parsed(path)):
        if isinstance(function, ast.FunctionDef) and function.name == "step":
            for value in _second(function):
                found.add(span_of(value))
                if isinstance(value, ast.Name):
                    found.update(_given(function, value.id))
    return frozenset(found)


def _second(function: ast.FunctionDef) -> Iterator[ast.expr]:
    for one in ast.walk(function):
        if isinstance(one, ast.Return) and isinstance(one.value, ast.Tuple) and len(one.value.elts) in ANSWERS:
            yield one.value.elts[1]


def _given(function: ast.FunctionDef, name: str) -> Iterator[Span]:
    for one in ast.walk(function):
        if isinstance(one, ast.Assign) and any(isinstance(each, ast.Name) and each.id == name for each in one.targets):
            yield span_of(one.value)


@functools.lru_cache(maxsize=256)
def _read(path: str) -> dict[Span, tuple[Operand, Operand]]:
    """The sums of a file, with both of their operands."""
    tree = parsed(path)
    loops = [one.target for one in ast.walk(tree) if isinstance(one, ast.For | ast.comprehension)]
    rounds = {one.id for target in loops for one in ast.walk(target) if isinstance(one, ast.Name)}
    return {
        span_of(one): (_operand(one.left, rounds), _operand(one.right, rounds))
        for one in ast.walk(tree)
        if isinstance(one, ast.BinOp) and isinstance(one.op, SUMS)
    }


def _operand(value: ast.expr, rounds: set[str]) -> Operand:
    """`rounds`: the variables of loops."""
    root = value
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    counted = isinstance(value, ast.Subscript) and not isinstance(value.slice, ast.Constant)
    changing = counted or (isinstance(root, ast.Name) and root.id in rounds)
    return Operand(span_of(value), ast.unparse(value), changing)
