"""What library calls do to gradient: the rows of `rules/models/*.toml`, read lazily, a file a library.

A file has

    never, index     words: parameters that never carry gradient, in any row of the file; `index` ones say where
    [families]       a family ("Tensor", "Module", "Distribution" ...) -> the class whose methods it has in this library
    [aliases]        a dotted prefix -> what it is short for; a last component `*` stands for any one module, and on the
                     right for the last component of the left
    [[prefixes]]     like a row, for every name below `names` that has no row of its own
    [[rows]]         names (words with shell-like braces; `root.*.name`: in any class of root), and what they share:
                     op      canonical name; without it the name's last component
                     kind    see `Row`; a name that ends in "_" is "inplace" unless it says otherwise
                     call    words: the parameters; `-x` carries no gradient, `#x` is an index, `+x` does although
                             the file says never, `*x` is variadic. A method's first parameter is called "self".
                     result  what comes back
                     order   words: the positions of the arguments in the order that `op` has on the tape
                     unverified  why the tests cannot check it
                     anything else is `extra`; "=" stands for the name's last component

The words are strings and not lists because a linter that reads a thousand names at every start should not parse them.
"""

from __future__ import annotations

import pkgutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

KINDS = frozenset(
    (
        "op stop constant alloc random identity inplace module plain_module container loss_module parameter optimizer "
        "distribution grad_mode transform raises none"
    ).split()
)
_ROW_KEYS = frozenset(("names", "op", "kind", "call", "result"))
_FAMILY = {"distribution": "Distribution", "module": "Module", "optimizer": "Optimizer"}
_NOTHING: frozenset[str | int] = frozenset()


@dataclass(frozen=True, slots=True)
class Row:
    """One library name.

    path    its canonical dotted name
    op      the tape's name of the operation
    kind    op            a computation: passes gradient from its arguments, `stops` excepted
            stop          passes nothing, but its arguments are data
            constant      independent of gradient and of values (shapes, sizes, `zeros_like`): no inputs worth keeping
            alloc, random fresh storage; random numbers
            identity      returns its first argument
            inplace       writes the result of `op` into its first argument
            module, plain_module, container, loss_module   a class whose instances are called: with parameters, without,
                          with its modules, for the loss `op`. `args` are those of the call of the instance (without
                          "self"); `extra["parameters"]` are the names of a module's own parameters
            parameter, optimizer, distribution             constructors
            grad_mode     `extra["mode"]` is off, on or set
            transform     `extra["handler"]` says who interprets it
            raises, none  returns nothing
    args    parameter names, in order; a method's first one is "self"
    stops   parameters (by name and by position) from which no gradient passes; `index` are those of them that say where
    result  tensor | first (values, indices) | pair | tuple:N | lstm (output, (h, c)) | none | list | struct | dict
    extra   property     an attribute, not a method
            overloads    max, min, median (a reduction, values and indices along a dim, or elementwise); cast (a type
                         without gradient stops); where, select, unique
            single       the op where only the first argument is given (`l2_loss(error)`)
            flag, default, unstopped   a switch, its default (for which `stops` holds), what passes as well without it
            rsample, discrete, wraps   of distributions: pathwise samples, samples that carry nothing, built of another
            parameters, handler, mode  see `kind`
            frozen       of an averaged copy: it switches its own gradient off
            packed       gives a packed sequence, whose `.data` is a tensor with its graph
    """

    path: str
    op: str
    kind: str = "op"
    args: tuple[str, ...] = ()
    stops: frozenset[str | int] = field(default=_NOTHING, repr=False)
    index: frozenset[str | int] = field(default=_NOTHING, repr=False)
    result: str = "tensor"
    extra: Mapping[str, Any] = field(default_factory=dict)
    variadic: str = ""
    """The parameter that takes all remaining positional arguments, or ""."""
    order: tuple[int, ...] = ()
    """Where the library's order is not the tape's: which argument comes first, second ... (empty: as they are)."""

    def argument(self, position: int) -> str:
        """The name of a positional argument, or "" where the row does not know it."""
        if position < len(self.args):
            return self.args[position]
        return self.variadic

    def passes(self, argument: str | int) -> bool:
        """Does gradient go from this argument (name or position) to the result?"""
        if self.kind in ("stop", "constant", "alloc", "random"):
            return False
        name = self.argument(argument) if isinstance(argument, int) else argument
        return argument not in self.stops and name not in self.stops


