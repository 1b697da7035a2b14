"""Losses that nobody differentiates in sight: functions that apply a network with parameters that they are given."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from gradaudit.static.syntax import walk
from gradaudit.tape import Node, Sink

APPLIES = ("apply", "apply_fn")
LINEAR = frozenset({"add", "sub", "mul", "div", "neg", "phi", "cast", "reshape", "where", "maximum", "minimum"})
REDUCTIONS = frozenset({"mean", "sum"})


@functools.lru_cache(maxsize=8192)
def applied_argument(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int | None:
    """Which argument is the tree of parameters that the function is about: the first one that `apply` is given."""
    if isinstance(function, ast.Lambda):
        return None
    arguments = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    names = set(_aliases(function))
    given = {root for call in _calls(function, names) for value in _trees(call) for root in _roots(value)}
    return next((index for index, name in enumerate(arguments) if name in given), None)


@functools.lru_cache(maxsize=8192)
def called_argument(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int | None:
    """Where networks are objects that hold their parameters (equinox, nnx): the first argument that is called."""
    if isinstance(function, ast.Lambda):
        return None
    arguments = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    called = {name for node in walk(function) if isinstance(node, ast.Call) for name in _roots(_mapped(node.func))}
    return next((index for index, name in enumerate(arguments) if name in called), None)


def _mapped(callee: ast.expr) -> ast.expr:
    """What is called: `network` of `vmap(network)(x)`, and of `network.head(x)`."""
    while isinstance(callee, ast.Call) and callee.args:
        callee = callee.args[0]
    return callee


@functools.lru_cache(maxsize=512)
def holds_parameters(tree: ast.Module) -> bool:
    """Whether a file's networks are objects that hold their parameters, and no functions of them."""
    for node in tree.body:
        if isinstance(node, ast.Import) and any(name.name.startswith(("equinox", "flax.nnx")) for name in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{name.name}" for name in node.names]
            if any(name.startswith(("equinox.", "flax.nnx")) for name in names):
                return True
    return False


def _aliases(function: ast.AST) -> Iterator[str]:
    """`value_apply = network.apply`"""
    for node in walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = zip(_parts(target), _parts(node.value), strict=False)
                yield from (name.id for name, value in pairs if isinstance(name, ast.Name) and _is_apply(value))


def _parts(value: ast.expr) -> list[ast.expr]:
    return value.elts if isinstance(value, ast.Tuple) else [value]


def _is_apply(value: ast.expr) -> bool:
    return isinstance(value, ast.Attribute) and value.attr in APPLIES


def _calls(function: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    for node in walk(function):
        if isinstance(node, ast.Call) and node.args:
            callee = node.func
            while isinstance(callee, ast.Call) and callee.args:  # vmap(apply)(params, x)
                callee = callee.args[0]
            name = callee.attr if isinstance(callee, ast.Attribute) else getattr(callee, "id", "")
            if name in APPLIES or name in names:
                yield node


def _trees(call: ast.Call) -> list[ast.expr]:
    """What may be the tree: the first argument, or the one after statistics of the inputs."""
    return call.args[:2] if len(call.args) > 2 else call.args[:1]


def _roots(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Dict):
        for part in value.values:
            yield from _roots(part)
        return
    while isinstance(value, (ast.Attribute, ast.Subscript)):
        value = value.value
    if isinstance(value, ast.Name):
        yield value.id


@functools.lru_cache(maxsize=8192)
def unapplied_before(function: ast.FunctionDef | ast.AsyncFunctionDef, index: int) -> tuple[int, ...]:
    """The arguments before that one that no network is applied to: a multiplier, its logarithm."""
    arguments = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)][:index]
    calls = list(_calls(function, set(_aliases(function))))
    given = {part.id for call in calls for one in call.args for part in walk(one) if isinstance(part, ast.Name)}
    return tuple(place for place, name in enumerate(arguments) if name not in given)


def is_reached(sink: Sink) -> bool:
    """Does gradient of the loss get to what it is taken for?"""
    seen, waiting = {sink.loss}, [sink.loss]
    while waiting:
        node = waiting.pop()
        if node in (sink.differentiated or ()):
            return True
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def is_reduced(node: Node) -> bool:
    """A number: sums and products of means and sums."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 60:
        current = waiting.pop()
        if current.op in REDUCTIONS or current.op.endswith("_loss"):
            return True
        if current.op in LINEAR:
            for edge in current.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False
