"""Functions that are a whole update: they take gradients themselves, apply them, and return new parameters.

Such a function is run without jit, so that arguments are arrays and not tracers, and every loss of which it takes a
gradient is noted with the arguments it is called with. Each is then audited like a loss that the user named. A gradient
inside of another one (a meta-gradient's inner update) belongs to the outer loss.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.interpreters.ad import JVPTracer

from gradaudit.dynamic.jax_followed import Move, Teller, updates
from gradaudit.dynamic.jax_made import filters, made_of, numbers
from gradaudit.dynamic.jax_trees import arrays_in
from gradaudit.dynamic.lines import Lines
from gradaudit.dynamic.recording import LossCall
from gradaudit.dynamic.state import save_python, seed_python
from gradaudit.dynamic.target import closure_of
from gradaudit.errors import INPUTS, UserCodeError


@dataclass(slots=True)
class Taken:
    """One gradient that was taken: of `function`, at these arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    argnums: tuple[int, ...]
    filters: dict[int, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Watch:
    """Notes what is differentiated, and how parameters are updated, while it is `open`."""

    taken: list[Taken] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    lines: Lines = field(default_factory=Lines)
    open: bool = True
    depth: int = 0
    """How many gradients are being taken: what is differentiated inside of one belongs to it."""

    def note(self, one: Taken) -> None:
        if self.open and not self.depth:
            args, kwargs = primal((one.args, one.kwargs))
            leaves = jax.tree_util.tree_leaves((args, kwargs))
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                self.taken.append(replace(one, args=args, kwargs=kwargs))


def primal(tree: Any) -> Any:
    """The values of a tree whose derivative along some direction is asked for: `jax.jvp` of a gradient."""
    if not any(isinstance(leaf, JVPTracer) for leaf in jax.tree_util.tree_leaves(tree)):
        return tree
    return jax.tree_util.tree_map(lambda leaf: leaf.primal if isinstance(leaf, JVPTracer) else leaf, tree)


_watching: list[Watch] = []
_TAKERS = (
    ("jax._src.api", "value_and_grad"),
    ("jax", "value_and_grad"),
    ("jax", "jacrev"),
    ("jax", "jacfwd"),
    ("flax.nnx", "grad"),
    ("flax.nnx", "value_and_grad"),
    ("equinox", "filter_grad"),
    ("equinox", "filter_value_and_grad"),
)
"""What makes a function that takes gradients, where its users find it; `jax.grad` calls the first."""
_AT_ONCE = (("jax", "vjp"), ("jax", "linearize"))
"""What takes a function and the arguments at which it is differentiated, for all of them."""
_LIBRARIES = ("flax.", "equinox.")


@contextmanager
def watching(function: Any = None) -> Iterator[Watch]:
    """For the duration, what takes gradients makes functions that tell what they differentiate.

    The module of `function` may have its takers by names of its own, and functions that they made when it was imported.
    """
    watch = Watch()
    changed = [] if _watching else _changed(getattr(inspect.unwrap(function), "__globals__", {}))
    for holder, name, _, telling in changed:
        holder[name] = telling
    _watching.append(watch)
    try:
        yield watch
    finally:
        watch.open = False
        _watching.remove(watch)
        for holder, name, plain, _ in changed:
            holder[name] = plain


def _changed(names: dict[str, Any]) -> list[tuple[dict[str, Any], str, Any, Any]]:
    """(whose names, the name, what it stands for, what it stands for while losses are watched)."""
    found: list[tuple[dict[str, Any], str, Any, Any]] = []
    for places, make in ((_TAKERS, _telling), (_AT_ONCE, _telling_at_once)):
        for module, name in places:
            found += _told(module, name, make)
    for module, name, moving in Teller(_note_move).places():
        found += _told(module, name, moving)
    known = {id(plain): telling for _, _, plain, telling in found}
    for name, value in names.items():
        if id(value) in known:
            found.append((names, name, value, known[id(value)]))
        elif (made := made_of(value)) is not None:
            found.append((names, name, value, _noting(value, *made)))
    return found


def _told(module: str, name: str, make: Callable[[Any], Any]) -> list[tuple[dict[str, Any], str, Any, Any]]:
    holder = vars(sys.modules[module]) if module in sys.modules else {}
    return [(holder, name, holder[name], make(holder[name]))] if name in holder else []


def _note_move(move: Move) -> None:
    for watch in _watching:
        if watch.open:
            watch.moves.append(replace(move, location=watch.lines.here(2)[0]))


@contextmanager
def _taking(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], argnums: Any) -> Iterator[None]:
    """A gradient is taken: everybody notes it."""
    if (getattr(function, "__module__", None) or "").startswith(_LIBRARIES):
        yield
        return
    watches = list(_watching)
    for watch in watches:
        watch.note(Taken(function, args, kwargs, numbers(argnums), filters(argnums)))
        watch.depth += 1
    try:
        yield
    finally:
        for watch in watches:
            watch.depth -= 1


def _noting(gradient: Callable[..., Any], function: Any, argnums: Any) -> Callable[..., Any]:
    """`gradient`, the gradient of `function`, that tells what it is called with."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _taking(function, args, kwargs, argnums):
            return gradient(*args, **kwargs)

    return call


def _telling(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def taker(fun: Any = None, *others: Any, **options: Any) -> Any:
        if not callable(fun):  # a decorator with options
            return plain(*(() if fun is None else (fun,)), *others, **options)
        argnums = options.get("argnums", others[0] if others else 0)
        return _noting(plain(fun, *others, **options), fun, argnums)

    return taker


def _telling_at_once(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def taker(fun: Any, *primals: Any, **options: Any) -> Any:
        with _taking(fun, primals, {}, tuple(range(len(primals)))):
            return plain(fun, *primals, **options)

    return taker


def losses_of(call: LossCall) -> list[LossCall]:
    """The losses of which a function takes gradients, each as a call of its own; empty if it takes none.

    UserCodeError where the function raises before it has taken one.
    """
    restore = save_python([*call.args, *call.kwargs.values(), *call.scope.values()])
    with watching(call.function) as watch, jax.disable_jit():
        seed_python(call.seed)
        try:
            call.function(*call.args, **call.kwargs)
        except Exception as error:
            if not watch.taken:
                text = next((line for line in str(error).splitlines() if line.strip()), "").rstrip(".")
                raise UserCodeError(
                    f"`{call.target}` raised {type(error).__name__}: {text}; {INPUTS}", error
                ) from error
        finally:
            restore()
    return [
        _as_call(call, one, watch.moves) for one in {_place(one.function): one for one in watch.taken[::-1]}.values()
    ][::-1]


def _place(function: Any) -> object:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code is not None else type(function)


def _as_call(call: LossCall, one: Taken, moves: Sequence[Move]) -> LossCall:
    try:
        names = tuple(inspect.signature(one.function).parameters)
    except (TypeError, ValueError):
        names = ()
    name = getattr(one.function, "__qualname__", type(one.function).__name__)
    given, of = [*names[: len(one.args)], *one.kwargs], [*one.args, *one.kwargs.values()]
    return replace(
        call,
        target=f"{call.target} > {name}",
        function=one.function,
        args=one.args,
        kwargs=one.kwargs,
        names=names[: len(one.args)],
        scope=closure_of(one.function) | call.scope,
        argnums=one.argnums,
        filters=one.filters,
        framework="jax",
        updates=tuple(dict.fromkeys(updates(of, given, one.argnums, moves, arrays_in(call.arguments() | call.scope)))),
    )
