"""Functions that are a whole update: they call `backward()` themselves, step optimizers and clear gradients.

What they do is logged in order. To audit the k-th loss of such a function it is run up to its k-th `backward()`, where
the loss is taken out of it; everything before that has happened as it would. A function that never calls `backward()`
and takes gradient for parameters by `torch.autograd.grad` is audited in the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradaudit.dynamic.lines import Lines
from gradaudit.tape import Call, Location, Node


class Reached(BaseException):
    """Unwinds the user's function with the loss that it was about to differentiate; no `except Exception` stops it."""

    def __init__(self, loss: torch.Tensor) -> None:
        super().__init__("backward")
        self.loss = loss


ROUNDS = 2
"""How often a loss that is differentiated in a loop is audited: the second time shows what the first one left."""
FORMS = 3
"""Of how many forms a loss on one line is audited: a setting may give it terms in one round that it has not in another.
"""

BACKWARD = "backward"
GRADIENT = "gradient"


class Differentiated(Exception):
    """The function differentiates losses itself, by entries of this `kind`."""

    def __init__(
        self, entries: list[Entry], kind: str, place: Mapping[Node, tuple[int, int]], leaves: list[torch.Tensor]
    ) -> None:
        super().__init__(kind)
        self.entries = entries
        self.kind = kind
        self.place = place
        self.leaves = leaves

    def after(self, part: int, leaves: list[torch.Tensor]) -> list[Entry]:
        """What happens after the `part`-th loss has been differentiated.

        `leaves`: what another run took from outside, in order. What the function makes itself is made anew in it.
        """
        places = [position for position, one in enumerate(self.entries) if one.kind == self.kind]
        lasting = {id(one) for one in self.leaves} & {id(one) for one in leaves}
        known = {
            id(mine): its
            for mine, its in zip(self.leaves, leaves, strict=False)
            if mine.shape == its.shape and lasting.isdisjoint((id(mine), id(its)))
        }
        return [_of_run(one, known) for one in self.entries[places[part] + 1 :]]

    def trained(self) -> frozenset[int]:
        """The identities of all that any of its losses takes gradient into, audited or not."""
        return frozenset().union(*(one.trains for one in self.entries))

    def parts(self) -> list[int]:
        """Which of its losses to audit: of each line that differentiates, the first few of one form from one place.

        A helper that steps any optimizer differentiates on one line; whoever calls it is what tells its losses apart.
        """
        rounds = [(lines_of(one), one.form) for one in self.entries if one.kind == self.kind]
        forms = [list(dict.fromkeys(form for other, form in rounds if other == place)) for place, _ in rounds]
        return [
            part
            for part, one in enumerate(rounds)
            if rounds[:part].count(one) < ROUNDS and one[1] in forms[part][:FORMS]
        ]


@dataclass(frozen=True, slots=True)
class Entry:
    """backward of `loss` (for `tensors`, where it is asked for some); gradient for `tensors`, the parameters, step or
    clear of them; copy or soft_update of `sources` into them, which keeps `weight` of what was there. `form`: the kinds
    of operations that a loss is made of, and the sizes of its parameters; `trains`: the identities of these."""

    kind: str
    time: int
    location: Location
    tensors: tuple[torch.Tensor, ...] = ()
    optimizer: torch.optim.Optimizer | None = None
    call: Call | None = None
    loss: Node | None = None
    sources: tuple[torch.Tensor, ...] = ()
    weight: float | None = None
    form: frozenset[object] = frozenset()
    trains: frozenset[int] = frozenset()


def _of_run(entry: Entry, known: Mapping[int, torch.Tensor]) -> Entry:
    """The entry with the tensors of another run in the place of its own."""
    return replace(
        entry,
        tensors=tuple(known.get(id(one), one) for one in entry.tensors),
        sources=tuple(known.get(id(one), one) for one in entry.sources),
    )


