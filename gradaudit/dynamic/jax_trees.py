"""Arguments as trees of named arrays: what can be traced, what stays as it is, what is trained.

A pytree is flattened by jax; a dataclass that jax does not know (a batch) by its fields. Arrays are traced, everything
else (strings, callables, flags, shapes) is put back unchanged.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PARAM = "param"
STATE = "state"
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Slot:
    """One array of an argument: which argument, its dotted path below it, the keys of that path, and its kind:
    param (trainable as far as its container says), state (running statistics, keys, counters, moments: never trained)
    or other (what a TrainState holds beside its parameters: target parameters)."""

    argument: int
    name: str
    keys: tuple[str, ...]
    kind: str = PARAM


class Arguments:
    """The arguments of one call, split into arrays and the rest. `slots[i]` describes `arrays[i]`.

    In the arguments that are differentiated bare Python floats are arrays too.
    """

    def __init__(self, values: Sequence[Any], names: Sequence[str], differentiated: Container[int] = ()) -> None:
        self.slots: list[Slot] = []
        self.arrays: list[Any] = []
        self._shapes = [_Shape(value, index in differentiated) for index, value in enumerate(values)]
        for index, (shape, value, name) in enumerate(zip(self._shapes, values, names, strict=True)):
            kind = _kinds(value)
            for keys, leaf in shape.arrays:
                self.slots.append(Slot(index, ".".join((name, *keys)), keys, kind(keys, leaf)))
                self.arrays.append(leaf)

    def rebuild(self, arrays: Sequence[Any]) -> list[Any]:
        """The arguments with these arrays in place of their own."""
        rest = iter(arrays)
        return [shape.rebuild(rest) for shape in self._shapes]


class _Shape:
    """One argument's structure: a pytree whose leaves are arrays, unregistered dataclasses or anything else."""

    def __init__(self, value: Any, floats: bool = False) -> None:
        pairs, self.tree = jax.tree_util.tree_flatten_with_path(value)
        self.leaves: list[Any] = []
        self.arrays: list[tuple[tuple[str, ...], Any]] = []
        for path, leaf in pairs:
            keys = path_keys(path)
            if is_array(leaf) or (floats and type(leaf) is float):
                self.leaves.append(_HOLE)
                self.arrays.append((keys, leaf))
            elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
                fields = _Fields(leaf)
                self.leaves.append(fields)
                self.arrays += [((*keys, *inner), array) for inner, array in fields.arrays]
            else:
                self.leaves.append(leaf)

    def rebuild(self, rest: Iterator[Any]) -> Any:
        filled = [
            next(rest) if leaf is _HOLE else leaf.rebuild(rest) if isinstance(leaf, _Fields) else leaf
            for leaf in self.leaves
        ]
        return jax.tree_util.tree_unflatten(self.tree, filled)


class _Fields:
    """A dataclass instance that is no pytree: its fields are."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.fields = {
            field.name: _Shape(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if hasattr(value, field.name)
        }
        self.arrays = [((name, *keys), leaf) for name, shape in self.fields.items() for keys, leaf in shape.arrays]

    def rebuild(self, rest: Iterator[Any]) -> Any:
        result = copy.copy(self.value)
        for name, shape in self.fields.items():
            object.__setattr__(result, name, shape.rebuild(rest))
        return result


_HOLE = object()


def is_array(leaf: Any) -> bool:
    """Something jax can trace that is not a bare Python number."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and not (
        isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OUSV"
    )


def is_inexact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def path_keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """A jax key path as plain strings: dictionary keys, attributes, indices."""
    keys = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                keys.append(str(getattr(entry, attribute)))
                break
        else:
            keys.append(str(entry).strip("[].'\""))
    return tuple(_tidy(keys))


def _tidy(keys: list[str]) -> list[str]:
    """Without the `value` in which nnx keeps each variable's array, and haiku's `~`."""
    if len(keys) > 1 and keys[-1] in ("value", "raw_value") and "nnx" in _loaded():
        keys = keys[:-1]
    return [part for key in keys for part in key.split("/") if part not in ("~", "")]


def _loaded() -> tuple[str, ...]:
    return ("nnx",) if "flax.nnx" in sys.modules else ()


def _kinds(value: Any) -> Callable[[tuple[str, ...], Any], str]:
    """How to tell trained arrays from state, by their keys and identity."""
    states = _train_states(value)
    if states:
        return lambda keys, _: next((kind for state in states if (kind := _in_state(keys, state))), PARAM)
    variables = _nnx_variables(value)
    if variables is not None:
        return lambda _, leaf: variables.get(id(leaf), PARAM)
    return lambda keys, _: STATE if keys[:1] in (("batch_stats",), ("cache",)) else PARAM


