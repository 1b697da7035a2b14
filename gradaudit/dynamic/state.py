"""Leave no trace: what a loss may change beside its tensors, saved and put back.

Framework-free: Python's and numpy's random state, and the attributes and containers of the objects in reach (a counter,
a hidden state kept on `self`, a list that is appended to). Tensors are the recorders' business.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

Undo = Callable[[], None]

_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, FunctionType, MethodType, ModuleType)
_LIMIT = 20_000


def save_python(objects: Iterable[Any]) -> Undo:
    """Remember random state and every reachable attribute dictionary and container; the result puts them back."""
    undo = [_save_random(), _save_numpy()]
    undo += _save_containers(objects)

    def restore() -> None:
        for one in undo:
            one()

    return restore


def seed_python(seed: int) -> None:
    """Seed Python's and (where it is loaded) numpy's global generators."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every global generator for the duration, and put them back."""
    undo = [_save_random(), _save_numpy(), _save_torch()]
    seed_python(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        for one in undo:
            one()


def _save_torch() -> Undo:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return lambda: None
    state = torch.get_rng_state()
    return lambda: torch.set_rng_state(state)


def _save_random() -> Undo:
    state = random.getstate()
    return lambda: random.setstate(state)


def _save_numpy() -> Undo:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return lambda: None
    state = numpy.random.get_state()
    return lambda: numpy.random.set_state(state)


def _save_containers(objects: Iterable[Any]) -> list[Undo]:
    undo: list[Undo] = []
    seen: set[int] = set()
    stack = list(objects)
    while stack and len(seen) < _LIMIT:
        value = stack.pop()
        if isinstance(value, _ATOMS) or id(value) in seen:
            continue
        seen.add(id(value))
        one, below = _save_one(value)
        undo += one
        stack += below
    return undo


def _save_one(value: Any) -> tuple[list[Undo], list[Any]]:
    if isinstance(value, dict):
        return [_keep_dict(value)], list(value.values())
    if isinstance(value, list | deque):
        return [_keep_list(value)], list(value)
    if isinstance(value, set):
        return [_keep_set(value)], []
    if isinstance(value, tuple):
        return [], list(value)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not type(value).__module__.startswith(("numpy", "jax", "builtins")):
        return [_keep_dict(attributes)], list(attributes.values())
    return [], []


def _keep_dict(value: dict[Any, Any]) -> Undo:
    kept = dict(value)

    def restore() -> None:
        if len(kept) != len(value) or any(value.get(key, restore) is not item for key, item in kept.items()):
            value.clear()
            value.update(kept)

    return restore


def _keep_list(value: list[Any] | deque[Any]) -> Undo:
    kept = list(value)

    def restore() -> None:
        if len(kept) != len(value) or any(one is not other for one, other in zip(kept, value, strict=True)):
            value.clear()
            value.extend(kept)

    return restore


def _keep_set(value: set[Any]) -> Undo:
    kept = set(value)

    def restore() -> None:
        if kept != value:
            value.clear()
            value.update(kept)

    return restore