def lines_of(entry: Entry | Node) -> list[tuple[str, int]]:
    """Where it stands, and the calls around it."""
    found, call = [(entry.location.path, entry.location.line)], entry.call
    while call is not None:
        found.append((call.location.path, call.location.line))
        call = call.parent
    return found


@dataclass(slots=True)
class Updates:
    """The log of one run. `part`: which of what is of this `kind` to stop at (None: run to the end)."""

    part: int | None
    lines: Lines
    kind: str = BACKWARD
    entries: list[Entry] = field(default_factory=list)
    paused: int = 0
    plain_gradient: Callable[..., Any] = torch.autograd.grad
    now: Callable[[], int] = lambda: 0
    node_of: Callable[[torch.Tensor], Node] | None = None
    differentiated: Callable[[torch.Tensor, Iterable[Any]], None] = lambda loss, made: None
    """Told of gradients that are numbers from here on, and of what they are of."""
    reached: Callable[[], None] = lambda: None
    """Called where the loss that is asked for is about to be differentiated, with its function still on the stack."""

    def backward(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In place of `Tensor.backward`."""
        location, call = self.lines.here(2)
        loss = self.node_of(args[0]) if self.node_of is not None and args[0].requires_grad else None
        behind = _behind(args[0]) if self.part is None else set()
        if isinstance(kwargs.get("inputs"), Iterator):  # `model.parameters()`: gone once it has been looked at
            kwargs = {**kwargs, "inputs": tuple(kwargs["inputs"])}
        asked = tuple(_flat(kwargs["inputs"])) if kwargs.get("inputs") is not None else ()
        reached = _reached(behind)
        trains = reached & {id(one) for one in asked} if asked else reached
        entry = Entry(BACKWARD, self.now(), location, asked, call=call, loss=loss, form=_form(behind), trains=trains)
        self._reach(entry, args[0])
        if self.part is not None and not args[0].requires_grad:
            return None  # a loss before the one that is asked for, and nothing to differentiate in it
        try:
            return self._make(function, args, kwargs)
        except RuntimeError:
            if self.part is not None:
                raise
            return None  # a graph that is freed or written over: what is stepped afterwards is to be seen all the same

    def gradient(self, outputs: Any, inputs: Any, *others: Any, **kwargs: Any) -> Any:
        """In place of `torch.autograd.grad`. One with a graph of its own is the end of a loss if it is taken for
        parameters (of a divergence, for its curvature), else a part of one (a penalty)."""
        told = dict(zip(("grad_outputs", "retain_graph", "create_graph", "only_inputs"), others, strict=False)) | kwargs
        if isinstance(inputs, Iterator):  # `model.parameters()`: gone once it has been looked at
            inputs = tuple(inputs)
        losses, leaves = _flat(outputs), _flat(inputs)
        again = bool(told.get("create_graph"))
        if self.paused or len(losses) != 1 or losses[0].numel() != 1:
            return self.plain_gradient(outputs, inputs, *others, **kwargs)
        if leaves and all(_is_trained(one) if again else one.is_leaf and one.requires_grad for one in leaves):
            location, call = self.lines.here(2)
            self._reach(Entry(GRADIENT, self.now(), location, tuple(leaves), call=call), losses[0])
        if again:
            return self.plain_gradient(outputs, inputs, *others, **kwargs)
        made = self._make(self.plain_gradient, (outputs, inputs), told)
        self.differentiated(losses[0], made)
        return made

    def taken(self, kind: str) -> int:
        """How many gradients have been taken in this way."""
        return sum(entry.kind == kind for entry in self.entries)

    def _reach(self, entry: Entry, loss: torch.Tensor) -> None:
        number = self.taken(entry.kind)
        self.entries.append(entry)
        if entry.kind == self.kind and number == self.part:
            self.reached()
            raise Reached(loss)

    def _make(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.paused += 1
        try:
            return function(*args, **({**kwargs, "retain_graph": True} if self.part is not None else kwargs))
        finally:
            self.paused -= 1

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.paused += 1

    def after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.paused -= 1
        self._log("step", held_by(optimizer), optimizer)

    def _log(self, kind: str, tensors: tuple[torch.Tensor, ...], optimizer: torch.optim.Optimizer | None) -> None:
        location, _ = self.lines.here(2)
        self.entries.append(Entry(kind, self.now(), location, tensors, optimizer))

    @contextmanager
    def watch(self, function: Any) -> Iterator[None]:
        """Log steps, clears and gradients for the duration; `function` may know `torch.autograd.grad` by a name of its
        module."""
        hooks = [register_optimizer_step_pre_hook(self.before_step), register_optimizer_step_post_hook(self.after_step)]
        plain, of_module = torch.optim.Optimizer.zero_grad, torch.nn.Module.zero_grad

        @wraps(plain)
        def clear(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
            plain(optimizer, *args, **kwargs)
            self._log("clear", held_by(optimizer), optimizer)

        @wraps(of_module)
        def clear_module(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
            of_module(module, *args, **kwargs)
            self._log("clear", tuple(module.parameters()), None)

        @wraps(self.plain_gradient)
        def gradient(*args: Any, **kwargs: Any) -> Any:
            return self.gradient(*args, **kwargs)

        names = getattr(inspect.unwrap(function), "__globals__", {})
        own = [name for name, value in names.items() if value is self.plain_gradient]
        torch.optim.Optimizer.zero_grad, torch.nn.Module.zero_grad = clear, clear_module
        torch.autograd.grad = gradient
        names.update(dict.fromkeys(own, gradient))
        try:
            yield
        finally:
            torch.optim.Optimizer.zero_grad, torch.nn.Module.zero_grad = plain, of_module
            torch.autograd.grad = self.plain_gradient
            names.update(dict.fromkeys(own, self.plain_gradient))
            for hook in hooks:
                hook.remove()


def _behind(loss: torch.Tensor) -> set[Any]:
    """The functions of a loss's graph."""
    seen: set[Any] = {loss.grad_fn} - {None}
    waiting = list(seen)
    while waiting:
        new = {below for below, _ in waiting.pop().next_functions} - seen - {None}
        seen |= new
        waiting += new
    return seen


def _form(functions: Iterable[Any]) -> frozenset[object]:
    variables = ((one, getattr(one, "variable", None)) for one in functions)
    return frozenset(one.name() if variable is None else tuple(variable.shape) for one, variable in variables)


def _reached(functions: Iterable[Any]) -> frozenset[int]:
    return frozenset(id(one.variable) for one in functions if getattr(one, "variable", None) is not None)


def taken_by(loss: Node, place: Mapping[Node, tuple[int, int]], calls: int) -> set[tuple[int, int]]:
    """The values of the first `calls` calls that gradient of a later loss meets first."""
    found: set[tuple[int, int]] = set()
    seen, waiting = {loss}, [loss]
    while waiting:
        for edge in waiting.pop().inputs:
            if not edge.passes or edge.source in seen:
                continue
            seen.add(edge.source)
            made = place.get(edge.source)
            if made is not None and made[0] < calls:
                found.add(made)
            else:
                waiting.append(edge.source)
    return found


def _is_trained(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter) and tensor.is_leaf and tensor.requires_grad


def _flat(value: Any) -> list[torch.Tensor]:
    """Outputs or inputs of `torch.autograd.grad`: a tensor or a sequence of them."""
    many = list(value) if isinstance(value, Iterable) and not isinstance(value, torch.Tensor) else [value]
    return [one for one in many if isinstance(one, torch.Tensor)]


def held_by(optimizer: torch.optim.Optimizer) -> tuple[torch.Tensor, ...]:
    """The tensors that an optimizer steps."""
    return tuple(one for group in optimizer.param_groups for one in group["params"])
