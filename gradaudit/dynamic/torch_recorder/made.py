"""The modules that a run makes while it is recorded, by the parameters and parts that they register.

Whose a parameter is could be asked of all living objects, too; of a few hundred thousand of them that takes a third of
a second, for each parameter.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Made:
    """Who registered which parameter, and whom."""

    def __init__(self) -> None:
        self._holders: dict[int, tuple[weakref.ref[torch.nn.Module], str]] = {}
        self._parents: dict[int, tuple[weakref.ref[torch.nn.Module], str]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = torch.nn.modules.module
        handles = (
            hooks.register_module_parameter_registration_hook(self._registered),
            hooks.register_module_module_registration_hook(self._joined),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _registered(self, module: torch.nn.Module, name: str, parameter: Any) -> None:
        self._holders[id(parameter)] = weakref.ref(module), name

    def _joined(self, module: torch.nn.Module, name: str, part: Any) -> None:
        self._parents[id(part)] = weakref.ref(module), name

    def root_of(self, parameter: torch.nn.Parameter) -> torch.nn.Module | None:
        """The outermost module, of those made, that holds the parameter; None if none of them does."""
        holder = _still(self._holders.get(id(parameter)), "_parameters", parameter)
        for _ in range(100):  # a module may hold itself
            if holder is None or (outer := _still(self._parents.get(id(holder)), "_modules", holder)) is None:
                break
            holder = outer
        return holder


def _still(kept: tuple[weakref.ref[torch.nn.Module], str] | None, where: str, part: object) -> torch.nn.Module | None:
    """The module, if it lives and holds the part under that name: an identity may have been given anew."""
    module = kept[0]() if kept is not None else None
    return module if module is not None and kept is not None and vars(module)[where].get(kept[1]) is part else None
