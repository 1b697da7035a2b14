"""A loss as a flat, probed program: which arguments are traced, which are differentiated, which output is the loss."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradaudit.dynamic.jax_flatten import Flat, Value, flatten, live_edges
from gradaudit.dynamic.jax_lines import JaxLines
from gradaudit.dynamic.jax_ops import CLOSED
from gradaudit.dynamic.jax_probe import Probe
from gradaudit.dynamic.jax_trees import PARAM, STATE, Arguments, Slot, arrays_in, is_inexact
from gradaudit.dynamic.recording import LossCall, Update
from gradaudit.dynamic.roles import Roles
from gradaudit.dynamic.state import save_python, seed_python
from gradaudit.dynamic.target import a_kind
from gradaudit.errors import INPUTS, CheckError, UserCodeError

_CONCRETE = tuple(
    getattr(jax.errors, name)
    for name in ("ConcretizationTypeError", "TracerArrayConversionError", "TracerIntegerConversionError")
    if hasattr(jax.errors, name)
) + (jax.errors.NonConcreteBooleanIndexError,)

LOSS_KEYS = ("loss", "total_loss", "total")


@dataclass(slots=True)
class Program:
    """One traced loss.

    traced          slot numbers that are inputs of the jaxpr, in its order
    differentiated  slot numbers the gradient is taken for (`argnums`, and what the user states a role for)
    roles           slot number -> stated role
    scope           id of array -> (name, array), for what the loss captures; `scope_roles` its stated roles by name
    wholes          the names that each trained pattern speaks of
    reached         the values that the loss's gradient reaches
    updates         what the run does to the arguments after the loss
    renews          whether an argument that is differentiated is handed back, as a step does with new parameters
    """

    arguments: Arguments
    traced: list[int]
    differentiated: set[int]
    roles: dict[int, str]
    scope: dict[int, tuple[str, Any]]
    scope_roles: dict[str, str]
    wholes: list[set[str]]
    closed: Any
    flat: Flat
    lines: JaxLines
    names: list[str] = field(default_factory=list)
    reached: set[Value] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    updates: Sequence[Update] = ()
    renews: bool = False

    @property
    def slots(self) -> list[Slot]:
        return self.arguments.slots

    def inputs(self) -> dict[int, Value]:
        """Slot number -> the value it is in the flat program."""
        return dict(zip(self.traced, self.flat.inputs, strict=True))


def trace(call: LossCall, roles: Roles, probe: Probe) -> Program:
    """Trace the loss of a call. Raises `CheckError` with one clear line where that cannot be done."""
    values, names, invoke, chosen = _bind(call)
    notes: list[str] = []
    arguments = Arguments(values, names, chosen)
    if call.argnums is None and not any(slot.argument in chosen for slot in arguments.slots):
        chosen = _first_with_arrays(arguments, names, notes) or chosen
    if call.argnums is None and not roles:
        _refuse_batch(arguments)
    scope = arrays_in(call.scope)
    roles = _without_state(roles, arguments, notes)
    stated = _stated(roles, arguments.slots, arguments.arrays, scope, names, chosen, call.aliases)
    differentiated = _filtered(call, arguments, _differentiated(arguments, names, chosen))
    differentiated |= {i for i in stated[0] if is_inexact(arguments.arrays[i])}
    restore = save_python([*values, *call.scope.values()])
    try:
        seed_python(call.seed)
        result = Result()
        traced, closed = _make_jaxpr(arguments, result.of(invoke), differentiated, notes)
    finally:
        restore()
    lines = JaxLines(call.roots)
    flat = flatten(closed, [arguments.slots[i].name for i in traced], lines, CLOSED)
    probe.run(flat)
    by_slot, captured, wholes = stated
    program = Program(
        arguments,
        traced,
        differentiated,
        by_slot,
        scope,
        captured,
        wholes,
        closed,
        flat,
        lines,
        names,
        reached(flat),
        notes,
        call.updates,
        any(result.holds(values[number]) for number in chosen),
    )
    return program


class Result:
    """What a call returned when it was traced."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def of(self, invoke: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
        """The same call, whose result is looked at."""

        def call(values: Sequence[Any]) -> Any:
            result = invoke(values)
            self.parts = list(result) if isinstance(result, tuple | list) else []
            self.parts += [inner for part in self.parts if type(part) in (tuple, list) for inner in part]
            return result

        return call

    def holds(self, value: Any) -> bool:
        """Whether a part of it has the form of this value, array by array."""
        form = _form(value)
        return any(_form(part) == form for part in self.parts)


def _form(value: Any) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, structure = jax.tree_util.tree_flatten(value)
    return structure, [tuple(getattr(leaf, "shape", ())) for leaf in leaves]


def reached(flat: Flat) -> set[Value]:
    """The values that gradient reaches from the loss."""
    sources: dict[Value, list[Value]] = {}
    for source, result in live_edges(flat):
        sources.setdefault(result, []).append(source)
    seen = set(flat.outputs[:1])
    waiting = list(seen)
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


