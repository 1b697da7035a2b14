"""Functions that take gradients, made before losses were watched: by a decorator, when a module was imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_BY_JAX = frozenset(("grad_f", "grad_f_aux", "value_and_grad_f", "jacfun"))
_BY_NNX = frozenset(("grad_wrapper", "tree_grad_wrapper"))
_BY_EQUINOX = frozenset(("_GradWrapper", "_ValueAndGradWrapper"))
"""What each library calls what its takers make."""


def made_of(value: Any) -> tuple[Callable[..., Any], Any] | None:
    """The function that a gradient function differentiates, and its `argnums`; None for any other value."""
    kind = type(value)
    if kind.__name__ in _BY_EQUINOX and kind.__module__.startswith("equinox."):
        return value.__wrapped__, 0
    if (made := _inside(value, _BY_NNX, "flax")) is not None:
        captured = _captured(made)
        return captured["f"], captured.get("argnums", captured.get("jax_argnums"))
    if hasattr(value, "__wrapped__") and (made := _by_jax(value)) is not None:
        return inspect.unwrap(value), _argnums_of(made)
    return None


def numbers(argnums: Any) -> tuple[int, ...]:
    """`argnums` as a taker of gradients understands it; nnx wraps each in what it filters by."""
    given = argnums if isinstance(argnums, tuple | list) else (argnums,)
    found = tuple(number for one in given if isinstance(number := getattr(one, "argnum", one), int))
    return found if found and len(found) == len(given) else (0,)


def filters(argnums: Any) -> dict[int, Any]:
    """What nnx is to differentiate of an argument, by its number, where a filter says it."""
    given = argnums if isinstance(argnums, tuple | list) else (argnums,)
    return {one.argnum: one.filter for one in given if hasattr(one, "argnum") and hasattr(one, "filter")}


def _by_jax(value: Any) -> Any:
    return _inside(value, _BY_JAX, "jax")


def _inside(value: Any, names: frozenset[str], library: str) -> Any:
    """The function of one of these names that is in a wrapper (jit and the like), at any of its layers."""
    for _ in range(4):
        for one in (value, *_captured(value).values()):
            code = getattr(one, "__code__", None)
            if code is not None and code.co_name in names and library in code.co_filename:
                return one
        value = getattr(value, "__wrapped__", None)
    return None


def _captured(function: Any) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=False)}


def _argnums_of(made: Any) -> tuple[int, ...]:
    """What a gradient function takes gradient for: `jax.grad` asks `jax.value_and_grad`."""
    for _ in range(4):
        captured = _captured(made)
        if "argnums" in captured:
            return numbers(captured["argnums"])
        made = next((inner for one in captured.values() if (inner := _by_jax(one)) not in (None, made)), None)
    return (0,)
