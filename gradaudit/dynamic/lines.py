"""From frames of a running program to locations in the user's source, and from locations to the names in it."""

from __future__ import annotations

import ast
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from gradaudit.tape import Call, Location, Network

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STDLIB = sysconfig.get_paths()["stdlib"]
_INSTALLED = re.compile(r"^.*?[/\\](?:site|dist)-packages[/\\]")
"""Where packages are installed, in whichever of the environments that a Python may see at once."""

Span = tuple[int, int, int, int]
Step = tuple[CodeType, int, Network | None]
"""A frame on the stack: its code, the instruction it is at, and the network whose method it is."""


def user_roots(file: str, package: str = "") -> tuple[str, ...]:
    """The directories whose files count as the user's: the loss's package (or folder) and the working directory."""
    folder = os.path.dirname(os.path.abspath(file))
    for _ in range(package.count(".") + (os.path.basename(file) == "__init__.py")):
        folder = os.path.dirname(folder)
    inside = _INSTALLED.match(folder)
    if inside:
        folder = inside[0] + folder[inside.end() :].split(os.sep)[0]
    return (folder, os.getcwd())


class Lines:
    """Where in the user's code are we? Caches by code object; `library` holds prefixes never reported, `network_of`
    says what network an object is."""

    def __init__(
        self,
        roots: tuple[str, ...] = (),
        library: tuple[str, ...] = (),
        network_of: Callable[[Any], Network | None] = lambda value: None,
    ) -> None:
        self._roots = tuple(root.rstrip(os.sep) + os.sep for root in roots)
        self._library = tuple(library)
        self._user: dict[str, bool] = {}
        self._locations: dict[tuple[CodeType, int], Location] = {}
        self._positions: dict[CodeType, list[tuple[int | None, ...]]] = {}
        self._network_of = network_of
        self._calls: dict[tuple[CodeType, int, str, int, int], Call] = {}
        self.nowhere = Location("", 0)

    def is_user(self, filename: str) -> bool:
        known = self._user.get(filename)
        if known is None:
            known = self._user[filename] = self._judge(filename)
        return known

    def _judge(self, filename: str) -> bool:
        if filename.startswith("<") or filename.startswith((_OURS + os.sep, *self._library)):
            return False
        if _INSTALLED.match(filename) or filename.startswith(_STDLIB + os.sep):
            return any(filename.startswith(root) and _INSTALLED.match(root) is not None for root in self._roots)
        return True

    def here(self, depth: int, stop: CodeType | None = None) -> tuple[Location, Call | None]:
        """The innermost user line above `depth` frames, and the chain of user calls around it.

        The walk ends at the frame that runs `stop` (ours, which calls the loss).
        """
        frame: FrameType | None = sys._getframe(depth)
        user = self._user
        chain: list[Step] = []
        while frame is not None:
            code = frame.f_code
            if code is stop:
                break
            known = user.get(code.co_filename)
            if known is None:
                known = self.is_user(code.co_filename)
            if known:
                chain.append((code, frame.f_lasti, self._receiver(frame)))
            frame = frame.f_back
        if not chain:
            return self.nowhere, None
        return self._location(*chain[0][:2]), self._call(chain)

    def variables(self, depth: int, stop: CodeType | None = None) -> list[tuple[str, Any]]:
        """The variables of the user's functions on the stack, those of the outermost one first."""
        frame: FrameType | None = sys._getframe(depth)
        found: list[list[tuple[str, Any]]] = []
        while frame is not None and frame.f_code is not stop:
            if self.is_user(frame.f_code.co_filename):
                found.append([(_kind(one) if name == "self" else name, one) for name, one in frame.f_locals.items()])
            frame = frame.f_back
        return [one for many in reversed(found) for one in many]

    def _receiver(self, frame: FrameType) -> Network | None:
        """The network whose method the frame runs, if it is one."""
        code = frame.f_code
        if not code.co_argcount or code.co_name[0] == "<" or "." not in code.co_qualname:
            return None
        return self._network_of(frame.f_locals.get(code.co_varnames[0]))

    def _call(self, chain: list[Step]) -> Call | None:
        """The chain of calls around the innermost frame: each function with the place it was called from."""
        parent: Call | None = None
        for index in range(len(chain) - 1, 0, -1):
            code, lasti, _ = chain[index]
            callee, _, receiver = chain[index - 1]
            key = (code, lasti, callee.co_name, id(parent), id(receiver))
            call = self._calls.get(key)
            if call is None:
                call = self._calls[key] = Call(self._location(code, lasti), callee.co_name, parent, receiver)
            parent = call
        return parent

    def _location(self, code: CodeType, lasti: int) -> Location:
        key = (code, lasti)
        known = self._locations.get(key)
        if known is None:
            known = self._locations[key] = self._locate(code, lasti)
        return known

    def _locate(self, code: CodeType, lasti: int) -> Location:
        positions = self._positions.get(code)
        if positions is None:
            positions = self._positions[code] = list(code.co_positions())
        line, end_line, column, end_column = positions[lasti // 2] if lasti >= 0 else (None,) * 4
        first = line or code.co_firstlineno
        path = display_path(code.co_filename)
        name = code.co_qualname if hasattr(code, "co_qualname") else code.co_name
        start = _characters(code.co_filename, first, column)
        end = _characters(code.co_filename, end_line or first, end_column)
        return Location(path, first, start + 1, end_line or first, end + 1, name)


def _kind(value: Any) -> str:
    return type(value).__name__.lower()


def _characters(filename: str, line: int, offset: int | None) -> int:
    """Column offsets of code objects count UTF-8 bytes; ours count characters."""
    if not offset:
        return 0
    text = linecache.getline(filename, line)
    return offset if text.isascii() else len(text.encode()[:offset].decode(errors="replace"))


def display_path(filename: str) -> str:
    """Relative to the working directory where it lies below it."""
    relative = os.path.relpath(filename) if os.path.isabs(filename) else filename
    return filename if relative.startswith("..") else relative


class Names:
    """What the user calls a value: the target of the assignment whose right side stands at a location."""

    def __init__(self) -> None:
        self._files: dict[str, dict[Span, str]] = {}

    def of(self, location: Location) -> str:
        if not location.line:
            return ""
        spans = self._files.get(location.path)
        if spans is None:
            spans = self._files[location.path] = _assigned(location.path)
        return spans.get((location.line, location.column, location.end_line, location.end_column), "")


def parsed(path: str) -> ast.Module:
    """The text of a file; of one that is no Python, nothing."""
    try:
        return ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def end_of(node: ast.expr) -> str:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _assigned(path: str) -> dict[Span, str]:
    spans: dict[Span, str] = {}
    for statement in ast.walk(parsed(path)):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            _pair(statement.targets[0], statement.value, spans)
        elif isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and statement.value is not None:
            _pair(statement.target, statement.value, spans)
        elif isinstance(statement, ast.keyword) and statement.arg:
            spans[_span(statement.value)] = statement.arg
    return spans


def _pair(target: ast.expr, value: ast.expr, spans: dict[Span, str]) -> None:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for left, right in zip(target.elts, value.elts, strict=True):
            _pair(left, right, spans)
    elif isinstance(target, ast.Name | ast.Attribute | ast.Subscript):
        spans[_span(value)] = ast.unparse(target)


def _span(node: ast.expr) -> Span:
    return (node.lineno, node.col_offset + 1, node.end_lineno or node.lineno, (node.end_col_offset or 0) + 1)


def source_line(location: Location) -> str:
    """The text of a location's line, stripped."""
    return linecache.getline(location.path, location.line).strip()
