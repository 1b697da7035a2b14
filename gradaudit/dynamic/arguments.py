"""What a value is called that its text hands on at once (`update(make_states(), compute_rewards())`): as its taker
calls it.

Names come last, but a run has no other for what no variable holds.
"""

from __future__ import annotations

import ast
import functools

from gradaudit.dynamic.lines import Span, parsed
from gradaudit.tape import Call, Location, Tape


def name_arguments(tape: Tape) -> None:
    """Name the nameless values that are written as an argument after the parameter that takes them."""
    homes: dict[Call, str] = {}
    for node in tape.nodes:
        place, call = node.location, node.call
        while call is not None and call not in homes:
            homes[call] = place.path
            place, call = call.location, call.parent
    named: dict[tuple[str, Span], str] = {}
    for call, home in homes.items():
        where = call.location.path
        given = _calls(where).get(span(call.location), ())
        for one, name in zip(given, _parameters(home).get(call.function, ()), strict=False):
            named[where, one] = name
    for node in tape.nodes:
        if not node.name and node.leaf is None and node.location.line:
            node.name = named.get((node.location.path, span(node.location)), "")


@functools.lru_cache(maxsize=256)
def _calls(path: str) -> dict[Span, tuple[Span, ...]]:
    """The positional arguments of each call."""
    calls = (one for one in ast.walk(parsed(path)) if isinstance(one, ast.Call))
    return {span_of(one): tuple(span_of(each) for each in one.args) for one in calls}


@functools.lru_cache(maxsize=256)
def _parameters(path: str) -> dict[str, tuple[str, ...]]:
    """The parameters of the functions of a file, but for those of one name that differ."""
    found: dict[str, tuple[str, ...]] = {}
    for one in ast.walk(parsed(path)):
        if isinstance(one, ast.FunctionDef):
            names = [each.arg for each in (*one.args.posonlyargs, *one.args.args)]
            mine = tuple(names[1:] if names[:1] in (["self"], ["cls"]) else names)
            found[one.name] = mine if found.get(one.name, mine) == mine else ()
    return found


def span(location: Location) -> Span:
    """The text that a location covers."""
    return (location.line, location.column, location.end_line, location.end_column)


def span_of(node: ast.expr) -> Span:
    """The text of an expression, counted as locations are."""
    return (node.lineno, node.col_offset + 1, node.end_lineno or node.lineno, (node.end_col_offset or 0) + 1)
