"""Source lines of jaxpr equations: the user's frames out of the traceback that every equation carries.

What is jitted is traced once and reused. A library's jit (`jnp.where`, `jax.nn.log_softmax`) then has lines of another
call or none, so its equations inherit the line of the equation outside; a user's jit keeps its own lines, and the chain
of callers is the one of the equation outside.
"""

from __future__ import annotations

import os
from types import CodeType
from typing import Any

import jax

from gradaudit.dynamic.jax_names import known_call
from gradaudit.dynamic.lines import Lines
from gradaudit.tape import Call, Location

Stack = tuple[tuple[CodeType, int], ...]
"""User frames, innermost first: code object and offset of the instruction."""

Region = tuple[str, CodeType, int]
"""A call of a known library function: the operation, and where it was called."""

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_JAX = os.path.dirname(os.path.abspath(str(jax.__file__))) + os.sep


class JaxLines(Lines):
    """`Lines` over tracebacks. `foreign` are the stacks on which a library other than jax was at work."""

    def __init__(self, roots: tuple[str, ...] = ()) -> None:
        super().__init__(roots)
        self.foreign: set[Stack] = set()

    def stack(self, traceback: Any) -> Stack:
        """The user's frames between the operation and us, innermost first."""
        return self.read(traceback)[0]

    def read(self, traceback: Any) -> tuple[Stack, Region | None]:
        """The user's frames between the operation and us, innermost first; and the library call that it is part of."""
        if traceback is None or not hasattr(traceback, "raw_frames"):
            return (), None
        codes, offsets = traceback.raw_frames()
        frames: list[tuple[CodeType, int]] = []
        foreign, op = False, ""
        region: Region | None = None
        for code, offset in zip(codes, offsets, strict=True):
            if code.co_filename.startswith(_OURS):
                break
            if op:  # the frame that called the library function
                region, op = (op, code, offset), ""
            if self.is_user(code.co_filename):
                frames.append((code, offset))
            elif not frames:
                op = known_call(code.co_filename, code.co_name)
                foreign = foreign or not code.co_filename.startswith(_JAX)
        stack = tuple(frames)
        if foreign:
            self.foreign.add(stack)
        return stack, region

    def location(self, stack: Stack) -> Location:
        return self._location(*stack[0]) if stack else self.nowhere

    def call(self, stack: Stack) -> Call | None:
        return self._call([(code, offset, None) for code, offset in stack]) if stack else None

    def is_library(self, jaxpr: Any) -> bool | None:
        """Was this jaxpr traced from library code? None where it does not say."""
        path, _ = _source(jaxpr)
        return not self.is_user(path) if path else None

    def inside(self, traceback: Any, jaxpr: Any) -> Stack:
        """The user's frames that a library function has called (`pmap` around a user's function): those within the
        function that `jaxpr` was traced from. What is around it is whoever called it first."""
        path, line = _source(jaxpr)
        if not path or traceback is None or not hasattr(traceback, "raw_frames"):
            return ()
        frames: list[tuple[CodeType, int]] = []
        for code, offset in zip(*traceback.raw_frames(), strict=True):
            if code.co_firstlineno == line and code.co_filename == path:
                return tuple(frames)
            if self.is_user(code.co_filename):
                frames.append((code, offset))
        return ()

    def splice(self, inner: Stack, jaxpr: Any, outer: Stack) -> Stack:
        """The frames inside the function that `jaxpr` was traced from, and outside it those of this call."""
        path, line = _source(jaxpr)
        for depth, (code, _) in enumerate(inner):
            if code.co_firstlineno == line and code.co_filename == path:
                return inner[: depth + 1] + outer
        return inner or outer


def _source(jaxpr: Any) -> tuple[str, int]:
    """File and first line of the function that a jaxpr was traced from; ("", 0) where it does not say."""
    text = str(getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None) or "")
    path, _, line = text.rpartition(" at ")[2].rpartition(":")
    return (path, int(line)) if line.isdigit() else ("", 0)