def _bind(call: LossCall) -> tuple[list[Any], list[str], Callable[[Sequence[Any]], Any], set[int]]:
    """(values, their names, the call with other values, the differentiated ones)."""
    function, args, kwargs, names = _positional(call)
    shift = 0
    owner = getattr(function, "__self__", None)
    if owner is not None and hasattr(function, "__func__") and _trainable(owner):
        function, args, shift = function.__func__, [owner, *args], 1
        names.insert(0, next((key for key, value in call.scope.items() if value is owner), "self"))
    count, keys = len(args), list(kwargs)

    def invoke(values: Sequence[Any]) -> Any:
        return function(*values[:count], **dict(zip(keys, values[count:], strict=True)))

    values = [*args, *kwargs.values()]
    chosen = {0} if call.argnums is None else {_argnum(n, count - shift) + shift for n in call.argnums}
    if call.argnums is None and not values:
        raise CheckError(f"{call.target} takes no argument: nothing can be differentiated (jax.grad needs one)")
    return values, [*names, *keys], invoke, chosen


def _positional(call: LossCall) -> tuple[Callable[..., Any], list[Any], dict[str, Any], list[str]]:
    """The call as jax.grad wants it: by position where the function allows it."""
    names = [*call.names, *(f"arg{i}" for i in range(len(call.names), len(call.args)))]
    try:
        bound = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return call.function, list(call.args), dict(call.kwargs), names[: len(call.args)]
    order = [name for name in bound.signature.parameters if name not in bound.kwargs]
    names += order[len(names) :] if len(bound.args) > len(names) else []
    return call.function, list(bound.args), dict(bound.kwargs), names[: len(bound.args)]


def _first_with_arrays(arguments: Arguments, names: list[str], notes: list[str]) -> set[int]:
    """Where argument 0 holds no array at all (a function, a graph definition), the first that does."""
    pairs = zip(arguments.slots, arguments.arrays, strict=True)
    found = next((slot.argument for slot, array in pairs if slot.kind == PARAM and is_inexact(array)), None)
    if found is None:
        return set()
    notes.append(f"differentiated for `{names[found]}`, the first argument with parameters")
    return {found}


def _refuse_batch(arguments: Arguments) -> None:
    """A loss of nothing but arrays that share their first axis is given a batch: none of them is a parameter."""
    shapes = [np.shape(array) for array in arguments.arrays]
    rows = {shape[:1] for shape in shapes}
    if len(shapes) > 1 and len(rows) == 1 and () not in rows and not any(slot.keys for slot in arguments.slots):
        raise CheckError(
            f"the arguments are plain arrays of {rows.pop()[0]} rows each and none is a parameter, so there is nothing "
            "to audit: name the function that calls the networks, and pass their parameters; or say with --argnums "
            "which of these gradient is taken for"
        )


def _without_state(roles: Roles, arguments: Arguments, notes: list[str]) -> Roles:
    """The roles that are stated of parameters: state (what no nnx.Param holds, batch statistics) needs none."""
    by_kind: dict[bool, list[str]] = {True: [], False: []}
    for slot in arguments.slots:
        by_kind[slot.kind == STATE].append(slot.name)
    kept, told = roles.without_state(by_kind[False], by_kind[True])
    notes += told
    return kept


def _argnum(number: int, count: int) -> int:
    if not -count <= number < count:
        raise CheckError(f"--argnums {number}: the loss takes {count} positional argument{'s' if count != 1 else ''}")
    return number % count


def _trainable(owner: Any) -> bool:
    """Whether the object that a loss is bound to is itself a tree of arrays (an equinox or nnx module)."""
    leaves = jax.tree_util.tree_leaves(owner)
    return not (len(leaves) == 1 and leaves[0] is owner) and any(is_inexact(leaf) for leaf in leaves)


def _filtered(call: LossCall, arguments: Arguments, differentiated: set[int]) -> set[int]:
    """Of the slots of nnx objects, those that their filters take."""
    for number, chosen in call.filters.items():
        value = call.args[number] if number < len(call.args) else None
        taken = set(map(id, jax.tree_util.tree_leaves(sys.modules["flax.nnx"].state(value, chosen))))
        mine = {slot for slot in differentiated if arguments.slots[slot].argument == number}
        differentiated -= {slot for slot in mine if id(arguments.arrays[slot]) not in taken}
    return differentiated


def _differentiated(arguments: Arguments, names: list[str], chosen: set[int]) -> set[int]:
    pairs = list(zip(arguments.slots, arguments.arrays, strict=True))
    wanted = {i for i, (slot, array) in enumerate(pairs) if slot.argument in chosen and slot.kind == PARAM}
    floats = {i for i in wanted if isinstance(pairs[i][1], float) or is_inexact(pairs[i][1])}
    if floats:
        return floats
    listed = ", ".join(f"`{names[i]}`" for i in sorted(chosen))
    held = ", ".join(sorted({f"{array.dtype}{list(array.shape)}" for i, (_, array) in enumerate(pairs) if i in wanted}))
    raise CheckError(
        f"argument {listed} holds no floating-point array to differentiate{f' ({held})' if held else ''}; "
        "name the argument with the parameters by --argnums"
    )


