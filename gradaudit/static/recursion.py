"""Functions that call themselves on the parts of a structure: what they give where they are no longer followed."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from gradaudit.static.syntax import last_name, walk

STOPS = frozenset({"detach", "stop_gradient"})
REBUILDS = frozenset({"tuple", "list", "dict", "type", "map", "items", "zip", "isinstance", "len", "range"})
WRAPS = frozenset({"clone", "requires_grad_", "Variable", "to", "cpu", "contiguous"})


@functools.lru_cache(maxsize=4096)
def stops_all_parts(function: ast.AST) -> bool:
    """Does it give a structure back as it is, with every tensor in it stopped?

    `return h.detach() if isinstance(h, Tensor) else tuple(f(v) for v in h)`: a stop for what is no structure, itself
    for the parts of one, and what is neither as it came.
    """
    name = getattr(function, "name", "")
    results = list(_results(function)) if name else []
    kinds = [_kind(result, function) for result in results]
    return "stop" in kinds and "parts" in kinds and "" not in kinds


def _results(function: ast.AST) -> Iterator[ast.expr]:
    for one in walk(function):
        if isinstance(one, ast.Return) and one.value is not None:
            waiting = [one.value]
            while waiting:
                value = waiting.pop()
                if isinstance(value, ast.IfExp):
                    waiting += [value.body, value.orelse]
                else:
                    yield value


def _kind(result: ast.expr, function: ast.AST) -> str:
    if _is_stop(result):
        return "stop"
    called = {last_name(one.func) for one in walk(result) if isinstance(one, ast.Call)} - {""}
    name = getattr(function, "name", "")
    if name in {last_name(one) for one in walk(result) if isinstance(one, (ast.Name, ast.Attribute))}:
        return "parts" if called <= REBUILDS | {name} and not _computes(result) else ""
    if isinstance(result, ast.Constant):
        return "constant"
    asks = {last_name(one.func) for one in walk(function) if isinstance(one, ast.Call)}
    return "as it came" if isinstance(result, ast.Name) and asks & {"isinstance", "type", "is_tensor"} else ""


def _computes(result: ast.expr) -> bool:
    return any(isinstance(one, (ast.BinOp, ast.UnaryOp)) for one in walk(result))


def _is_stop(result: ast.expr) -> bool:
    if isinstance(result, ast.Attribute):
        return result.attr == "data"
    if not isinstance(result, ast.Call):
        return False
    name = last_name(result.func)
    if name in STOPS:
        return True
    inner = result.func.value if isinstance(result.func, ast.Attribute) else None
    return name in WRAPS and any(_is_stop(part) for part in (inner, *result.args) if part is not None)
