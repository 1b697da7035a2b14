"""Functions of the standard library that pass values on: partial, copies, chains, containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradaudit.static.machine import Args, Keywords
from gradaudit.static.options import parser
from gradaudit.static.values import (
    NONE,
    ClassValue,
    Const,
    Mapping,
    Parameters,
    Partial,
    Sequence,
    Transformed,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Node


def partial(machine: Any, args: Args, keywords: Keywords) -> Any:
    return Partial(args[0], args[1:], keywords) if args else Unknown("partial")


def deepcopy(machine: Any, args: Args, keywords: Keywords) -> Any:
    if machine.current_framework == "jax" and args and isinstance(args[0], (Node, Mapping, Unknown)):
        return machine.copied_tree(args[0])
    return machine.clone(args[0]) if args else NONE


def _shallow(machine: Any, args: Args, keywords: Keywords) -> Any:
    value = args[0] if args else NONE
    if machine.current_framework == "tensorflow" and machine.is_module(value):
        return machine.clone(value)  # a builder of layers, whose copy gets another name and variables of its own
    return machine.call_method(value, "copy", [], {}) if isinstance(value, (Sequence, Mapping)) else value


def _chain(machine: Any, args: Args, keywords: Keywords) -> Any:
    leaves: dict[Any, None] = {}
    for value in args:
        if isinstance(value, (Parameters, Sequence)):
            leaves.update(dict.fromkeys(machine.held_by(value)))
    if leaves:
        return Parameters(tuple(leaves))
    parts = [part for value in args for part in machine.iterate(value)[0]]
    rests = [(rest, ALWAYS) for value in args if (rest := machine.iterate(value)[1]) is not None]
    return Sequence(parts, machine.join(rests) if rests else None, "list")


def _cast(machine: Any, args: Args, keywords: Keywords) -> Any:
    return args[1] if len(args) > 1 else Unknown("cast")


def _type_var(machine: Any, args: Args, keywords: Keywords) -> Any:
    made = Unknown("TypeVar")
    made.flag_of = "TypeVar"
    bound = keywords.get("bound")
    if isinstance(bound, ClassValue):
        made.annotation = bound
    return made


def _named_tuple(machine: Any, args: Args, keywords: Keywords) -> Any:
    fields = args[1] if len(args) > 1 else keywords.get("field_names", NONE)
    names: list[str] = []
    if isinstance(fields, Sequence):
        for part in fields.items:
            name = part.items[0] if isinstance(part, Sequence) and part.items else part
            names.append(str(name.value) if isinstance(name, Const) else "?")
    elif isinstance(fields, Const) and isinstance(fields.value, str):
        names = fields.value.replace(",", " ").split()
    return Transformed(Const(tuple(names)), "namedtuple")


def _defaultdict(machine: Any, args: Args, keywords: Keywords) -> Any:
    return Mapping()


def _deque(machine: Any, args: Args, keywords: Keywords) -> Any:
    made = Sequence(args[0].items if args and isinstance(args[0], Sequence) else (), None, "list")
    made.time = machine.tick()
    return made


def _reduce(machine: Any, args: Args, keywords: Keywords) -> Any:
    if len(args) < 2:
        return Unknown("reduce")
    return machine.call(args[0], [machine.element(args[1]), machine.element(args[1])], {})


def _namespace(machine: Any, args: Args, keywords: Keywords) -> Any:
    made = Unknown("namespace")
    made.attrs.update(keywords)
    return made


def _replaced(machine: Any, args: Args, keywords: Keywords) -> Any:
    """`dataclasses.replace(record, field=value)`: as the record's own `_replace` or `replace`."""
    return machine.call_method(args[0], "_replace", [], keywords) if args else Unknown("replace")


def _engine(machine: Any, args: Args, keywords: Keywords) -> Any:
    """`deepspeed.initialize(model=..., optimizer=...)`: the model with a step of its own, and what else was given."""
    model = keywords.get("model", args[1] if len(args) > 1 else Unknown("model"))
    optimizer = keywords.get("optimizer", Unknown("optimizer"))
    return Sequence([model, optimizer, Unknown("loader"), Unknown("scheduler")])


STANDARD: dict[str, Callable[[Any, Args, Keywords], Any]] = {
    "argparse.ArgumentParser": parser,
    "functools.partial": partial,
    "functools.reduce": _reduce,
    "jax.tree_util.Partial": partial,
    "copy.deepcopy": deepcopy,
    "copy.replace": _replaced,
    "dataclasses.replace": _replaced,
    "deepspeed.initialize": _engine,
    "copy.copy": _shallow,
    "itertools.chain": _chain,
    "itertools.chain.from_iterable": lambda machine, args, keywords: machine.element(args[0]) if args else NONE,
    "typing.cast": _cast,
    "typing.TypeVar": _type_var,
    "collections.namedtuple": _named_tuple,
    "typing.NamedTuple": _named_tuple,
    "collections.defaultdict": _defaultdict,
    "collections.OrderedDict": lambda machine, args, keywords: machine.call_builtin("dict", args, keywords),
    "collections.deque": _deque,
    "types.SimpleNamespace": _namespace,
    "contextlib.nullcontext": lambda machine, args, keywords: NONE,
    "itertools.count": lambda machine, args, keywords: Sequence((), plain("i")),
    "itertools.zip_longest": lambda machine, args, keywords: machine.call_builtin("zip", args, {}),
}
