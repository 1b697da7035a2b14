"""Modules that differentiate nothing themselves: a loss, a quantiser, a layer. Each is judged by its forward pass and
its other public methods, whose arguments are leaves, as a function without a caller is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

from gradaudit.static.attributes import decorators_of
from gradaudit.static.interpreter import Interpreter
from gradaudit.static.syntax import walk
from gradaudit.static.values import ClassValue, Function, Instance, Mapping, Sequence

FORWARD = ("forward", "__call__", "call")
NOT_CALLED = frozenset({"property", "cached_property", "staticmethod", "classmethod", "setter", "abstractmethod"})
MOST_METHODS = 4
COMPARES = re.compile(
    r"loss|entropy|kl_?div|similarity|softmax|logsumexp|square|pow|norm|distance|cdist|detach|stop_?grad|no_grad"
    r"|round|floor|sign|argm|one_?hot|quanti[sz]|commit|ste$|straight|lerp|momentum|requires_grad|^where$|sample|hard"
)
"""Names without which a forward pass compares nothing, rounds nothing and stops nothing: it is not followed."""

Argument = Callable[[ast.arg, ast.expr | None, Function], Any]
"""What stands for an argument: of its declaration, its default and the function."""


def entry_methods(run: Interpreter, cls: ClassValue) -> list[str]:
    """The forward pass of a network class, and what else it computes for whoever calls it."""
    if not run.is_module_class(cls) or not (_compares(cls.node) or _calls_what_compares(run, cls)):
        return []
    methods = {part.name: part for part in cls.node.body if isinstance(part, ast.FunctionDef)}
    forward = [name for name in FORWARD if name in methods][:1]
    used = {name for method in methods.values() for name in _on_self(method) if name != method.name}
    others = [
        name
        for name, method in methods.items()
        if name not in used and name not in FORWARD and not name.startswith("_") and _computes(method)
    ]
    return forward + others[:MOST_METHODS]


def follow(run: Interpreter, instance: Instance, name: str, argument: Argument) -> list[Any]:
    """Calls a method with leaves for its arguments; the parts of what it returns."""
    assert instance.cls is not None
    method, owner = run.member(instance.cls, name)
    if not isinstance(method, Function):
        return []
    bound = method.bind(instance, owner)
    spec = method.node.args
    everyone = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(everyone) - len(spec.defaults)) + list(spec.defaults)
    parameters, defaults = everyone[1:], defaults[1:]
    declared = [*zip(parameters, defaults, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    keywords = {parameter.arg: argument(parameter, default, bound) for parameter, default in declared}
    for _ in range(2 if _writes_itself(instance.cls) else 1):  # what one call leaves in the module, the next one reads
        run.line_node = method.node
        result = run.settle(run.call_module(instance, [], keywords, name))
    if isinstance(result, Sequence):
        return list(result.items)
    return list(result.entries.values()) if isinstance(result, Mapping) else [result]


def _compares(statement: ast.AST) -> bool:
    """Whether the text names anything that our rules speak of."""
    for node in walk(statement):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if COMPARES.search(name):
                return True
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return True
    return False


def _calls_what_compares(run: Interpreter, cls: ClassValue) -> bool:
    """Whether a function of the project that the class calls by its name does: `D(p, z)`."""
    names = {getattr(node.func, "id", "") for node in walk(cls.node) if isinstance(node, ast.Call)}
    for name in sorted(names & cls.module.bound.keys()):
        statement, alias = cls.module.bound[name][-1]
        if alias is None and not isinstance(statement, ast.FunctionDef):
            continue
        function = run.module_name(cls.module, name)
        if isinstance(function, Function) and _compares(function.node):
            return True
    return False


def _computes(method: ast.FunctionDef) -> bool:
    """Has it arguments and arithmetic, or does it write into an attribute?"""
    if not method.args.args[1:] or decorators_of(method) & NOT_CALLED:
        return False
    return any(
        isinstance(node, ast.BinOp) or isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        for node in walk(method)
    )


def _on_self(method: ast.FunctionDef) -> set[str]:
    return {
        node.attr
        for node in walk(method)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"
    }


def _writes_itself(cls: ClassValue) -> bool:
    """Does a method other than the constructor assign an attribute?"""
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"
        for method in cls.node.body
        if isinstance(method, ast.FunctionDef) and method.name not in ("__init__", "setup")
        for node in walk(method)
    )
