"""Walks over syntax trees, without the nodes that are mere marks (contexts, operators)."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and every statement, expression and clause below it: owners before their parts, in no other order."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        for name in FIELDS[type(node)]:
            value = getattr(node, name, None)
            if type(value) is list:
                todo += [part for part in value if part is not None] if None in value else value
            elif isinstance(value, ast.AST):
                todo.append(value)


def last_name(expression: ast.expr) -> str:
    """The last part of a dotted name; "" of what is none."""
    return expression.attr if isinstance(expression, ast.Attribute) else getattr(expression, "id", "")


def names_on_self(method: ast.AST) -> set[str]:
    """The attributes of `self` that a method names."""
    return {
        node.attr
        for node in walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }


def read_whole(around: ast.AST, name: str, after: int) -> bool:
    """Is a name read below a line, other than for an entry of what it holds?"""
    entries = {
        node.value for node in walk(around) if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
    }
    return any(
        isinstance(node, ast.Name) and node.id == name and node.lineno > after and node not in entries
        for node in walk(around)
        if not isinstance(node, ast.Name) or isinstance(node.ctx, ast.Load)
    )


def counted_with(function: ast.AST) -> set[str]:
    """The names that `range` is called with: whole numbers."""
    return {
        argument.id
        for node in walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"
        for argument in node.args
        if isinstance(argument, ast.Name)
    }


def parts(node: ast.AST) -> list[ast.AST]:
    """The statements, expressions and clauses directly below a node."""
    found: list[ast.AST] = []
    for name in FIELDS[type(node)]:
        value = getattr(node, name, None)
        if type(value) is list:
            found += [part for part in value if part is not None] if None in value else value
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


MARKS = frozenset({"attr", "arg", "asname", "conversion", "ctx", "id", "is_async", "kind", "kwd_attrs", "level",
                   "module", "op", "ops", "rest", "simple", "type_comment", "type_ignores"})  # fmt: skip
"""Fields that hold no such part."""


class Fields(dict[type[ast.AST], tuple[str, ...]]):
    """The fields of each kind of node that hold its parts, one by one or in a list."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        names = self[kind] = tuple(name for name in kind._fields if name not in MARKS)
        return names


FIELDS = Fields({ast.Constant: (), ast.MatchSingleton: (), ast.Global: (), ast.Nonlocal: ()})
