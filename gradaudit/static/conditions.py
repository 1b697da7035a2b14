"""Conditions: what is known of their truth, and the literals that hold in either branch.

An unknown that decides a branch becomes a symbol, known by its identity: the same configuration field tested twice is
the same symbol, whatever the variable is called.
"""

from __future__ import annotations

import ast
from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.state import Scope
from gradaudit.static.values import (
    MISSING,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    OptimizerValue,
    Sequence,
    Union,
    Unknown,
)
from gradaudit.tape import ALWAYS, Guard

Condition = tuple[bool | None, Guard, Guard]
OPEN: Condition = (None, ALWAYS, ALWAYS)
NOTHING_RULED_OUT: tuple[frozenset[Any], frozenset[Any]] = (frozenset(), frozenset())


class Conditions(Machine):
    first_arm: int | None = None
    """The arm of the last test that is taken in the first iteration of the loop around it, and in no other one."""

    def test(self, expression: ast.expr, scope: Scope) -> Condition:
        if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.Not):
            truth, when_true, when_false = self.test(expression.operand, scope)
            self.ruled_out = self.ruled_out[::-1]
            self.first_arm = None
            return (None if truth is None else not truth), when_false, when_true
        value = self.value(expression, scope)
        condition = self.condition_of(value)
        self.first_arm = self._first_arm(value) if condition == OPEN else None
        return condition

    def _first_arm(self, value: Any) -> int | None:
        """`i == 0`, `i > 0` of what counts the iterations of the innermost loop."""
        flag = value.flag_of if isinstance(value, Unknown) else None
        if not isinstance(flag, tuple) or flag[0] != "compare" or not self.loops:
            return None
        kind, left, right = flag[1:]
        if left is not self.loops[-1].counter or left is None or not isinstance(right, Const) or right.value != 0:
            return None
        return {"Eq": 0, "NotEq": 1, "Gt": 1}.get(kind)

    def condition_of(self, value: Any) -> Condition:
        self.ruled_out = NOTHING_RULED_OUT
        truth = self.truth(value)
        if truth is not None:
            return truth, ALWAYS, ALWAYS
        if not isinstance(value, Unknown):
            return OPEN
        flag = value.flag_of
        if isinstance(flag, tuple):
            if flag[0] == "not":
                truth, when_true, when_false = self.condition_of(flag[1])
                self.ruled_out = self.ruled_out[::-1]
                return (None if truth is None else not truth), when_false, when_true
            if flag[0] in ("and", "or"):
                return self._compound(flag[0], flag[1])
            if flag[0] == "isinstance":
                self.ruled_out = flag[1], flag[2]
                return OPEN
            if flag[0] == "compare":
                return self._comparison(value, flag[1], flag[2], flag[3])
        if value.call and value.default is MISSING:
            return OPEN
        default = value.default if value.default is not MISSING else None
        return self._literal(
            f"u{value.key}", value.name, bool(default) if isinstance(default, (bool, int)) else None, value
        )

    def _literal(self, key: str, name: str, default: object, value: Unknown) -> Condition:
        assumed = self.assumed.get(key)
        if assumed is not None:
            return assumed, ALWAYS, ALWAYS
        self.symbol(key, name, default, value.parameter)
        return None, frozenset({(key, True)}), frozenset({(key, False)})

    def _comparison(self, value: Unknown, kind: str, left: Any, right: Any) -> Condition:
        if not isinstance(left, Unknown):
            left, right = right, left
        if isinstance(left, Unknown) and left.plain and left.default is MISSING:
            return OPEN
        if not isinstance(left, Unknown) or not isinstance(right, Const) or kind not in ("Eq", "NotEq", "Is", "IsNot"):
            if isinstance(left, Unknown) and isinstance(right, Const):
                return self._literal(f"u{left.key} {kind} {right.value!r}", left.name, None, left)
            return OPEN
        default = None
        if left.default is not MISSING:
            default = left.default == right.value
        key = f"u{left.key} == {right.value!r}"
        others = self._other_texts(left, key) if isinstance(right.value, str) else ()
        truth, when_true, when_false = self._literal(key, left.name, default, left)
        if any(self.assumed.get(other) for other in others):
            truth, when_true, when_false = False, ALWAYS, ALWAYS
        elif truth is None:
            when_true |= frozenset((other, False) for other in others)
        if kind in ("NotEq", "IsNot"):
            return (None if truth is None else not truth), when_false, when_true
        return truth, when_true, when_false

    def _other_texts(self, value: Unknown, key: str) -> list[str]:
        """The symbols that say that it is another text."""
        start = f"u{value.key} == "
        return [other for other in self.symbols if other != key and other.startswith((start + "'", start + '"'))]

    def _compound(self, kind: str, parts: tuple[Any, ...]) -> Condition:
        conditions: list[Condition] = []
        wrong: frozenset[Any] = frozenset()
        for part in parts:
            conditions.append(self.condition_of(part))
            wrong |= self.ruled_out[kind == "or"]
        self.ruled_out = (wrong, frozenset()) if kind == "and" else (frozenset(), wrong)
        truths = [condition[0] for condition in conditions]
        deciding = kind == "or"
        if deciding in truths:
            return deciding, ALWAYS, ALWAYS
        open_ones = [condition for condition in conditions if condition[0] is None]
        if not open_ones:
            return (not deciding), ALWAYS, ALWAYS
        if len(open_ones) == 1:
            return open_ones[0]
        together = [frozenset(literal for _, *arms in open_ones for literal in arms[number]) for number in range(2)]
        key = f"{kind} {sorted(together[kind == 'or'])}"
        if not all(condition[1] and condition[2] for condition in open_ones):
            return (None, together[0], ALWAYS) if kind == "and" else (None, ALWAYS, together[1])
        truth, when_true, when_false = self._literal(key, kind, None, Unknown(kind))
        if truth is not None:
            return truth, ALWAYS, ALWAYS
        return (
            (None, when_true | together[0], when_false)
            if kind == "and"
            else (None, when_true, when_false | together[1])
        )

    def truth(self, value: Any) -> bool | None:
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Unknown):
            assumed = self.assumed.get(f"u{value.key}")
            if assumed is not None:
                return assumed
            if value.instance is not None:
                return True
            return None
        if isinstance(value, Sequence):
            if value.items:
                return True
            return False if value.rest is None and value.kind == "tuple" else None
        if isinstance(value, Mapping):
            return True if value.known() else None
        if isinstance(value, (Instance, Function, ClassValue, OptimizerValue, External)):
            return True
        if isinstance(value, Union):
            answers = {self.truth(part) for part in value.alternatives}
            return answers.pop() if len(answers) == 1 else None
        return None
