"""Functions that are a whole update: they take gradients themselves, apply them, and return new parameters.

Such a function is run without jit, so that arguments are arrays and not tracers, and every loss of which it takes a
gradient is noted with the arguments it is called with. Each is then audited like a loss that the user named. A gradient
inside of another one (a meta-gradient's inner update) belongs to the outer loss.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from gradaudit.dynamic.recording import LossCall
from gradaudit.dynamic.state import save_python, seed_python
from gradaudit.dynamic.target import closure_of
from gradaudit.errors import UserCodeError


@dataclass(slots=True)
class Taken:
    """One gradient that was taken: of `function`, at these arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    argnums: tuple[int, ...]


@dataclass(slots=True)
class Watch:
    """Notes what is differentiated while it is `open`."""

    taken: list[Taken] = field(default_factory=list)
    open: bool = True

    def note(self, one: Taken) -> None:
        leaves = jax.tree_util.tree_leaves((one.args, one.kwargs))
        if self.open and not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            self.taken.append(one)


_watching: list[Watch] = []
_TAKERS = (
    ("jax._src.api", "value_and_grad"),
    ("jax", "value_and_grad"),
    ("flax.nnx", "grad"),
    ("flax.nnx", "value_and_grad"),
    ("equinox", "filter_grad"),
    ("equinox", "filter_value_and_grad"),
)
"""What takes gradients, where its users find it; `jax.grad` calls the first."""
_LIBRARIES = ("flax.", "equinox.")


@contextmanager
def watching() -> Iterator[Watch]:
    """For the duration, what takes gradients makes functions that tell what they differentiate."""
    watch = Watch()
    places = [(sys.modules[module], name) for module, name in _TAKERS if module in sys.modules]
    plain = [(module, name, getattr(module, name)) for module, name in places if not _watching]
    for module, name, taker in plain:
        setattr(module, name, _telling(taker))
    _watching.append(watch)
    try:
        yield watch
    finally:
        watch.open = False
        _watching.remove(watch)
        for module, name, taker in plain:
            setattr(module, name, taker)


def _telling(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def taker(fun: Any = None, *others: Any, **options: Any) -> Any:
        if not callable(fun):  # a decorator with options
            return plain(*(() if fun is None else (fun,)), *others, **options)
        gradient = plain(fun, *others, **options)
        argnums = options.get("argnums", others[0] if others else 0)
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums) if isinstance(argnums, tuple) else (0,)

        @functools.wraps(fun)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not (getattr(fun, "__module__", None) or "").startswith(_LIBRARIES):
                for watch in _watching:
                    watch.note(Taken(fun, args, kwargs, numbers))
            return gradient(*args, **kwargs)

        return call

    return taker


def losses_of(call: LossCall) -> list[LossCall]:
    """The losses of which a function takes gradients, each as a call of its own; empty if it takes none.

    UserCodeError where the function raises before it has taken one.
    """
    restore = save_python([*call.args, *call.kwargs.values(), *call.scope.values()])
    with watching() as watch, jax.disable_jit():
        seed_python(call.seed)
        try:
            call.function(*call.args, **call.kwargs)
        except Exception as error:
            if not watch.taken:
                raise UserCodeError(f"`{call.target}` raised {type(error).__name__}: {error}", error) from error
        finally:
            restore()
    return [_as_call(call, one) for one in {_place(one.function): one for one in watch.taken[::-1]}.values()][::-1]


def _place(function: Any) -> object:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code is not None else type(function)


def _as_call(call: LossCall, one: Taken) -> LossCall:
    try:
        names = tuple(inspect.signature(one.function).parameters)
    except (TypeError, ValueError):
        names = ()
    name = getattr(one.function, "__qualname__", type(one.function).__name__)
    return replace(
        call,
        target=f"{call.target} > {name}",
        function=one.function,
        args=one.args,
        kwargs=one.kwargs,
        names=names[: len(one.args)],
        scope=closure_of(one.function) | call.scope,
        argnums=one.argnums,
        framework="jax",
    )