def _train_states(value: Any) -> list[tuple[str, ...]]:
    """Where in a tree there are TrainStates: parameters beside an optimizer's state."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=is_train_state)
    return [path_keys(path) for path, leaf in pairs if is_train_state(leaf)]


def is_train_state(value: Any) -> bool:
    return hasattr(value, "params") and hasattr(value, "opt_state")


def _in_state(keys: tuple[str, ...], state: tuple[str, ...]) -> str:
    """The kind of an array below a TrainState; "" for what is not below it."""
    if keys[: len(state)] != state:
        return ""
    field = keys[len(state)] if len(keys) > len(state) else ""
    return {"params": PARAM, "opt_state": STATE, "step": STATE, "batch_stats": STATE}.get(field, OTHER)


def _nnx_variables(value: Any) -> dict[int, str] | None:
    """id of array -> kind, for what nnx variables hold; None where there are none."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return None
    leaves = jax.tree_util.tree_leaves(value, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    found = [leaf for leaf in leaves if isinstance(leaf, nnx.Variable)]
    if not found:
        return None
    return {
        id(array): PARAM if isinstance(leaf, nnx.Param) else STATE
        for leaf in found
        for array in jax.tree_util.tree_leaves(leaf)
    }


def arrays_in(scope: Mapping[str, Any]) -> dict[int, tuple[str, Any]]:
    """id of array -> (dotted name, array), for the arrays in named objects: nearest objects first, first name kept."""
    found: dict[int, tuple[str, Any]] = {}
    for name, value in scope.items():
        if callable(value) and not dataclasses.is_dataclass(value) and not hasattr(value, "__dict__"):
            continue
        for keys, array in _reachable(value):
            found.setdefault(id(array), (".".join((name, *keys)), array))
    return found


def _reachable(value: Any) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, type) or type(value).__name__ in ("module", "function", "builtin_function_or_method"):
        return []
    try:
        arrays = _Shape(value).arrays
    except Exception:  # a broken pytree somewhere in the user's module is not ours to report
        return []
    if arrays or not hasattr(value, "__dict__"):
        return arrays
    below = []
    for name, inner in list(vars(value).items())[:200]:
        try:
            below += [((name, *keys), leaf) for keys, leaf in _Shape(inner).arrays]
        except Exception:
            continue
    return below


def has_jax(objects: Mapping[str, Any]) -> bool:
    """Whether any of these objects is or directly holds a jax array."""
    return any(isinstance(array, jax.Array) for _, array in arrays_in(objects).values())


_LAYER = re.compile(
    r"(linear|dense|conv\w*|layers?|(layer|batch|group|rms)_?norm|embed(ding)?|(optimized_?)?lstm\w*|gru\w*|cell|block"
    r"|fc|bn|ln|attention|attn)_?\d*",
    re.IGNORECASE,
)
_TENSOR = re.compile(r"(kernel|bias|[wb]|scale|weights?|embedding|offset|mean|var|count)(_?\d+|_[a-z]{1,2})?")
_NETWORK = re.compile(
    r"actor|critic|policy|value|target|online|teacher|student|enc|dec|predict|project|ema|head|torso|trunk|body|code"
    r"|model|net|q\d?$|qt?$|pi$|v[ft]?$",
    re.IGNORECASE,
)


def stems(slots: Sequence[Slot]) -> list[str]:
    """For every slot the name of the network it belongs to: the container above its layers."""
    result = [""] * len(slots)
    arguments: dict[int, list[int]] = {}
    for i, slot in enumerate(slots):
        arguments.setdefault(slot.argument, []).append(i)
    for members in arguments.values():
        first = slots[members[0]]
        root = first.name[: len(first.name) - len(".".join(first.keys))].rstrip(".")
        _stem(slots, members, root, 0, result)
    return [_without_collection(stem, result) for stem in result]


def _without_collection(stem: str, stems: Sequence[str]) -> str:
    """`target_params` for `target_params.params`: the collection that linen keeps parameters in says nothing."""
    short = stem.removesuffix(".params")
    return short if not any(other != stem and other.startswith(short + ".") for other in stems) else stem


def _stem(slots: Sequence[Slot], members: list[int], prefix: str, depth: int, result: list[str]) -> None:
    children: dict[str, list[int]] = {}
    for i in members:
        keys = slots[i].keys
        children.setdefault(keys[depth] if len(keys) > depth else "", []).append(i)
    flat = all(len(slots[i].keys) <= depth + 1 for i in members)
    pair = children.keys() == {"query", "key"}  # two encoders; attention has a value beside them
    if flat or (not pair and any(not key or _is_layer(slots, key, below, depth) for key, below in children.items())):
        for i in members:
            result[i] = prefix
        return
    for key, below in children.items():
        if len(slots[below[0]].keys) == depth + 1:
            result[below[0]] = f"{prefix}.{key}"
        else:
            _stem(slots, below, f"{prefix}.{key}", depth + 1, result)


def _is_layer(slots: Sequence[Slot], key: str, members: list[int], depth: int) -> bool:
    """A tensor, or a container of tensors, as layers have them: what is around it is a network."""
    if _LAYER.fullmatch(key):
        return True
    keys = slots[members[0]].keys
    if len(keys) == depth + 1:
        return bool(_TENSOR.fullmatch(key))
    tensors = all(len(slots[i].keys) == depth + 2 and _TENSOR.fullmatch(slots[i].keys[-1]) for i in members)
    several = len({slots[i].keys[-1].rstrip("_0123456789") for i in members}) < len(members)  # w0, w1: a network
    return tensors and not several and not _NETWORK.search(key)
