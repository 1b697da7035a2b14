"""Shapes where the text proves them: of layers with a known width, of what is allocated with known axes, and of what
squeezing, reducing and indexing makes of these.

A shape is a tuple of sizes, None where a size is not known. `REST` in front stands for the leading axes, however many,
of what a network was given; they are taken to be as many wherever raw data enters a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from gradaudit.static.values import Const, Sequence, Unknown
from gradaudit.tape import DATA, REST, Node, Shape

Fact = tuple[str, tuple[Any, ...]]
"""What an operation was asked to do: a name (squeeze, view, max ...) and its constants."""

RAW: Shape = ("raw",)
"""Data from outside: of any shape that fits."""

SCALAR: Shape = ()
SAME = frozenset({
    "stop", "cast", "identity", "clone", "copy", "neg", "exp", "log", "tanh", "sigmoid", "relu", "activation", "clamp",
    "abs", "square", "sqrt", "softplus", "dropout", "not", "round", "sign", "nan_to_num", "softmax", "log_softmax",
    "logsigmoid", "store", "silu", "gelu", "elu", "leaky_relu", "scale_gradient",
})  # fmt: skip
PAIRS = frozenset({"add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "compare", "and", "or"})
REDUCTIONS = frozenset(
    {"max", "min", "sum", "mean", "amax", "amin", "prod", "logsumexp", "median", "std", "var", "norm"}
)
RESHAPES = frozenset({"squeeze", "view", "reshape", "flatten", "ravel"})
ASKED = REDUCTIONS | {"reshape", "gather"}
"""Operations whose constants are kept as facts."""

NORMALISERS = re.compile(r"Norm|Dropout|Identity")
WIDTHS = {"Linear": (1, ("out_features",)), "LazyLinear": (0, ("out_features",)), "Dense": (0, ("features", "units"))}
COLUMN = re.compile(r"\[\(?(?:\.\.\.|:), ?-?\d+\)?\]")
ROWS = re.compile(r"\[\(?[^,\]]*\b(?:arange|range)\([^\]]*\), ?[^,\]]+\]")
SLICE = re.compile(r"\[[^,\]]*:[^,\]]*\]")


def width(tail: str, args: list[Any], keywords: dict[str, Any]) -> int | None:
    """How many features a layer gives."""
    known = WIDTHS.get(tail)
    if known is None:
        return None
    position, names = known
    given = args[position] if len(args) > position else next((keywords[key] for key in names if key in keywords), None)
    return given.value if isinstance(given, Const) and isinstance(given.value, int) else None


def sizes(values: Iterable[Any]) -> tuple[Any, ...]:
    """The axes that an allocation was asked for; Ellipsis where their number is not known."""
    values = list(values)
    if len(values) == 1 and isinstance(values[0], Sequence):
        if values[0].rest is not None:
            return (...,)
        values = list(values[0].items)
    elif len(values) == 1 and not _is_number(values[0]):
        return (...,)
    return tuple(_size(value) for value in values)


def asked(args: list[Any], keywords: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of an operation after its first one; keywords as pairs."""
    if len(args) == 1 and isinstance(args[0], Sequence) and args[0].rest is None:
        args = list(args[0].items)
    named = tuple((key, _size(value)) for key, value in keywords.items())
    return (*(_size(value) if _is_size(value) else ... for value in args), *named)


def _is_number(value: Any) -> bool:
    """One size, and not a whole shape."""
    if isinstance(value, Unknown):
        return value.plain and (value.name == "len" or isinstance(value.parent, Unknown) and value.parent.plain)
    return isinstance(value, Const) and isinstance(value.value, int)


def _is_size(value: Any) -> bool:
    return isinstance(value, Const) or isinstance(value, Unknown) and value.plain


def _size(value: Any) -> Any:
    return value.value if isinstance(value, Const) and isinstance(value.value, (int, bool)) else None


def infer(nodes: Iterable[Node], facts: dict[Node, Fact]) -> dict[Node, Shape]:
    """The shapes of a tape's nodes, in order of time."""
    known: dict[Node, Shape] = {}
    for node in nodes:
        shape = _shape(node, facts.get(node), known)
        if shape is not None:
            known[node] = shape
    return {node: shape for node, shape in known.items() if shape is not RAW}


def _shape(node: Node, fact: Fact | None, known: dict[Node, Shape]) -> Shape | None:
    if node.leaf is not None:
        return RAW if node.leaf.kind == "input" or node.leaf.scalar else None
    if node.op == "const":
        return SCALAR
    given = [known.get(source) for source, _, kind, _ in node.inputs if kind == DATA]
    if fact is not None:
        name, wanted = fact
        handler = FACTS.get(name)
        return handler(given[0] if given else None, wanted) if handler is not None else None
    if node.op in SAME:
        return given[0] if given else None
    if node.op in PAIRS:
        return _together(given[-2:])
    if node.op == "getitem":
        return _indexed(given[0] if given else None, node.detail)
    if node.op == "phi":
        later = node.detail == "loop"  # what comes round again is not known yet
        return given[0] if given and all(shape == given[0] or later and shape is None for shape in given) else None
    if not given or node.op == "reshape":
        return None
    for shape in given:
        if shape is not RAW:
            return None
    return RAW


