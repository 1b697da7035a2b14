"""A LightningModule without its Trainer: `training_step` finds its optimizers, logs nowhere, differentiates by hand.

Lightning itself is not imported; a module is known by the name of its class's base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from gradaudit.dynamic.recording import LossCall

SCOPE = "optimizers"
"""What the configured optimizers are called in the scope of a loss."""


def prepare(call: LossCall) -> None:
    """Put what the module's `configure_optimizers` gives in reach, once for a call."""
    found = [one for owner in _detached(call.scope.values()) for one in _configured(owner)]
    if found and SCOPE not in call.scope:
        call.scope[SCOPE] = found


def attach(call: LossCall) -> None:
    """Stand in for the Trainer, in the module's own attributes (which are put back after the run)."""
    optimizers = call.scope.get(SCOPE, [])
    for owner in _detached(call.scope.values()):
        given = optimizers[0] if len(optimizers) == 1 else list(optimizers)
        vars(owner).update(
            optimizers=lambda use_pl_optimizer=True, given=given: given,
            lr_schedulers=lambda: None,
            manual_backward=lambda loss, *args, **options: loss.backward(*args, **options),
            clip_gradients=lambda *args, **options: None,
            log=lambda *args, **options: None,
            log_dict=lambda *args, **options: None,
            toggle_optimizer=lambda optimizer, *_: _toggle(optimizers, optimizer),
            untoggle_optimizer=lambda *_: _toggle(optimizers, None),
        )


def _detached(values: Iterable[Any]) -> Iterator[torch.nn.Module]:
    for value in values:
        if isinstance(value, torch.nn.Module) and any(k.__name__ == "LightningModule" for k in type(value).__mro__):
            if getattr(value, "_trainer", None) is None:
                yield value


def _configured(owner: Any) -> list[torch.optim.Optimizer]:
    """The optimizers, in whichever of Lightning's forms; none where it cannot say without a Trainer."""
    try:
        result = owner.configure_optimizers()
    except Exception:
        return []
    return list(_optimizers(result))


def _optimizers(result: Any) -> Iterator[torch.optim.Optimizer]:
    if isinstance(result, torch.optim.Optimizer):
        yield result
    elif isinstance(result, dict):
        yield from _optimizers(result.get("optimizer"))
    elif isinstance(result, list | tuple):
        for one in result:
            yield from _optimizers(one)


def _toggle(optimizers: list[torch.optim.Optimizer], chosen: torch.optim.Optimizer | None) -> None:
    """Lightning's toggling: of what the optimizers hold, only the chosen one's parameters take gradient."""
    kept = {id(one) for group in chosen.param_groups for one in group["params"]} if chosen is not None else None
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for one in group["params"]:
                one.requires_grad_(kept is None or id(one) in kept)