def expand(pattern: str) -> list[str]:
    """`a.{b,c}{,_}` -> a.b, a.b_, a.c, a.c_ (no nesting)."""
    start = pattern.find("{")
    if start < 0:
        return [pattern]
    end = pattern.index("}", start)
    heads = [pattern[:start] + choice for choice in pattern[start + 1 : end].split(",")]
    tails = expand(pattern[end + 1 :])
    return [head + tail for head in heads for tail in tails]


@dataclass(frozen=True, slots=True)
class _Signature:
    names: tuple[str, ...]
    stops: frozenset[str | int]
    index: frozenset[str | int]
    variadic: str


def _signature(words: str, never: frozenset[str], index: frozenset[str], method: bool) -> _Signature:
    """Read the words of `call`; what the file says of a name holds wherever the word itself has no mark."""
    names: list[str] = []
    stops: set[str | int] = set(never | index)
    places: set[str | int] = set(index)
    variadic = ""
    for position, word in enumerate(words.split()):
        name = word.lstrip("-#+*")
        marks = word[: len(word) - len(name)]
        is_index = "#" in marks or (name in index and not marks.strip("*"))
        is_stop = is_index or "-" in marks or (name in never and "+" not in marks)
        name = "self" if method and not position else name
        names.append(name)
        variadic = name if "*" in marks else variadic
        for wanted, places_of in ((is_stop, stops), (is_index, places)):
            (places_of.update if wanted else places_of.difference_update)((name, position))
    return _Signature(tuple(names), frozenset(stops), frozenset(places), variadic)


class Library:
    """One model file. Rows are built when they are asked for."""

    __slots__ = ("_built", "_index", "_never", "_signatures", "aliases", "families", "groups", "name", "prefixes")

    def __init__(self, name: str, data: Mapping[str, Any]) -> None:
        self.name = name
        self.families: dict[str, str] = data.get("families", {})
        self.aliases: dict[str, str] = {}
        for pattern, target in data.get("aliases", {}).items():
            for name in expand(pattern):
                last = name.rpartition(".")[2]
                self.aliases[name] = target if last == "*" else target.replace("*", last)
        self.prefixes: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self._never = frozenset(data.get("never", "").split())
        self._index = frozenset(data.get("index", "").split())
        self._built: dict[str, Row] = {}
        self._signatures: dict[tuple[str, bool], _Signature] = {}
        for key, table in (("rows", self.groups), ("prefixes", self.prefixes)):
            for group in data.get(key, ()):
                for pattern in group["names"].replace(",\n", ",").split():
                    table.update(dict.fromkeys(expand(pattern), group))

    def row(self, path: str) -> Row | None:
        """The row of exactly this name, or the one for everything below a prefix of it."""
        row = self._built.get(path)
        if row is not None:
            return row
        root, _, rest = path.partition(".")
        group = self.groups.get(path) or self.groups.get(f"{root}.*.{rest.rpartition('.')[2]}")
        head = path
        while group is None and head:
            group = self.prefixes.get(head)
            head = head.rpartition(".")[0]
        if group is None:
            return None
        row = self._built[path] = self._build(path, group)
        return row

    def alias(self, path: str) -> str:
        """`path` with its longest aliased prefix replaced, once."""
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            target = self.aliases.get(".".join(parts[:length]))
            if target is None and 1 < length < len(parts) and parts[length - 1].lstrip("_")[:1].islower():
                target = self.aliases.get(".".join([*parts[: length - 1], "*"]))
            if target is not None:
                return ".".join([target, *parts[length:]])
        return path

    def _build(self, path: str, group: Mapping[str, Any]) -> Row:
        owner, _, last = path.rpartition(".")
        kind = group.get("kind", "op")
        name = last
        if last.endswith("_") and not last.endswith("__"):
            name = last[:-1]
            kind = "inplace" if kind == "op" else kind
        method = owner in self.families.values()
        words = (group.get("call", ""), method)
        signature = self._signatures.get(words)
        if signature is None:
            signature = self._signatures[words] = _signature(words[0], self._never, self._index, method)
        return Row(
            path,
            group.get("op", name),
            kind,
            signature.names,
            signature.stops,
            signature.index,
            group.get("result", "tensor"),
            {key: name if value == "=" else value for key, value in group.items() if key not in _ROW_KEYS},
            signature.variadic,
            tuple(map(int, group.get("order", "").split())),
        )