def _stated(
    roles: Roles,
    slots: list[Slot],
    arrays: list[Any],
    scope: Mapping[int, tuple[str, Any]],
    names: list[str],
    chosen: set[int],
    aliases: Mapping[str, tuple[str, ...]],
) -> tuple[dict[int, str], dict[str, str], list[set[str]]]:
    """Stated roles of slots and of captured arrays, and the names that each trained pattern speaks of.

    Below a differentiated argument its own name may be left out.
    """
    if not roles:
        return {}, {}, []
    spellings: dict[str, list[str]] = {}
    for slot, array in zip(slots, arrays, strict=True):
        if slot.kind != STATE and (is_inexact(array) or isinstance(array, float)):
            short = ".".join(slot.keys)
            known = spellings.setdefault(slot.name, [])
            if slot.argument in chosen and short and slot.keys[0] not in names:
                known.append(short)
    for name, array in scope.values():
        if is_inexact(array):
            head, dot, rest = name.partition(".")
            spellings.setdefault(name, [f"{other}{dot}{rest}".lstrip(".") for other in aliases.get(head, ())])
    assigned = roles.assign(spellings)
    by_slot = {i: assigned[slot.name] for i, slot in enumerate(slots) if slot.name in assigned}
    slot_names = {slot.name for slot in slots}
    captured = {name: role for name, role in assigned.items() if name not in slot_names}
    return by_slot, captured, roles.wholes(spellings)


def _make_jaxpr(
    arguments: Arguments, invoke: Callable[[Sequence[Any]], Any], differentiated: set[int], notes: list[str]
) -> tuple[list[int], Any]:
    everything, kept = list(range(len(arguments.arrays))), len(notes)
    try:
        return everything, _trace(arguments, invoke, everything, notes)
    except _CONCRETE:
        # Python decides on an input's value: allowed under jax.grad without jit, so keep the inputs concrete.
        del notes[kept:]
        notes.append("the loss looks at the values of its inputs: they were kept as constants")
    some = sorted(differentiated)
    try:
        with jax.ensure_compile_time_eval():
            return some, _trace(arguments, invoke, some, notes)
    except _CONCRETE as error:
        raise CheckError(
            "the loss turns a value that depends on its parameters into a Python number: "
            f"{_first_line(error).rstrip('.')}; stay in jax up to the loss (`jnp.where` or `jax.lax.cond` for a choice)"
        ) from error


def _trace(
    arguments: Arguments, invoke: Callable[[Sequence[Any]], Any], traced: Iterable[int], notes: list[str]
) -> Any:
    numbers = list(traced)

    def loss(*moving: Any) -> Any:
        arrays = list(arguments.arrays)
        for i, array in zip(numbers, moving, strict=True):
            arrays[i] = array
        return scalar(invoke(arguments.rebuild(arrays)), notes)

    try:
        return jax.make_jaxpr(loss)(*(arguments.arrays[i] for i in numbers))
    except (CheckError, UserCodeError, *_CONCRETE):
        raise
    except Exception as error:
        kind = type(error).__name__
        hint = "pass the module that it changes as an argument" if kind == "TraceContextError" else INPUTS
        raise UserCodeError(f"the loss raised {kind}: {_first_line(error).rstrip('.')}; {hint}", error) from error


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")


def scalar(result: Any, notes: list[str]) -> Any:
    """The loss among what a loss function returns: the value, the first of a tuple, a dictionary's loss or sum."""
    if isinstance(result, Mapping):
        return _of_dict(result, notes)
    if isinstance(result, tuple | list) and result:
        if not isinstance(result[0], Mapping):
            notes.append("the loss is the first of the returned values")
        return scalar(result[0], notes)
    if isinstance(result, bool | int | float):
        return jnp.asarray(float(result))
    if not hasattr(result, "dtype") or not hasattr(result, "shape"):
        raise CheckError(
            f"the loss function returned {a_kind(result)}, not a scalar array"
            "; name the function that jax.grad is taken of, not the step around it"
        )
    if result.shape != ():
        raise CheckError(f"the loss has shape {list(result.shape)}: take its mean or sum, a loss is a scalar")
    if jnp.issubdtype(result.dtype, jnp.integer) or result.dtype == bool:
        return jnp.asarray(result).astype(jnp.float32)  # it is a number all the same: what made it whole is told
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise CheckError(f"the loss is of type {result.dtype}, which has no gradient")
    return result


def _of_dict(result: Mapping[Any, Any], notes: list[str]) -> Any:
    for key in LOSS_KEYS:
        if key in result:
            notes.append(f"the loss is the returned {key!r}")
            return scalar(result[key], notes)
    floats = {key: value for key, value in result.items() if _is_scalar(value)}
    if not floats:
        raise CheckError(f"the loss function returned a dictionary without a scalar: {', '.join(map(str, result))}")
    notes.append(f"the loss is the sum of {', '.join(map(str, floats))}")
    return sum(list(floats.values())[1:], next(iter(floats.values())))


def _is_scalar(value: Any) -> bool:
    return hasattr(value, "dtype") and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating)
