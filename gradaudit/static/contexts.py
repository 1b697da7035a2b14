"""`with`: gradient modes, objects with `__enter__` and `__exit__`, and the project's own generators.

A generator that is a context manager is run around the block: what stands before its `yield`, the block, what stands
after it. That is how gradient is switched off in a block, parameters are frozen meanwhile, and an optimizer clears
before and steps after.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence as Items
from typing import Any

from gradaudit.static.attributes import decorators_of
from gradaudit.static.joins import GOES_ON
from gradaudit.static.machine import Machine
from gradaudit.static.state import Scope
from gradaudit.static.syntax import walk
from gradaudit.static.values import NONE, External, Function, GradMode, Instance, Managed, Sequence
from gradaudit.tape import ALWAYS

MANAGERS = frozenset({"contextmanager", "asynccontextmanager"})
OFF = ("no_grad", "inference_mode")


class Contexts(Machine):
    managing: ast.expr | None = None
    """The expression that is being evaluated to be entered."""

    def enter(self, statement: ast.With | ast.AsyncWith, scope: Scope) -> str:
        return self._within(statement.items, statement.body, scope)

    def _within(self, items: Items[ast.withitem], body: list[ast.stmt], scope: Scope) -> str:
        if not items:
            return self.block(body, scope)
        item, rest = items[0], items[1:]
        outer, self.managing = self.managing, item.context_expr
        value = self.value(item.context_expr, scope)
        self.managing = outer
        if isinstance(value, Managed):
            return self._around(value, item, rest, body, scope)
        saved = self.grad_on, self.grad_guard
        entered = self._entered(value)
        if item.optional_vars is not None:
            self.assign(item.optional_vars, entered, scope)
        ending = self._within(rest, body, scope)
        self._leave(value)
        self.grad_on, self.grad_guard = saved
        return ending

    def managed(self, function: Function, scope: Scope) -> Managed | None:
        """A call, its arguments bound, that is to run around a block."""
        if self.managing is None or self.managing is not self.line_node or not _runs_around(function.node):
            return None
        return Managed(function, scope)

    def _around(
        self, manager: Managed, item: ast.withitem, rest: Items[ast.withitem], body: list[ast.stmt], scope: Scope
    ) -> str:
        ending = GOES_ON
        here = self.file, self.function, self.call_site, self.frame, self.line_node

        def block(given: Any) -> None:
            nonlocal ending
            there = self.file, self.function, self.call_site, self.frame, self.line_node
            running = self.stack.pop()
            self.file, self.function, self.call_site, self.frame, self.line_node = here
            try:
                if item.optional_vars is not None:
                    self.assign(item.optional_vars, given, scope)
                ending = self._within(rest, body, scope)
            finally:
                self.stack.append(running)
                self.file, self.function, self.call_site, self.frame, self.line_node = there

        manager.scope.around = block
        self.run_function(manager.function, manager.scope)
        return ending

    def _entered(self, value: Any) -> Any:
        if isinstance(value, GradMode):
            if value.condition is None:
                self.grad_on, self.grad_guard = value.mode == "on", ALWAYS
            else:
                self.switch_grad(value)
            return NONE
        if isinstance(value, External) and value.tail in OFF:
            self.grad_on, self.grad_guard = False, ALWAYS
            return NONE
        if isinstance(value, Instance) and value.cls is not None:
            method, owner = self.member(value.cls, "__enter__")
            if isinstance(method, Function):
                return self.call_function(method.bind(value, owner), [], {})
        if isinstance(value, Sequence) and value.kind == "generator":
            return self.element(value)
        return value

    def _leave(self, value: Any) -> None:
        if isinstance(value, Instance) and value.cls is not None:
            method, owner = self.member(value.cls, "__exit__")
            if isinstance(method, Function):
                self.call_function(method.bind(value, owner), [NONE, NONE, NONE], {})

    def switch_grad(self, mode: GradMode) -> None:
        if mode.condition is not None:
            truth, when_true, _ = self.condition_of(mode.condition)
            if truth is None:
                self.grad_on, self.grad_guard = True, when_true
                return
            mode = GradMode("on" if truth else "off")
        elif mode.mode == "off-block":
            return  # a bare `torch.no_grad()` does nothing
        self.grad_on, self.grad_guard = mode.mode == "on", ALWAYS


def _runs_around(node: ast.AST) -> bool:
    """A context manager's generator with one `yield`, which no branch and no loop may leave out."""
    if not decorators_of(node) & MANAGERS:
        return False
    known: bool | None = getattr(node, "_runs_around", None)
    if known is None:
        yields = sum(isinstance(part, (ast.Yield, ast.YieldFrom)) for part in walk(node))
        known = yields == 1 and _comes_to_yield(getattr(node, "body", []))
        node._runs_around = known  # type: ignore[attr-defined]
    return known


def _comes_to_yield(body: list[ast.stmt]) -> bool:
    for statement in body:
        if isinstance(statement, (ast.With, ast.AsyncWith, ast.Try)) and _comes_to_yield(statement.body):
            return True
        value = getattr(statement, "value", None) if isinstance(statement, (ast.Expr, ast.Assign)) else None
        if isinstance(value, ast.Yield):
            return True
    return False
