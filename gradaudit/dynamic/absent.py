"""A loss that a module does not have: where its text has one all the same, and what to do about it."""

from __future__ import annotations

import ast
from types import ModuleType

from gradaudit.dynamic.branches import is_main_guard
from gradaudit.dynamic.lines import parsed
from gradaudit.dynamic.module_text import called

DIFFERENTIATES = frozenset(("backward", "grad", "value_and_grad"))


def advice(module: ModuleType, name: str) -> str:
    """What to do about a function of another function, or a script that has its update outside of all; "" otherwise."""
    file = getattr(module, "__file__", None)
    tree = parsed(file) if file else ast.Module([], [])
    for outer in tree.body:
        inner = _function_in(outer, name)
        if inner is not None and isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            return (
                f"it is defined inside `{outer.name}` (line {inner.lineno}), out of reach: name `{outer.name}`, which "
                "is audited at each loss that it differentiates, or move the loss out of it"
            )
        if inner is not None and isinstance(outer, ast.If):
            return f"it is defined under an `if` that an import does not enter (line {inner.lineno}): move it out"
    script = next((outer for outer in tree.body if is_main_guard(outer)), None)
    if script is not None and _differentiates(script):
        return (
            f"its update stands under `if __name__ == ...` (line {script.lineno}), which an import does not run: move "
            "it into a function and name that one, it is audited at each loss that it differentiates"
        )
    return ""


def _function_in(outer: ast.stmt, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    if isinstance(outer, ast.ClassDef):
        return None
    for node in ast.walk(outer):
        if node is not outer and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node
    return None


def _differentiates(block: ast.AST) -> bool:
    return any(called(node) in DIFFERENTIATES for node in ast.walk(block))
