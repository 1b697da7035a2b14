"""Methods that gather experience for an update which somebody else calls (`act`, `collect`): they are no part of the
update, and what they leave in the object, or return for it, is what the update learns from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradaudit.static.syntax import names_on_self, walk

if TYPE_CHECKING:
    from gradaudit.static.callers import Callers

NOT_FOR_TRAINING = re.compile(r"^_*(eval|test|predict|save|load|plot|render|close|log|print|summar|play|demo|__)")
WITHOUT_GRADIENT = re.compile(r"\b(no_grad|inference_mode|set_grad_enabled)\b")


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods of a class and its bases, and which of each other they name."""

    nodes: dict[str, list[ast.AST]]
    refers: dict[str, set[str]]

    def reached(self, names: Iterable[str]) -> set[str]:
        """These methods and all that they lead to."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.refers.get(name, ())
        return found

    def text(self, names: Iterable[str]) -> list[ast.AST]:
        return [node for name in names for node in self.nodes.get(name, ())]


def collectors(methods: Methods, roots: list[str], callers: Callers, file: str) -> list[str]:
    """The methods that run a network of the update's and leave what they got to the update, first come first."""
    inside = methods.reached(roots)
    known = inside | methods.reached(["__init__"])  # what sets the object up is no experience
    used = {name for node in methods.text(inside) for name in names_on_self(node)}
    given = {argument.arg for root in roots for node in methods.nodes[root] for argument in _arguments(node)}
    found = []
    for name in methods.nodes:
        if name in known or NOT_FOR_TRAINING.search(name):
            continue
        mine = methods.text(methods.reached([name]) - inside)
        asked = {attribute for node in mine for attribute in _called(node)} & used
        left = {attribute for node in mine for attribute in _written(node)} & used
        handed = given.intersection(*[returned(node) for node in methods.nodes[name][:1]])
        if handed and asked or any(asked - {attribute} for attribute in left):
            found.append(name)
    outer = [name for name in found if not any(name in methods.refers[other] for other in found if other != name)]
    return [name for name in outer if not _asked_without_gradient(callers, name, file)]


def given_later(methods: Methods, roots: list[str]) -> dict[str, tuple[str, ast.expr | None]]:
    """The attributes that a method which the update does not call is there to set, to what it is given: the method, and
    how it declares what it is given."""
    known = methods.reached(roots) | methods.reached(["__init__"])
    found: dict[str, tuple[str, ast.expr | None]] = {}
    for name, nodes in methods.nodes.items():
        for node in nodes[:1] if name not in known else ():
            given = {argument.arg: argument.annotation for argument in _arguments(node)}
            for statement in walk(node):
                if isinstance(statement, ast.Assign) and (value := getattr(statement.value, "id", "")) in given:
                    for attribute in filter(None, map(_attribute, statement.targets)):
                        found.setdefault(attribute, (name, given[value]))
    return found


def returned(method: ast.AST) -> tuple[str, ...]:
    """The names of what a method returns at its end: `return batch, statistics`."""
    last = next((part for part in reversed(getattr(method, "body", ())) if isinstance(part, ast.Return)), None)
    value = last.value if last is not None else None
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return tuple(part.id if isinstance(part, ast.Name) else "" for part in parts)


def _arguments(method: ast.AST) -> list[ast.arg]:
    return method.args.args[1:] if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) else []


def _attribute(node: ast.AST) -> str:
    """The attribute of `self` that an expression is about: `memory` of `self.memory.states[0]`."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            return node.attr
        node = node.value
    return ""


def _called(method: ast.AST) -> set[str]:
    """`self.policy(...)`, `self.policy.sample(...)`"""
    return {_attribute(node.func) for node in walk(method) if isinstance(node, ast.Call)} - {""}


def _written(method: ast.AST) -> set[str]:
    """`self.memory.append(x)`, `self.values[t] = v`, `self.hidden = h`"""
    found = set()
    for node in walk(method):
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
            found.add(_attribute(node.func.value))
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Constant):
            for target in node.targets:
                found.update(_attribute(part) for part in getattr(target, "elts", [target]))
    return found - {""}


def _asked_without_gradient(callers: Callers, name: str, file: str) -> bool:
    """Does whoever calls it switch gradient off?"""
    for path in callers.files_with(name, file):
        tree = callers.files.tree(path) if WITHOUT_GRADIENT.search(callers.files.peek(path) or "") else None
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, (ast.With, ast.AsyncWith)):
                modes: list[ast.expr] = [item.context_expr for item in node.items]
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                modes = node.decorator_list
            else:
                continue
            if any(WITHOUT_GRADIENT.search(ast.unparse(mode)) for mode in modes) and _calls(node, name):
                return True
    return False


def _calls(node: ast.AST, name: str) -> bool:
    return any(
        isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == name
        for part in walk(node)
    )
