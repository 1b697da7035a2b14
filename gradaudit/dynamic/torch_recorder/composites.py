"""Calls that are one operation to a user and many to autograd: distributions and custom functions.

During a run their entry points are replaced by wrappers that hand the whole call to the tracer (or replay), with torch
functions switched off inside. The result is the same tensor, tied to one node: `log_prob`, `rsample`, `kl_div`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributions as distributions
from torch.utils.checkpoint import CheckpointFunction

from gradaudit.dynamic.torch_recorder.ops import Kind

_METHODS = {"log_prob": "log_prob", "rsample": "rsample", "sample": "sample", "entropy": "entropy"}


class Runner(Protocol):
    def run(self, kind: Kind, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class _Composite:
    """A call in progress is not recorded again from inside."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.busy = False

    def call(self, kind: Kind, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.busy:
            return func(*args, **kwargs)
        self.busy = True
        try:
            return self.runner.run(kind, _plain(func), args, kwargs)
        finally:
            self.busy = False


def _plain(func: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)

    return call


@contextmanager
def composites(runner: Runner) -> Iterator[None]:
    """Replace the entry points for the duration."""
    composite = _Composite(runner)
    undo: list[tuple[Any, str, Any]] = []
    for kind in _subclasses(distributions.Distribution):
        if kind.__module__.startswith("torch."):
            for name, op in _METHODS.items():
                if name in vars(kind):
                    undo.append((kind, name, vars(kind)[name]))
                    setattr(kind, name, _method(composite, vars(kind)[name], Kind(name, op)))
    holders = [distributions, distributions.kl]
    for holder in holders:
        undo.append((holder, "kl_divergence", holder.kl_divergence))
        holder.kl_divergence = _method(composite, holder.kl_divergence, Kind("kl_divergence", "kl_div"))
    undo.append((torch.autograd.Function, "apply", vars(torch.autograd.Function)["apply"]))
    torch.autograd.Function.apply = classmethod(_apply(composite))  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for holder, name, old in reversed(undo):
            setattr(holder, name, old)


def _subclasses(kind: type) -> list[type]:
    found = [kind]
    below: list[type] = type.__subclasses__(kind)
    for one in below:
        found += _subclasses(one)
    return list(dict.fromkeys(found))


def _method(composite: _Composite, original: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        return composite.call(kind, original, args, kwargs)

    method.__name__ = kind.name
    return method


def _apply(composite: _Composite) -> Callable[..., Any]:
    original = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]

    def apply(function: type, *args: Any, **kwargs: Any) -> Any:
        if function is CheckpointFunction and any(isinstance(one, torch.Tensor) and one.requires_grad for one in args):
            # Checkpointing changes when values are computed, not which: run plainly, every line inside is seen.
            return args[0](*args[2:])
        kind = Kind(function.__name__, "call")
        return composite.call(kind, partial(original, function), args, kwargs)

    return apply


def parameters_of(distribution: distributions.Distribution) -> list[torch.Tensor]:
    """The tensors a distribution is made of, nested distributions and transforms included."""
    found: list[torch.Tensor] = []
    stack: list[Any] = [distribution]
    seen: set[int] = set()
    while stack:
        one = stack.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one)
        elif isinstance(one, list | tuple):
            stack += list(one)
        elif isinstance(one, distributions.Distribution | distributions.Transform):
            stack += list(vars(one).values())
    return found
