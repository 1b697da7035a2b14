"""`argparse`: an option of the command line is a hyper-parameter, whose default the text tells."""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Args, Keywords
from gradaudit.static.values import MISSING, Const, Sequence, Transformed, Unknown, foreign

ACTIONS = {"store_true": False, "store_false": True}
SAME = ("add_argument_group", "add_mutually_exclusive_group")
"""Methods that give something to add further options to."""


def parser(machine: Any, args: Args, keywords: Keywords) -> Unknown:
    """An `ArgumentParser`: its options are the attributes of what it parses."""
    made, options = foreign("parser"), foreign("args")
    made.attrs["add_argument"] = Transformed(options, "option")
    made.attrs["parse_args"] = Transformed(options, "constant")
    made.attrs["parse_known_args"] = Transformed(Sequence((options, Unknown("rest"))), "constant")
    made.attrs.update({name: Transformed(made, "constant") for name in SAME})
    return made


def add_option(machine: Any, options: Unknown, args: Args, keywords: Keywords) -> None:
    """`add_argument("-g", "--gamma", default=0.99)`: `gamma`, by default 0.99."""
    default, name = _default(keywords), _name(args, keywords)
    if name and default is not MISSING:
        made = Unknown(name, options)
        made.default = default
        machine.put(options.attrs, name, made)


def _default(keywords: Keywords) -> object:
    given, action = keywords.get("default"), keywords.get("action")
    if isinstance(given, Const) and isinstance(given.value, (bool, int, float, str)):
        return given.value
    name = action.value if isinstance(action, Const) else None
    return ACTIONS.get(name, MISSING) if given is None and isinstance(name, str) else MISSING


def _name(args: Args, keywords: Keywords) -> str:
    spellings = [one.value for one in (keywords.get("dest"), *args) if isinstance(one, Const)]
    words = [one for one in spellings if isinstance(one, str)]
    long = next((one for one in words if one.startswith("--") or "dest" in keywords), words[0] if words else "")
    return long.lstrip("-").replace("-", "_")
