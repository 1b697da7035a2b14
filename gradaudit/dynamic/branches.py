"""Whether a line is run under a condition: what one run shows happens every time, or only sometimes, is in the text."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable

from gradaudit.dynamic.lines import parsed


def in_branch(lines: Iterable[tuple[str, int]]) -> bool:
    """Is one of these places, of a statement and the calls around it, in an `if` of the function that it is in?"""
    return any(line in _conditional(path) for path, line in lines)


@functools.lru_cache(maxsize=256)
def _conditional(path: str) -> frozenset[int]:
    found: set[int] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.If, ast.IfExp, ast.Match)) and not is_main_guard(node):
            found.update(range(node.lineno + 1, (node.end_lineno or node.lineno) + 1))
    return frozenset(found)


def is_main_guard(node: ast.AST) -> bool:
    """`if __name__ == "__main__":`"""
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )
