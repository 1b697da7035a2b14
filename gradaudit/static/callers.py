"""What the project passes for a flag of a function: the constants at its call sites, in the files that mention it.

Only flags that speak of gradient are looked up, and only when a function is judged without a caller.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator

from gradaudit.static.files import Files

ABOUT_GRADIENT = re.compile(r"stop|detach|grad|freeze|frozen|backprop|(^|_)sg($|_)", re.IGNORECASE)
MENTION = re.compile(r"(?<!def )(?<!class )\b([A-Za-z_]\w*)\s*[(,)\n]")
TEST = re.compile(r"(^|_)tests?(_|$)")
MOST_FILES = 60
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Callers:
    """Call sites by the name of what is called, over the files of one project."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._mentions: dict[str, dict[str, list[str]]] = {}
        self._trees: dict[str, ast.Module | None] = {}

    def passed(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, flag: str, default: object, file: str
    ) -> tuple[object, ...]:
        """What each call gives for `flag`: a constant, its default, or Ellipsis where that is not known."""
        if not ABOUT_GRADIENT.search(flag):
            return ()
        parameters = [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]
        position = parameters.index(flag) if flag in parameters else len(parameters) + 1000
        found: list[object] = []
        for caller in self._files(function.name, file)[:MOST_FILES]:
            for call in self._uses(caller, function.name, file):
                found.append(_value(call, flag, position, default))
        return tuple(found)

    def internal(self, name: str, file: str, seen: frozenset[str] = frozenset()) -> bool:
        """Whether another file uses the function, by way of its neighbours too, and no package offers it to others."""
        users = self._files(name, file)
        if any(os.path.basename(path) == "__init__.py" for path in users):
            return False
        if any(path != file and self._uses(path, name, file) for path in users[:MOST_FILES]):
            return True
        tree = self._tree(file) if users and len(seen) < 8 else None
        neighbours = [
            statement.name
            for statement in (tree.body if tree is not None else ())
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and statement.name not in seen | {name}
            if any(True for _ in _uses(statement, name, ""))
        ]
        return any(self.internal(neighbour, file, seen | {name}) for neighbour in neighbours)

    def _uses(self, path: str, name: str, file: str) -> list[ast.expr]:
        """The uses in `path` of what `file` defines as `name`: by its name if it is imported, else by its module's."""
        tree = self._tree(path)
        stem = os.path.basename(file).removesuffix(".py")
        if tree is None:
            return []
        imported = path == file or any(
            isinstance(node, ast.ImportFrom)
            and (node.module or "").rsplit(".", 1)[-1] == stem
            and any(alias.name == name for alias in node.names)
            for node in ast.walk(tree)
        )
        if path == file:  # what a script does at its end is an example, no caller
            inside = [statement for statement in tree.body if isinstance(statement, DEFINITIONS)]
            return [use for statement in inside for use in _uses(statement, name, stem)]
        return [use for use in _uses(tree, name, stem) if imported or not _is_bare(use)]

    def _files(self, name: str, file: str) -> list[str]:
        root = self.files.project(file)
        if root not in self._mentions:
            mentions: dict[str, list[str]] = {}
            for path in self.files.python_files(root):
                if TEST.search(os.path.basename(path).removesuffix(".py")):
                    continue
                for word in set(MENTION.findall(self.files.text(path) or "")):
                    mentions.setdefault(word, []).append(path)
            self._mentions[root] = mentions
        return self._mentions[root].get(name, [])

    def _tree(self, file: str) -> ast.Module | None:
        if file not in self._trees:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._trees[file] = ast.parse(self.files.text(file) or "")
            except (SyntaxError, ValueError, RecursionError):
                self._trees[file] = None
        return self._trees[file]


def _uses(tree: ast.AST, name: str, module: str) -> Iterator[ast.expr]:
    """The calls of `name` or `module.name`, and where it is handed on (`vmap(name)`)."""
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is(node.func, name, module):
            called.add(node.func)
            yield node
        elif isinstance(node, (ast.Name, ast.Attribute)) and node not in called and _is(node, name, module):
            yield node


def _is(node: ast.expr, name: str, module: str) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == name and _tail(node.value) == module
    return isinstance(node, ast.Name) and node.id == name


def _is_bare(use: ast.expr) -> bool:
    return isinstance(use.func if isinstance(use, ast.Call) else use, ast.Name)


def _tail(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _value(use: ast.expr, flag: str, position: int, default: object) -> object:
    if not isinstance(use, ast.Call):
        return default
    if any(isinstance(part, ast.Starred) for part in use.args) or any(word.arg is None for word in use.keywords):
        return ...
    given = next((word.value for word in use.keywords if word.arg == flag), None)
    if given is None and position < len(use.args):
        given = use.args[position]
    if given is None:
        return default
    return given.value if isinstance(given, ast.Constant) else ...
