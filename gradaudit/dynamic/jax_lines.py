"""Source lines of jaxpr equations: the user's frames, with library frames left out.

An equation carries the traceback of the moment it was traced. What a library jits (`jnp.where`, `jax.nn.log_softmax`)
is traced once and reused, so its inner equations have no user frame: they inherit the line of the equation outside.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType
from typing import Any

from gradaudit.tape import Call, Location

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INTERNAL = ("<frozen", "<string", "<__array_function__")


def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib") if key in paths}
    roots |= {entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))}
    roots |= {_package_root(name) for name in ("jax", "jaxlib", "flax", "optax") if name in sys.modules}
    roots.add(_OWN)
    return tuple(sorted(root.rstrip(os.sep) + os.sep for root in roots if root))


def _package_root(name: str) -> str:
    return os.path.dirname(getattr(sys.modules[name], "__file__", "") or "")


class Lines:
    """Turns tracebacks into `Location`s and `Call` chains. `own` are directories that are the user's although they lie
    among the libraries (an installed package that is itself audited); `base` is what paths are made relative to."""

    __slots__ = ("base", "calls", "known", "own", "places", "roots")

    def __init__(self, own: tuple[str, ...] = (), base: str | None = None) -> None:
        self.roots = _library_roots()
        self.own = tuple(os.path.abspath(path).rstrip(os.sep) for path in own)
        self.base = os.path.abspath(base or os.getcwd())
        self.known: dict[str, bool] = {}
        self.places: dict[tuple[CodeType, int], Location] = {}
        self.calls: dict[tuple[Location, ...], Call] = {}

    def is_user(self, path: str) -> bool:
        """Is this file the user's, not a library's, the interpreter's or ours?"""
        answer = self.known.get(path)
        if answer is None:
            answer = self.known[path] = self._judge(path)
        return answer

    def _judge(self, path: str) -> bool:
        if not path or path.startswith(_INTERNAL):
            return False
        absolute = os.path.abspath(path)
        if any(absolute == own or absolute.startswith(own + os.sep) for own in self.own):
            return True
        return not absolute.startswith(self.roots)

    def stack(self, traceback: Any) -> tuple[Location, ...]:
        """The user's frames of a traceback, innermost first."""
        if traceback is None or not hasattr(traceback, "raw_frames"):
            return ()
        codes, offsets = traceback.raw_frames()
        return tuple(
            self._place(code, offset)
            for code, offset in zip(codes, offsets, strict=True)
            if self.is_user(code.co_filename) and code.co_name != "<module>"
        )

    def _place(self, code: CodeType, offset: int) -> Location:
        key = (code, offset)
        place = self.places.get(key)
        if place is None:
            place = self.places[key] = Location(self.relative(code.co_filename), *_span(code, offset), code.co_qualname)
        return place

    def relative(self, path: str) -> str:
        """A path as findings print it: relative to `base` where it lies below."""
        absolute = os.path.abspath(path)
        inside = os.path.relpath(absolute, self.base)
        return absolute if inside.startswith("..") else inside.replace(os.sep, "/")

    def call(self, stack: tuple[Location, ...]) -> Call | None:
        """The call chain of a stack: one `Call` per user function that encloses the innermost line."""
        if not stack:
            return None
        known = self.calls.get(stack)
        if known is None:
            parent = self.call(stack[1:])
            caller = stack[1] if len(stack) > 1 else stack[0]
            known = self.calls[stack] = Call(caller, stack[0].function, parent)
        return known


def _span(code: CodeType, offset: int) -> tuple[int, int, int, int]:
    """(line, column, end line, end column), 1-based; columns are 1 where the interpreter keeps none."""
    positions = list(code.co_positions())
    index = offset // 2
    line, end_line, column, end_column = positions[index] if 0 <= index < len(positions) else (None,) * 4
    line = line or code.co_firstlineno
    return line, (column or 0) + 1, end_line or line, (end_column or 0) + 1
