"""Tensors as they were: values, gradients, flags and random generators, saved and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradaudit.dynamic.state import save_python, seed_python
from gradaudit.dynamic.torch_recorder.ranks import local

Copies = dict[int, tuple[int, torch.Tensor]]
"""Identity of a tensor -> its version and its values then."""


@contextmanager
def untouched(
    tensors: Iterable[torch.Tensor],
    generators: Iterable[torch.Generator],
    objects: Iterable[Any],
    writes: Callable[[], bool],
    copies: Copies,
) -> Iterator[None]:
    """Whatever happens inside, afterwards everything is as before.

    `writes` says afterwards whether parameters may have been written to behind the back of their version counters.
    `copies` are of an earlier run, and good while nobody has written since.
    """
    undo = save_python(objects)
    saved = [_Saved(tensor, copies) for tensor in tensors]
    states = [(generator, generator.get_state()) for generator in generators]
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    enabled = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(enabled)
        thorough = writes()
        for one in saved:
            one.restore(thorough)
        for generator, state in states:
            generator.set_state(state)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        undo()


def seed_everything(seed: int) -> None:
    seed_python(seed)
    torch.manual_seed(seed)


class _Saved:
    """One tensor. Its gradient is set aside (and None meanwhile), hooks that would step an optimizer too."""

    __slots__ = ("copy", "flag", "grad", "hooks", "leaf", "tensor", "version")

    def __init__(self, tensor: torch.Tensor, copies: Copies) -> None:
        self.tensor = tensor
        self.flag, self.leaf = tensor.requires_grad, tensor.is_leaf
        self.grad = tensor.grad if tensor.is_leaf else None
        self.hooks: Any = None
        try:
            self.version = tensor._version
            known = copies.get(id(tensor))
            self.copy = known[1] if known is not None and known[0] == self.version else tensor.detach().clone()
            copies[id(tensor)] = (self.version, self.copy)
        except RuntimeError:
            self.version, self.copy = -1, None
        if tensor.is_leaf and tensor.requires_grad:
            tensor.grad = None
            hooks = getattr(tensor, "_post_accumulate_grad_hooks", None)
            if hooks:
                self.hooks = dict(hooks)
                hooks.clear()

    def restore(self, thorough: bool) -> None:
        tensor = self.tensor
        counted = isinstance(tensor, torch.nn.Parameter) and not thorough
        if self.copy is not None and (tensor._version != self.version or not (counted or _equal(tensor, self.copy))):
            with torch.no_grad():
                tensor.detach().copy_(self.copy)
        if self.leaf and not tensor.is_leaf and tensor._base is None:
            tensor.detach_()  # a store that was written into: it brings no graph along into the next run
        if self.hooks is not None:
            tensor._post_accumulate_grad_hooks.update(self.hooks)  # type: ignore[attr-defined]
        if tensor.is_leaf:
            if tensor.requires_grad != self.flag:
                tensor.requires_grad_(self.flag)
            if self.flag or tensor.grad is not None:
                tensor.grad = self.grad


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Kernels that update running statistics do not count versions."""
    with torch.no_grad():
        return torch.equal(local(one.detach()), local(other))