@cache
def _read(file: str) -> dict[str, Any]:
    """One TOML file of `rules/models`; empty where there is none."""
    try:
        source = pkgutil.get_data("gradaudit.rules", f"models/{file}.toml")
    except FileNotFoundError:
        source = None
    return tomllib.loads(source.decode("utf-8")) if source is not None else {}


@cache
def library(name: str) -> Library:
    """A model file by its name ("torch", "jax", "optax" ...)."""
    return Library(name, _read(name))


class Models:
    """What is known of the libraries that a program imports."""

    __slots__ = ("_canonical", "_frameworks", "_functions", "_methods", "_roots", "libraries")

    def __init__(self, libraries: Iterable[str] = ()) -> None:
        index = _read("index")
        self._roots: dict[str, str] = index["roots"]
        self._frameworks: dict[str, str] = index["frameworks"]
        self._canonical: dict[str, str] = {}
        self._functions: dict[str, Row | None] = {}
        self._methods: dict[tuple[str, str, str], Row | None] = {}
        files = dict.fromkeys(self._roots.get(name, name) for name in libraries)
        self.libraries = tuple(files) or tuple(dict.fromkeys(self._roots.values()))

    @classmethod
    def load(cls, libraries: Iterable[str] = ()) -> Self:
        """For these top-level modules ("torch", "tensorflow" ...; none: all). A file is read at the first question.

        `function` answers for other libraries too; `method` asks only these, in this order.
        """
        return cls(libraries)

    def canonical(self, dotted: str) -> str:
        """The name under which the models know `dotted`: aliases resolved, `tensorflow` -> `tf`, and so on."""
        known = self._canonical.get(dotted)
        if known is None:
            known = self._canonical[dotted] = self._resolve(dotted)
        return known

    def function(self, dotted: str) -> Row | None:
        """The row of a dotted name, or None where nothing is known of it. Methods may be named through their class."""
        if dotted not in self._functions:
            self._functions[dotted] = self._find_function(dotted)
        return self._functions[dotted]

    def _find_function(self, dotted: str) -> Row | None:
        path = self.canonical(dotted)
        owner = self._library(path)
        if owner is None:
            return None
        row = owner.row(path)
        if row is None and (made := owner.row(path.rpartition(".")[0])) is not None and made.kind in _FAMILY:
            row = self.method(_FAMILY[made.kind], path.rpartition(".")[2], owner.name)
        return row

    def method(self, family: str, name: str, framework: str = "") -> Row | None:
        """The row of a method or attribute of a family of values ("Tensor", "Module", "Optimizer", "Distribution" ...).

        `framework` (torch, jax, tensorflow) decides where several libraries have such a method.
        """
        key = (family, name, framework)
        if key not in self._methods:
            self._methods[key] = self._find_method(family, name, framework)
        return self._methods[key]

    def _find_method(self, family: str, name: str, framework: str) -> Row | None:
        order = [*self._frameworks.get(framework, "").split(), *self.libraries]
        for file in order:
            owner = library(file).families.get(family)
            row = library(file).row(f"{owner}.{name}") if owner else None
            if row is not None:
                return row
        return None

    def _library(self, path: str) -> Library | None:
        file = self._roots.get(path.partition(".")[0])
        return library(file) if file else None

    def _resolve(self, dotted: str) -> str:
        for _ in range(8):
            owner = self._library(dotted)
            if owner is None or dotted in owner.groups:
                return dotted
            shorter = owner.alias(dotted)
            if shorter == dotted:
                return dotted
            dotted = shorter
        return dotted
