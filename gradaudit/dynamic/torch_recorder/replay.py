"""The loss again, with a stop at chosen operations: the same calls are counted, nothing is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradaudit.dynamic.torch_recorder.ops import Kind, kind_of
from gradaudit.dynamic.torch_recorder.tracer import operands_of, tensors_in
from gradaudit.dynamic.torch_recorder.updates import Updates


class Replay(TorchFunctionMode):
    """`values`: call number -> outputs to stop (-1: all); `operands`: call number -> tensor operands to stop.

    `uses`: call number -> which operand is which parameter of the first run, of those that each run makes anew; they
    are found in `made`.
    """

    def __init__(
        self,
        values: Mapping[int, set[int]],
        operands: Mapping[int, set[int]],
        sites: list[str],
        updates: Updates,
        uses: Mapping[int, Mapping[int, int]],
    ) -> None:
        super().__init__()
        self.updates = updates
        self.uses = uses
        self.made: dict[int, Tensor] = {}
        self.values = values
        self.stopped_operands = operands
        self.sites = sites
        self.count = 0
        self.strayed = False
        self.failed = ""
        self.kinds: dict[Any, Kind | None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            kind = self.kinds[func]
        except KeyError:
            kind = self.kinds[func] = kind_of(func)
        if kind is None or self.updates.paused:
            if func is Tensor.backward:
                return self.updates.backward(func, args, kwargs or {})
            return func(*args, **kwargs) if kwargs else func(*args)
        return self.run(kind, func, args, kwargs or {})

    def run(self, kind: Kind, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = self.count
        self.count += 1
        if number >= len(self.sites) or self.sites[number] != kind.name:
            self.strayed = True
        if number in self.uses:
            operands = operands_of(args, kwargs)
            self.made.update((key, operands[at]) for at, key in self.uses[number].items() if at < len(operands))
        stopped = self.stopped_operands.get(number)
        if stopped:
            args, kwargs = self.stop_operands(args, kwargs, stopped)
        result = func(*args, **kwargs)
        outputs = self.values.get(number)
        if outputs is None:
            return result
        if kind.inplace:
            return self.stop_in_place(args, result)
        return stop_outputs(result, outputs)

    def stop_operands(self, args: Any, kwargs: Any, stopped: set[int]) -> tuple[Any, Any]:
        chosen = {id(tensor) for place, tensor in enumerate(operands_of(args, kwargs)) if place in stopped}
        places = iter(range(1_000_000))

        def swap(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.detach() if next(places) in stopped and id(value) in chosen else value
            if isinstance(value, list | tuple):
                parts = [swap(one) for one in value]
                return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
            if isinstance(value, dict):
                return {key: swap(one) for key, one in value.items()}
            return value

        return swap(tuple(args)), swap(kwargs)

    def stop_in_place(self, args: Any, result: Any) -> Any:
        """The tensor that was written to loses its history; of a view, the whole that it shows a part of."""
        for tensor in tensors_in(args[0]):
            try:
                (tensor if tensor._base is None else tensor._base).detach_()
            except RuntimeError as error:
                self.failed = str(error).splitlines()[0]
        return result


def stop_outputs(result: Any, outputs: set[int]) -> Any:
    """The result with these of its tensors detached."""
    places = iter(range(1_000_000))

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            place = next(places)
            return value.detach() if -1 in outputs or place in outputs else value
        if isinstance(value, list | tuple):
            parts = [swap(one) for one in value]
            kind = type(value)
            if kind.__module__ == "torch.return_types":
                return kind(parts)
            return kind(*parts) if hasattr(value, "_fields") else kind(parts)
        return value

    with torch._C.DisableTorchFunction():
        return swap(result)
