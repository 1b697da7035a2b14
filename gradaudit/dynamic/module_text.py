"""What the text of a loss's module says of the loss, where a run of it alone cannot: whether it has company."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

from gradaudit.dynamic.lines import end_of, parsed
from gradaudit.entries import entries_replaced, entries_taken

GRADIENTS = frozenset(("grad", "value_and_grad", "filter_grad", "filter_value_and_grad", "vjp", "backward"))


def module_of(function: Callable[..., Any]) -> ModuleType | None:
    """The module that a function was written in."""
    return sys.modules.get(getattr(inspect.unwrap(function), "__module__", "") or "")


def file_of(function: Callable[..., Any]) -> str:
    """The file of the module of a function; "" where there is none."""
    return getattr(module_of(function), "__file__", None) or ""


def module_tree(function: Callable[..., Any]) -> ast.Module:
    """The text of the module of a function, parsed once; empty where there is none."""
    module = module_of(function)
    return _tree_of(module) if module is not None else ast.Module([], [])


@lru_cache(maxsize=64)
def _tree_of(module: ModuleType) -> ast.Module:
    """By module: not every function can be a key (a method of an equinox module is as hashable as its arrays)."""
    file = getattr(module, "__file__", None)
    return parsed(file) if file else ast.Module([], [])


def called(node: ast.AST) -> str:
    """The last name of what is called; "" where nothing is."""
    return end_of(node.func) if isinstance(node, ast.Call) else ""


def has_company(function: Callable[..., Any]) -> bool:
    """Whether its module differentiates something else as well, or adds the loss to another one: what this loss leaves
    out may learn from that."""
    name = getattr(inspect.unwrap(function), "__name__", "")
    nodes = list(ast.walk(module_tree(function)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    if sum(called(node) in GRADIENTS for node in calls) > 1:
        return True
    sums = (node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add))
    return any(called(part) == name for node in sums for part in ast.walk(node))


def argnums_in_text(function: Callable[..., Any]) -> tuple[int, ...] | None:
    """The arguments that the module takes the function's gradient for, wherever it does so in the same way:
    `grad(loss)`, `grad(loss, argnums=1)`, `grad(lambda p: loss(data, p))`. None where the text does not tell."""
    name = getattr(inspect.unwrap(function), "__name__", "")
    calls = [node for node in ast.walk(module_tree(function)) if isinstance(node, ast.Call)]
    taken = [node for node in calls if called(node) in GRADIENTS - {"backward", "vjp"} and node.args]
    found = {_argnums(node, name) for node in taken} - {None}
    return found.pop() if len(found) == 1 else None


def entries_in_text(function: Callable[..., Any]) -> frozenset[str] | None:
    """The entries of the function's gradient that the module goes on with, wherever it takes the gradient: `"policy"`
    of `grad(loss)(params)["policy"]`. None where it takes one as a whole, or where the text does not tell."""
    name = getattr(inspect.unwrap(function), "__name__", "")
    tree = module_tree(function)
    found: set[str] = set()
    for around, call in _calls_of(tree):
        taker = call.func
        if not isinstance(taker, ast.Call) or called(taker) not in ("grad", "value_and_grad") or not taker.args:
            continue
        if not isinstance(taker.args[0], ast.Name) or taker.args[0].id != name:
            continue
        entries = entries_taken(call, around, called(taker) == "value_and_grad", _has_aux(taker))
        if entries is None:
            return None
        found |= entries
    return frozenset(found) or None


def replaced_in_text(function: Callable[..., Any]) -> frozenset[str]:
    """The entries of trees that the module replaces with what is reckoned from data."""
    return entries_replaced(module_tree(function))


def _calls_of(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Every call, with the innermost function that it is in, or the module."""
    waiting: list[tuple[ast.AST, ast.AST]] = [(tree, tree)]
    while waiting:
        around, node = waiting.pop()
        if isinstance(node, ast.Call):
            yield around, node
        inner = node if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else around
        waiting += [(inner, part) for part in ast.iter_child_nodes(node)]


def _has_aux(taker: ast.Call) -> bool:
    """Does the function give more than its loss?"""
    return any(word.arg == "has_aux" and getattr(word.value, "value", False) is True for word in taker.keywords)


def _argnums(taker: ast.Call, name: str) -> tuple[int, ...] | None:
    """What a taker of gradients differentiates a function of this name by, if that is what it differentiates."""
    given = next((word.value for word in taker.keywords if word.arg == "argnums"), None)
    given = taker.args[1] if given is None and len(taker.args) > 1 else given
    differentiated = taker.args[0]
    if isinstance(differentiated, ast.Name) and differentiated.id == name:
        return _numbers(given)
    if isinstance(differentiated, ast.Lambda) and given is None and differentiated.args.args:
        mine = differentiated.args.args[0].arg
        inside = [node for node in ast.walk(differentiated.body) if isinstance(node, ast.Call) and called(node) == name]
        if len(inside) == 1 and not any(isinstance(one, ast.Starred) for one in inside[0].args):
            places = [i for i, one in enumerate(inside[0].args) if isinstance(one, ast.Name) and one.id == mine]
            return (places[0],) if len(places) == 1 else None
    return None


def _numbers(given: ast.expr | None) -> tuple[int, ...] | None:
    try:
        value = 0 if given is None else ast.literal_eval(given)
    except ValueError:
        return None
    numbers = value if isinstance(value, tuple) else (value,)
    return numbers if all(type(number) is int for number in numbers) else None
