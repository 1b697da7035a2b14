"""Python's built-in functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import (
    FALSE,
    MISSING,
    NONE,
    TRUE,
    UNNAMED,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Union,
    Unknown,
    counter,
    plain,
)
from gradaudit.tape import ALWAYS, Edge, Node

OF_CONTAINERS = frozenset({"__len__", "__iter__", "__getitem__"})


class Builtin(Machine):
    def call_builtin(self, name: str, args: Args, keywords: Keywords) -> Any:
        handler = BUILTIN.get(name)
        if handler is not None:
            return handler(self, args, keywords)
        if name in ("print", "setattr_", "breakpoint"):
            return NONE
        made = Unknown(name)
        made.call = True
        return made

    def _builtin_sequence(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else Sequence((), None, "list")
        if isinstance(value, Sequence):
            made = Sequence(value.items, value.rest, "list")
            made.time = self.tick()
            return made
        if isinstance(value, Mapping):
            return Sequence([Const(key) for key in value.known()], None, "list")
        if isinstance(value, Instance) and (
            value.children is not None or value.cls is not None and not self.is_module(value)
        ):
            items, rest = self.iterate(value)
            return Sequence(items, rest, "list")
        return value

    def _reversed(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else NONE
        return Sequence(value.items[::-1], value.rest, "list") if isinstance(value, Sequence) else value

    def _builtin_dict(self, args: Args, keywords: Keywords) -> Any:
        made = Mapping()
        if args and isinstance(args[0], Mapping):
            made.entries.update(args[0].entries)
        elif args and isinstance(args[0], Sequence):
            for pair in args[0].items:
                if isinstance(pair, Sequence) and len(pair.items) == 2 and isinstance(pair.items[0], Const):
                    made.entries[pair.items[0].value] = pair.items[1]
            if isinstance(args[0].rest, Sequence) and len(args[0].rest.items) == 2:
                made.entries[MISSING] = args[0].rest.items[1]
        elif args and isinstance(args[0], Parameters):
            return StateDict(args[0].leaves, live=True)
        made.entries.update(keywords)
        return made

    def _zip(self, args: Args, keywords: Keywords) -> Any:
        known = [value for value in args if isinstance(value, Sequence) and value.rest is None and value.items]
        if known:
            length = min(len(value.items) for value in known)
            rows = [Sequence([self._nth(value, index) for value in args]) for index in range(length)]
            return Sequence(rows, None, "list")
        return Sequence((), Sequence([self.element(value) for value in args]), "list")

    def _nth(self, value: Any, index: int) -> Any:
        if isinstance(value, Sequence) and index < len(value.items):
            return value.items[index]
        return self.element(value)

    def _enumerate(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else NONE
        count = plain("i") if len(args) > 1 or keywords else counter()
        if isinstance(value, Instance) and value.children is not None:
            value = value.children
        if isinstance(value, Sequence):
            if value.items:
                count = plain("i")
            rest = Sequence((count, value.rest)) if value.rest is not None else None
            return Sequence([Sequence((Const(i), item)) for i, item in enumerate(value.items)], rest, "list")
        return Sequence((), Sequence((count, self.element(value))), "list")

    def _range(self, args: Args, keywords: Keywords) -> Any:
        if len(args) == 1 and isinstance(args[0], Const) and isinstance(args[0].value, int) and args[0].value <= 2:
            return Sequence([Const(index) for index in range(args[0].value)])
        from_zero = len(args) == 1 or len(args) > 1 and isinstance(args[0], Const) and args[0].value == 0
        return Sequence((), counter() if from_zero else plain("i"))

    def _len(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else NONE
        if isinstance(value, Sequence) and value.rest is None and value.kind == "tuple":
            return Const(len(value.items))
        return plain("len")

    def _isinstance(self, args: Args, keywords: Keywords) -> Any:
        if len(args) < 2:
            return Unknown("isinstance")
        value, wanted = args[0], args[1]
        if isinstance(value, Unknown) and isinstance(value.annotation, ClassValue):
            value = self.materialise(value) or value
        classes = list(wanted.items) if isinstance(wanted, Sequence) else [wanted]
        if isinstance(value, Union):
            return self._is_some_instance(value, classes)
        answer = self._is_any_instance(value, classes)
        return plain("isinstance") if answer is None else TRUE if answer else FALSE

    def _is_some_instance(self, value: Union, classes: list[Any]) -> Any:
        """Of one of several: which of them it is not where the answer is yes, and where it is no."""
        told = (Instance, Sequence, Mapping, Node)
        answers = {part: self._is_any_instance(part, classes) for part in value.alternatives if isinstance(part, told)}
        kinds = set(answers.values()) if len(answers) == len(value.alternatives) else {None}
        if len(kinds) == 1 and None not in kinds:
            return TRUE if kinds.pop() else FALSE
        made = plain("isinstance")
        wrong, right = (frozenset(part for part, answer in answers.items() if answer is said) for said in (False, True))
        made.flag_of = ("isinstance", wrong, right)
        return made

    def _is_any_instance(self, value: Any, classes: list[Any]) -> bool | None:
        answers = [self._is_instance(value, cls) for cls in classes]
        return True if True in answers else None if None in answers else False

    def _is_instance(self, value: Any, cls: Any) -> bool | None:
        if isinstance(value, Instance) and value.cls is not None:
            if isinstance(cls, ClassValue):
                return any(isinstance(base, ClassValue) and base.node is cls.node for base in self.mro(value.cls))
            if isinstance(cls, External):
                return any(isinstance(base, External) and base.tail == cls.tail for base in self.mro(value.cls)) or None
        if isinstance(cls, External):
            if isinstance(value, Node):
                if cls.tail in ("Tensor", "Array", "ndarray"):
                    return cls.tail != "ndarray" or None
                return False if cls.root == "builtins" else None
            if isinstance(value, Sequence):
                return cls.tail in ("tuple", "list", "set", "Sequence", "Iterable")
            if isinstance(value, Mapping):
                return cls.tail in ("dict", "Mapping", "OrderedDict", "FrozenDict")
            if isinstance(value, Const) and cls.root == "builtins":
                return type(value.value).__name__ == cls.tail
            if isinstance(value, Function):
                return False if cls.root == "builtins" else None
        return None

    def _getattr(self, args: Args, keywords: Keywords) -> Any:
        if len(args) > 1 and isinstance(args[1], Const) and isinstance(args[1].value, str):
            return self.settle(self.get_attribute(args[0], args[1].value))
        unnamed = args[0].attrs.get(UNNAMED) if args and isinstance(args[0], Instance) else None
        if unnamed is not None:
            return self.element(unnamed)
        if args and isinstance(args[0], Mapping):
            return self.element(args[0])
        made = Unknown("attribute")
        if args and isinstance(args[0], External) and args[0].path.startswith("torch.nn"):
            made.flag_of = "torch.nn"
        return made

    def _setattr(self, args: Args, keywords: Keywords) -> Any:
        if len(args) > 2 and isinstance(args[1], Const) and isinstance(args[1].value, str):
            self.set_attribute(args[0], args[1].value, args[2])
        elif len(args) > 2 and isinstance(args[0], Instance):
            self.set_unnamed(args[0], args[2])
        return NONE

    def _hasattr(self, args: Args, keywords: Keywords) -> Any:
        if len(args) > 1 and isinstance(args[1], Const):
            value, name = args[0], args[1].value
            if isinstance(value, (Sequence, Mapping)) and name in OF_CONTAINERS:
                return TRUE
            if isinstance(value, Instance):
                return self._has(value, str(name))
        return plain("hasattr")

    def _has(self, instance: Instance, name: str) -> Any:
        if name in instance.attrs:
            return TRUE
        if instance.cls is not None and self.member(instance.cls, name)[0] is not MISSING:
            return TRUE
        if name in OF_CONTAINERS and self.is_module(instance) and instance.children is None:
            return FALSE  # `modules if hasattr(modules, "__len__") else (modules,)`
        return plain("hasattr")

    def _number(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else NONE
        if isinstance(value, Node):
            return self.stop(self.current(value), "number")
        if isinstance(value, Const) and isinstance(value.value, (int, float, bool)):
            return value
        if isinstance(value, Unknown) and value.node is None:
            return value
        return plain("number")

    def _text(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else Const("")
        return Const(str(value.value)) if isinstance(value, Const) else Unknown("text")

    def _abs(self, args: Args, keywords: Keywords) -> Any:
        return self.node("abs", [Edge(self.tensor(args[0]))]) if args and self.nodes_of(args[0]) else Unknown("abs")

    def _reduce(self, op: str, args: Args) -> Any:
        nodes = [node for value in args for node in self.nodes_of(value)]
        if not nodes:
            return Unknown(op)
        return self.node(op, [Edge(node) for node in nodes[:40]])

    def _sum(self, args: Args, keywords: Keywords) -> Any:
        return self._reduce("sum", args)

    def _min(self, args: Args, keywords: Keywords) -> Any:
        return self._reduce("minimum", args)

    def _max(self, args: Args, keywords: Keywords) -> Any:
        return self._reduce("maximum", args)

    def _map(self, args: Args, keywords: Keywords) -> Any:
        if len(args) < 2:
            return Unknown("map")
        if len(args) == 2 and isinstance(args[1], Sequence):
            items, rest = (args[1].items, args[1].rest) if len(args[1].items) <= MAPPED else self.iterate(args[1])
            mapped = [self.settle(self.call(args[0], [item], {})) for item in items]
            more = self.settle(self.call(args[0], [rest], {})) if rest is not None else None
            return Sequence(mapped, more, "list")
        return Sequence((), self.settle(self.call(args[0], [self.element(value) for value in args[1:]], {})), "list")

    def _filter(self, args: Args, keywords: Keywords) -> Any:
        return args[1] if len(args) > 1 else Unknown("filter")

    def _next(self, args: Args, keywords: Keywords) -> Any:
        made = self._generators(args[0]) if args and self.turn is not None else []
        if self.turn is not None and made:  # a generator that is advanced once a turn
            known = [(part.yielded[self.turn], ALWAYS) for part in made if self.turn < len(part.yielded)]
            return self.join(known) if known else NONE
        return self.element(args[0]) if args else NONE

    def _generators(self, value: Any) -> list[Sequence]:
        parts = value.alternatives if isinstance(value, Union) else (value,)
        return [part for part in parts if isinstance(part, Sequence) and part.yielded]

    def _type(self, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else NONE
        if isinstance(value, Instance) and value.cls is not None:
            return value.cls
        return plain("type")

    def _any(self, args: Args, keywords: Keywords) -> Any:
        return plain("condition")

    def _same(self, args: Args, keywords: Keywords) -> Any:
        return args[0] if args else NONE


MAPPED = 16
"""How many items `map` is followed for one by one: they are often unpacked into as many names."""
BUILTIN: dict[str, Callable[[Any, Args, Keywords], Any]] = {
    "list": Builtin._builtin_sequence,
    "tuple": Builtin._builtin_sequence,
    "set": Builtin._builtin_sequence,
    "frozenset": Builtin._builtin_sequence,
    "iter": Builtin._builtin_sequence,
    "sorted": Builtin._builtin_sequence,
    "reversed": Builtin._reversed,
    "dict": Builtin._builtin_dict,
    "zip": Builtin._zip,
    "enumerate": Builtin._enumerate,
    "range": Builtin._range,
    "len": Builtin._len,
    "isinstance": Builtin._isinstance,
    "getattr": Builtin._getattr,
    "setattr": Builtin._setattr,
    "hasattr": Builtin._hasattr,
    "float": Builtin._number,
    "int": Builtin._number,
    "bool": Builtin._number,
    "round": Builtin._number,
    "str": Builtin._text,
    "abs": Builtin._abs,
    "sum": Builtin._sum,
    "min": Builtin._min,
    "max": Builtin._max,
    "map": Builtin._map,
    "filter": Builtin._filter,
    "next": Builtin._next,
    "type": Builtin._type,
    "any": Builtin._any,
    "all": Builtin._any,
    "vars": Builtin._same,
    "property": Builtin._same,
    "staticmethod": Builtin._same,
    "classmethod": Builtin._same,
    "memoryview": Builtin._same,
}
