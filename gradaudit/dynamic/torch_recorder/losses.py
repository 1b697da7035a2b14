"""Which tensor of a result is the loss."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from gradaudit.dynamic.target import a_kind
from gradaudit.errors import CheckError


def loss_of(result: Any) -> tuple[torch.Tensor, str]:
    """The scalar to differentiate, and a note where there was a choice.

    A scalar; the first of a tuple (the rest is auxiliary), or the only one of it; a dict's "loss" (or "total_loss"),
    else the sum of a dict's scalars; an attribute `loss`. Raises CheckError where there is none.
    """
    if isinstance(result, torch.Tensor):
        return _scalar(result), ""
    if isinstance(result, dict):
        return _of_dict(result)
    if isinstance(result, tuple | list) and result and not isinstance(result[0], tuple | list):
        return _of_several(result)
    inner = getattr(result, "loss", None)
    if isinstance(inner, torch.Tensor):
        return _scalar(inner), ""
    if hasattr(result, "items") and hasattr(result, "keys"):
        return _of_dict(dict(result.items()))
    if isinstance(result, int | float):
        raise CheckError("the loss is a plain number, not a tensor: return it before `.item()` or `float()` is taken")
    if inspect.iscoroutine(result):
        result.close()
    if type(result).__module__.startswith("jax"):
        raise CheckError("the loss returns a jax array: leave out `--framework torch`")
    raise CheckError(f"the loss returns {a_kind(result)}, not a scalar tensor; name the function that returns the loss")


def _of_several(results: tuple[Any, ...] | list[Any]) -> tuple[torch.Tensor, str]:
    try:
        loss, _ = loss_of(results[0])
    except CheckError:
        found = [one for one in results[1:] if _has_loss(one)]
        if len(found) != 1:
            raise
        loss, _ = loss_of(found[0])
        return loss, "the only scalar of several results is taken as the loss"
    return loss, "the first of several results is taken as the loss" if any(map(_live, results[1:])) else ""


def _has_loss(result: Any) -> bool:
    """Whether it is a live scalar, or a dict with some."""
    return any(map(_live, result.values())) if isinstance(result, dict) else _live(result)


def _of_dict(result: dict[Any, Any]) -> tuple[torch.Tensor, str]:
    for key in ("loss", "total_loss"):
        if isinstance(result.get(key), torch.Tensor):
            return _scalar(result[key]), ""
    parts = {key: one for key, one in result.items() if isinstance(one, torch.Tensor) and one.numel() == 1}
    live = {key: one for key, one in parts.items() if one.requires_grad} or parts
    if not live:
        keys = f"its keys are {', '.join(map(str, result))}" if result else "it is empty"
        raise CheckError(f"the loss returns a dict without a scalar tensor; {keys}")
    total = sum(live.values())
    assert isinstance(total, torch.Tensor)
    names = ", ".join(str(key) for key in live)
    return _scalar(total), f"the loss is the sum of {names}" if len(live) > 1 else ""


def _scalar(loss: torch.Tensor) -> torch.Tensor:
    if loss.numel() != 1:
        raise CheckError(f"the loss has shape {tuple(loss.shape)}, not one number: return its mean or its sum")
    if loss.is_complex():
        raise CheckError("the loss is a complex number: return a real one")
    return loss


def _live(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad and value.numel() == 1
