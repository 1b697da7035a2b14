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
        todo += parts(node)


def parts(node: ast.AST) -> list[ast.AST]:
    """The statements, expressions and clauses directly below a node."""
    kind = type(node)
    names = FIELDS.get(kind)
    if names is None:
        names = FIELDS[kind] = tuple(name for name in kind._fields if name not in MARKS)
    found: list[ast.AST] = []
    for name in names:
        value = getattr(node, name, None)
        if type(value) is list:
            found += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


MARKS = frozenset({"attr", "arg", "conversion", "ctx", "id", "is_async", "kind", "level", "op", "ops", "simple",
                   "type_comment", "type_ignores"})  # fmt: skip
"""Fields that hold no such part."""

FIELDS: dict[type[ast.AST], tuple[str, ...]] = {ast.Constant: ()}
