"""gradaudit: a stop-gradient audit for PyTorch, JAX and TensorFlow training code."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {"assert_no_leak": "gradaudit.check", "case": "gradaudit.dynamic.case", "CheckReport": "gradaudit.check"}


def __getattr__(name: str) -> Any:
    """`gradaudit.check`, `assert_no_leak` and `case` are imported when they are first asked for."""
    if name == "check":
        return import_module("gradaudit.check")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
