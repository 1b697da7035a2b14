"""Networks that are handed to a training function of another file, of which the text does not say which one it gets.

`network.apply(params, x, method=network.actor)`: whatever has all that is asked of the argument may stand there. A
class of networks is tried in the functions that ask for its methods, since only there its parts get different losses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.static.syntax import walk
from gradaudit.static.values import ClassValue, Function

if TYPE_CHECKING:
    from gradaudit.static.interpreter import Interpreter

OF_MODULES = frozenset({"apply", "init", "bind", "clone", "replace", "tabulate", "name"})
LEAST = 2  # methods by which a network is known
MOST = 2  # functions that a class is tried in
GRADIENTS = ("grad", "value_and_grad")


def drivers(run: Interpreter, cls: ClassValue) -> list[tuple[Function, str]]:
    """The functions of other files that differentiate, and their argument that the class fits."""
    methods = [name for name, member in _methods(cls) if not name.startswith("_") and name != "setup"]
    if len(methods) < LEAST:
        return []
    found = []
    for file in run.callers.files_with_several(methods, cls.module.file, LEAST):
        module = run.files.module(file) if "method=" in (run.files.peek(file) or "") else None
        if module is None or module.framework != "jax":
            continue
        for statement in module.tree.body:
            if isinstance(statement, ast.FunctionDef):
                for name in _fitting(run, cls, statement):
                    found.append((Function(statement, module, run.module_scope(module)), name))
    return found[:MOST]


def _methods(cls: ClassValue) -> Iterator[tuple[str, ast.FunctionDef]]:
    for statement in cls.node.body:
        if isinstance(statement, ast.FunctionDef):
            yield statement.name, statement


def _fitting(run: Interpreter, cls: ClassValue, function: ast.FunctionDef) -> Iterator[str]:
    names = [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]
    methods: dict[str, set[str]] = {}
    asked: dict[str, set[str]] = {}
    differentiates = False
    for node in walk(function):
        if isinstance(node, ast.keyword) and node.arg == "method" and isinstance(node.value, ast.Attribute):
            methods.setdefault(getattr(node.value.value, "id", ""), set()).add(node.value.attr)
        elif isinstance(node, ast.Attribute):
            differentiates |= node.attr in GRADIENTS
            if isinstance(node.value, ast.Name):
                asked.setdefault(node.value.id, set()).add(node.attr)
    for name in names if differentiates else ():
        wanted = asked.get(name, set()) - OF_MODULES
        if len(methods.get(name, ())) >= LEAST and all(run.member(cls, each)[1] is not None for each in wanted):
            yield name
