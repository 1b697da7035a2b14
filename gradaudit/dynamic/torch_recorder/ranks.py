"""More than one process: what each rank saw, told once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from gradaudit.dynamic.recording import NONZERO, STATES, Group


def several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if several() else 0


def everywhere(value: object) -> bool:
    """Whether all ranks say the same. All of them must ask."""
    if not several():
        return True
    said = gathered(value)
    return all(one == said[0] for one in said)


def gathered(value: Any) -> list[Any]:
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, value)
    return said


def merge(groups: list[Group]) -> dict[str, tuple[int, ...]]:
    """The strongest state of each group over the ranks, and on which ranks its gradient was non-zero."""
    said = gathered({group.name: (group.state, group.norm) for group in groups})
    for group in groups:
        seen = [one[group.name] for one in said if group.name in one]
        group.state = max((state for state, _ in seen), key=STATES.index)
        group.norm = max((norm for _, norm in seen if math.isfinite(norm)), default=group.norm)
    return {
        group.name: tuple(rank for rank, one in enumerate(said) if one.get(group.name, ("", 0.0))[0] == NONZERO)
        for group in groups
    }


@contextmanager
def local_gradients(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Each rank keeps its own gradient: nothing is reduced, and no reducer waits for what a stop has cut off."""
    wrapped = [one for one in modules if type(one).__name__ == "DistributedDataParallel"]
    before = [one.require_backward_grad_sync for one in wrapped]
    for one in wrapped:
        one.require_backward_grad_sync = False
    try:
        yield
    finally:
        for one, flag in zip(wrapped, before, strict=True):
            one.require_backward_grad_sync = flag


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that is spread over ranks."""
    part = getattr(tensor, "to_local", None)
    return part() if callable(part) else tensor
