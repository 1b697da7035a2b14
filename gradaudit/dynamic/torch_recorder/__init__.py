"""The torch recorder: one run in eager mode on a tape, its backward pass, and the same run with a stop."""

from __future__ import annotations

from typing import Any

import torch

from gradaudit.dynamic.recording import Cut, InputSpec, LossCall, Proof, Recording
from gradaudit.dynamic.roles import Roles
from gradaudit.dynamic.torch_recorder import lightning, ranks
from gradaudit.dynamic.torch_recorder.counterfactual import counterfactual
from gradaudit.dynamic.torch_recorder.run import Run
from gradaudit.dynamic.torch_recorder.updates import Differentiated
from gradaudit.errors import CheckError

__all__ = ["RECORDER", "TorchRecorder"]


class TorchRecorder:
    framework = "torch"

    def accepts(self, call: LossCall) -> bool:
        return _mentions_torch([*call.arguments().values(), *call.scope.values()])

    def record(self, call: LossCall, roles: Roles) -> Recording:
        return self.record_all(call, roles)[0]

    def record_all(self, call: LossCall, roles: Roles) -> list[Recording]:
        """One recording; of a function that calls `backward()` itself, one for each of its losses."""
        lightning.prepare(call)
        try:
            return [Run(call, roles).record()]
        except Differentiated as update:
            return _parts(call, roles, update)

    def make_input(self, spec: InputSpec, seed: int) -> Any:
        dtype = getattr(torch, spec.dtype)
        generator = torch.Generator().manual_seed(seed)
        if spec.low is not None and spec.high is not None:
            if dtype.is_floating_point:
                return torch.rand(spec.shape, generator=generator, dtype=dtype) * (spec.high - spec.low) + spec.low
            low, high = int(spec.low), max(int(spec.high), int(spec.low) + 1)
            return torch.randint(low, high, spec.shape, generator=generator).to(dtype)
        if dtype.is_floating_point:
            return torch.randn(spec.shape, generator=generator).to(dtype)
        return torch.randint(0, 2, spec.shape, generator=generator).to(dtype)

    def everywhere(self, value: object) -> bool:
        return ranks.everywhere(value)

    def counterfactual(self, recording: Recording, cut: Cut) -> Proof:
        return counterfactual(recording.handle, recording, cut)


def _parts(call: LossCall, roles: Roles, update: Differentiated) -> list[Recording]:
    """Each loss of an update. One that says nothing on these inputs costs a note, not what the others say."""
    found: list[Recording] = []
    failed: list[CheckError] = []
    for part in update.parts():
        try:
            found.append(Run(call, roles, part, update).record())
        except CheckError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    found[0].notes += [str(error) for error in failed]
    return found


def _mentions_torch(values: list[Any]) -> bool:
    stack = [(value, 0) for value in values]
    seen: set[int] = set()
    while stack:
        value, depth = stack.pop()
        if id(value) in seen or depth > 3:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor | torch.nn.Module | torch.optim.Optimizer):
            return True
        if isinstance(value, dict):
            stack += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list | tuple):
            stack += [(one, depth + 1) for one in value]
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            stack += [(one, depth + 1) for one in vars(value).values()]
    return False


RECORDER = TorchRecorder()
