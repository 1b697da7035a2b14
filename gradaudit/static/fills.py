"""Fresh arrays of one number, as labels are made: `ones(n)`, `full_like(x, 0.9)`, `y.fill_(0)`."""

from __future__ import annotations

from gradaudit.static.machine import Args, Keywords
from gradaudit.static.values import Const

NUMBERS = {"zeros": "0.0", "ones": "1.0", "zero": "0.0"}
FILLED = ("full", "fill")


def fill_of(name: str, args: Args, keywords: Keywords) -> str:
    """The number that a function of this name fills what it makes with, or ""."""
    kind = name.removeprefix("new_").removesuffix("_like").removesuffix("_")
    if kind in NUMBERS:
        return NUMBERS[kind]
    value = keywords.get("fill_value", keywords.get("value", args[-1] if args else None)) if kind in FILLED else None
    number = value.value if isinstance(value, Const) else None
    return str(float(number)) if isinstance(number, (bool, int, float)) else ""