def _together(given: list[Shape | None]) -> Shape | None:
    """The shape of an elementwise operation of two values."""
    if len(given) != 2 or None in given:
        return None
    one, other = given
    assert one is not None and other is not None
    if one is RAW or one == SCALAR:
        return other
    if other is RAW or other == SCALAR or one == other:
        return one
    if one[0] == REST and other[0] == REST and len(one) != len(other):
        return None
    long, short = (one, other) if _axes(one) >= _axes(other) else (other, one)
    if short[0] == REST and long[0] != REST or _axes(long) - _axes(short) and column(long, short):
        return None
    head = len(long) - _axes(short)
    return (*long[:head], *(_axis(a, b) for a, b in zip(long[head:], short[len(short) - _axes(short) :], strict=True)))


def _axes(shape: Shape) -> int:
    return len(shape) - (bool(shape) and shape[0] == REST)


def _axis(one: Any, other: Any) -> Any:
    if one == 1:
        return other
    return one if other == 1 or other is None else other


def column(one: Shape, other: Shape) -> bool:
    """`[..., B, 1]` against `[..., B]`."""
    long, short = (one, other) if len(one) > len(other) else (other, one)
    if len(long) != len(short) + 1 or long[-1] != 1 or not short or short[-1] == 1:
        return False
    return all(a == b or REST not in (a, b) and None in (a, b) for a, b in zip(long, short, strict=False))


# -- what the operations do ------------------------------------------------------------------------------------------
def _layer(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    out = wanted[0]
    if given is None:
        return None
    return (REST, out) if given is RAW else (*given[:-1], out) if given else None


def _reduced(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    named: dict[str, Any] = dict(part for part in wanted if isinstance(part, tuple))
    plain = [part for part in wanted if not isinstance(part, tuple)]
    axis = plain[0] if plain else named.get("dim", named.get("axis", "none"))
    keep = plain[1] if len(plain) > 1 else named.get("keepdim", named.get("keepdims", False))
    if axis == "none":
        return SCALAR if not keep else None
    if given is None or given is RAW or not isinstance(axis, int) or not isinstance(keep, int):
        return None
    place = _place(given, axis)
    if place is None:
        return None
    return (*given[:place], *((1,) if keep else ()), *given[place + 1 :])


def _place(given: Shape, axis: int) -> int | None:
    """Where in a shape an axis is; the second one of what a layer gives is its last."""
    if given and given[0] == REST:
        return 1 if len(given) == 2 and axis in (-1, 1) else None
    place = axis if axis >= 0 else len(given) + axis
    return place if 0 <= place < len(given) else None


def _axis_of(wanted: tuple[Any, ...], default: Any) -> Any:
    """The axis that an operation was asked for, by position or by name."""
    named: dict[str, Any] = dict(part for part in wanted if isinstance(part, tuple))
    if set(named) - {"dim", "axis"}:
        return None
    return next((part for part in wanted if not isinstance(part, tuple)), named.get("dim", named.get("axis", default)))


def _squeezed(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    if given is None or given is RAW or ... in wanted:
        return None
    axis = _axis_of(wanted, -1)
    place = _place(given, axis) if isinstance(axis, int) else None
    if place is None or given[place] is None:
        return None
    return (*given[:place], *given[place + 1 :]) if given[place] == 1 else given


def _viewed(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    if not wanted or ... in wanted or any(isinstance(part, tuple) for part in wanted):
        return None
    return tuple(None if size == -1 else size for size in wanted)


def _flat(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    if not wanted:
        return (None,)
    first = wanted[0][1] if isinstance(wanted[0], tuple) else wanted[0]
    return (None, None) if first == 1 and len(wanted) == 1 else None


def _gathered(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    axis = _axis_of(tuple(part for part in wanted if part is not ...), None)
    if given is None or given is RAW or not isinstance(axis, int):
        return None
    place = _place(given, axis)
    return (*given[:-1], 1) if place == len(given) - 1 else None


def _allocated(given: Shape | None, wanted: tuple[Any, ...]) -> Shape | None:
    return None if ... in wanted else wanted


def _indexed(given: Shape | None, detail: str) -> Shape | None:
    if given is None or given is RAW:
        return RAW if given is RAW and "None" not in detail else None
    last = given[0] == REST and len(given) == 2 or given[0] != REST and len(given) == 2 if given else False
    if COLUMN.fullmatch(detail) or ROWS.fullmatch(detail):
        return given[:-1] if last else None
    if SLICE.fullmatch(detail) and given:
        return given if given[0] == REST else (None, *given[1:])
    if re.fullmatch(r"\[-?\d+\]", detail) and given and given[0] != REST:
        return given[1:]
    return None


FACTS: dict[str, Callable[[Shape | None, tuple[Any, ...]], Shape | None]] = {
    "layer": _layer,
    "same": lambda given, wanted: given,
    "alloc": _allocated,
    "squeeze": _squeezed,
    "view": _viewed,
    "reshape": _viewed,
    "flatten": _flat,
    "ravel": _flat,
    "gather": _gathered,
    **dict.fromkeys(REDUCTIONS, _reduced),
}
