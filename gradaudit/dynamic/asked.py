"""A gradient that the user asked for: `rlax.td_lambda(..., stop_target_gradients=False)`, in the text of the call."""

from __future__ import annotations

import ast
import functools
import re

from gradaudit.dynamic.lines import parsed
from gradaudit.tape import Location

_SWITCH = re.compile(r"(^|_)(stop|detach)(_|$)")


def asked_for(location: Location) -> bool:
    """Whether the expression there is a call whose switch for a stop is turned off by hand."""
    return (location.line, location.column) in _asked(location.path) if location.line else False


@functools.lru_cache(maxsize=256)
def _asked(path: str) -> frozenset[tuple[int, int]]:
    calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
    return frozenset((one.lineno, one.col_offset + 1) for one in calls if any(map(_is_off, one.keywords)))


def _is_off(keyword: ast.keyword) -> bool:
    off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return off and keyword.arg is not None and _SWITCH.search(keyword.arg) is not None
