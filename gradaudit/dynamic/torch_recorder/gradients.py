"""The loss's gradients as numbers, and what changed between two runs of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gradaudit.dynamic import groups
from gradaudit.dynamic.recording import NONE, Change, Group, Proof
from gradaudit.dynamic.torch_recorder import ranks
from gradaudit.tape import Node


@dataclass(slots=True)
class Gradients:
    """The loss's value as bytes and as a number, and every leaf's gradient (None: no path)."""

    exact: bytes
    value: float
    of: dict[int, torch.Tensor | None]


def compare(rows: Sequence[Group], keys: Mapping[Node, int], before: Gradients, after: Gradients) -> Proof:
    """What a stop did to every group; `keys` are those of the gradients of each leaf."""
    changes: list[Change] = []
    states: dict[str, str] = {}
    largest = max((norm_of(one) for one in after.of.values() if one is not None), default=0.0)
    for group in rows:
        pairs = [(before.of.get(keys[leaf]), after.of.get(keys[leaf])) for leaf in group.leaves]
        norm = math.sqrt(sum(norm_of(new) ** 2 for _, new in pairs if new is not None))
        state = groups.state_of(norm, largest) if any(new is not None for _, new in pairs) else NONE
        states[group.name] = state
        if all(same(old, new) for old, new in pairs):
            continue
        moved = math.sqrt(sum(distance(old, new) ** 2 for old, new in pairs))
        relative = moved / group.norm if group.norm else 1.0
        changes.append(Change(group.name, group.state, state, group.norm, norm, relative))
    return Proof(before.exact == after.exact, after.value, tuple(changes), states)


def exact_bytes(loss: torch.Tensor) -> bytes:
    return bytes(loss.detach().reshape(1).contiguous().cpu().view(torch.uint8).tolist())


def norm_of(tensor: torch.Tensor) -> float:
    tensor = ranks.local(tensor)
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    norm = float(torch.linalg.vector_norm(tensor)) if tensor.dtype in (torch.float32, torch.float64) else 0.0
    if norm == 0.0 or not math.isfinite(norm):
        norm = float(torch.linalg.vector_norm(tensor.to(torch.float64)))
    return norm


def same(old: torch.Tensor | None, new: torch.Tensor | None) -> bool:
    if old is None or new is None:
        return old is new
    old, new = ranks.local(old), ranks.local(new)
    return torch.equal(old, new) if not old.is_sparse else distance(old, new) == 0.0


def distance(old: torch.Tensor | None, new: torch.Tensor | None) -> float:
    if old is None or new is None:
        one = old if new is None else new
        return 0.0 if one is None else norm_of(one)
    old, new = ranks.local(old), ranks.local(new)
    return norm_of((old - new).coalesce() if old.is_sparse else old - new)
