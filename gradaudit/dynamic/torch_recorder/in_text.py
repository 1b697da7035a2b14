"""Optimizers that the loss's module makes where an import does not get: in its main block, in a function that trains.

Their text says what they are given, in terms of objects that the run has: `Adam(net.parameters())` in a main block
gives what `net` at module level holds. Only expressions that do nothing but collect parameters are evaluated.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from gradaudit.dynamic.branches import is_main_guard
from gradaudit.dynamic.module_text import called, has_company, module_of, module_tree
from gradaudit.dynamic.recording import LossCall

_NODES = (
    ast.Name, ast.Attribute, ast.Call, ast.List, ast.Tuple, ast.Dict, ast.Starred, ast.Constant, ast.Subscript,
    ast.BinOp, ast.Add, ast.GeneratorExp, ast.ListComp, ast.comprehension, ast.keyword, ast.expr_context,
)  # fmt: skip
_METHODS = frozenset(("parameters", "named_parameters", "values", "items", "chain", "from_iterable"))
_BUILTINS = frozenset(("list", "tuple", "chain", "dict", "set", "sorted", "zip"))
_BLOCKS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Written(NamedTuple):
    """An optimizer in the text: its variable and what it is given."""

    name: str
    parameters: tuple[torch.Tensor, ...]


class Step(NamedTuple):
    """The step that comes next after the loss in the text: of which optimizer, on which line.

    `alone`: nothing else in the module is differentiated, so that what this loss leaves out learns from nothing.
    """

    name: str
    line: int
    alone: bool


class Text:
    """The text of the loss's module."""

    def __init__(self, call: LossCall) -> None:
        self.call = call
        self.loss: str = getattr(inspect.unwrap(call.function), "__name__", "")
        self.module: Any = module_of(call.function)
        self.tree = module_tree(call.function)

    def optimizers(self) -> list[Written]:
        """Those whose parameters the run has, in the order of the text."""
        found: dict[str, Written] = {}
        bodies = list(_bodies(self.tree))
        bodies.sort(key=lambda body: not _calls(body, self.loss))  # of two with one name, that where the loss is made
        for body in bodies:
            scope = _Scope(body, vars(self.module), _passed(body, self.loss, self.call))
            for one in scope.optimizers():
                found.setdefault(one.name, one)
        return list(found.values())

    def step(self, optimizers: Collection[str]) -> Step | None:
        """The one step of these optimizers that follows the loss, wherever the module calls it."""
        found = {one for body in _bodies(self.tree) for one in _stepped(body, self.loss) if one[0] in optimizers}
        if len(found) != 1:
            return None
        name, line = found.pop()
        once = sum(called(node) == "backward" for node in ast.walk(self.tree)) == 1
        return Step(name, line, once and not has_company(self.call.function))


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """The main block, and the functions of the module."""
    for statement in tree.body:
        if isinstance(statement, _BLOCKS) or isinstance(statement, ast.If) and is_main_guard(statement):
            yield statement.body


def _in_order(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Everything in the order of the text, functions and classes that are defined inside left out."""
    for statement in body:
        yield from _walk(statement)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (*_BLOCKS, ast.ClassDef, ast.Lambda)):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


def _calls(body: list[ast.stmt], name: str) -> bool:
    return any(called(node) == name for node in _in_order(body))


def _passed(body: list[ast.stmt], loss: str, call: LossCall) -> dict[str, Any]:
    """The local names under which the loss is given its arguments."""
    found: dict[str, Any] = {}
    for node in _in_order(body):
        if isinstance(node, ast.Call) and called(node) == loss:
            for argument, value in zip(node.args, call.args, strict=False):
                if isinstance(argument, ast.Starred):
                    break
                if isinstance(argument, ast.Name):
                    found.setdefault(argument.id, value)
    return found


def _stepped(body: list[ast.stmt], loss: str) -> set[tuple[str, int]]:
    """What steps with the gradient of the loss, and where: until another loss is differentiated, or
    gradient is cleared for one."""
    made = False
    found: set[tuple[str, int]] = set()
    for node in _in_order(body):
        name = called(node)
        if name == loss:
            made = True
        elif made and name == "step" and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.args[0] if node.args else node.func.value  # `scaler.step(optimizer)`
            if isinstance(owner, ast.Name):
                found.add((owner.id, node.lineno))
        elif found and name in ("backward", "zero_grad"):
            break
    return found


class _Scope:
    """The names of one body: those it binds once, to what their expressions say, before those of the module."""

    def __init__(self, body: list[ast.stmt], module: Mapping[str, Any], passed: Mapping[str, Any]) -> None:
        self.body, self.module, self.passed = body, module, passed
        self.bound: dict[str, list[ast.expr | None]] = {}
        for node in _in_order(body):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                self._bind(node.target, node.value)
            elif isinstance(node, (ast.For, ast.AugAssign)):
                self._bind(node.target, None)

    def _bind(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            values: list[Any] = [None] * len(target.elts)
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
                values = list(value.elts)
            for part, one in zip(target.elts, values, strict=True):
                self._bind(part, one)
        elif isinstance(target, ast.Name):
            self.bound.setdefault(target.id, []).append(value)

    def optimizers(self) -> Iterator[Written]:
        for name, values in self.bound.items():
            value = values[0]
            if len(values) != 1 or not isinstance(value, ast.Call) or not self._makes_optimizer(value.func):
                continue
            given = value.args[0] if value.args else next((k.value for k in value.keywords if k.arg == "params"), None)
            parameters = _tensors(self.value(given)) if given is not None else ()
            if parameters:
                yield Written(name, parameters)

    def _makes_optimizer(self, function: ast.expr) -> bool:
        made = self.value(function)
        return isinstance(made, type) and issubclass(made, torch.optim.Optimizer)

    def value(self, expression: ast.expr, depth: int = 0) -> Any:
        """What it gives, or None where it may do more than collect parameters."""
        nodes = list(ast.walk(expression))
        if depth > 4 or not all(isinstance(node, _NODES) and _is_harmless(node) for node in nodes):
            return None
        own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        names: dict[str, Any] = {}
        for node in nodes:
            if isinstance(node, ast.Name) and node.id not in own | names.keys():
                known = self._name(node.id, depth)
                if known is None:
                    return None
                names[node.id] = known
        try:
            # Names, attributes, displays and the calls above, over objects that the user's own module made.
            return eval(compile(ast.Expression(expression), "<text>", "eval"), names)  # noqa: S307
        except Exception:  # noqa: BLE001 - whatever the user's objects raise: it is not known
            return None

    def _name(self, name: str, depth: int) -> Any:
        if name in self.passed:
            return self.passed[name]
        if name in self.bound:
            values = self.bound[name]
            made = self.value(values[0], depth + 1) if len(values) == 1 and values[0] is not None else None
            return list(made) if inspect.isgenerator(made) else made
        return self.module.get(name, getattr(builtins, name, None) if name in _BUILTINS else None)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return called(node) in (_METHODS if isinstance(node.func, ast.Attribute) else _BUILTINS)
    return True


def _tensors(given: Any) -> tuple[torch.Tensor, ...]:
    """The parameters among what an optimizer is given: tensors, groups or named parameters."""
    if isinstance(given, torch.Tensor):
        return (given,)
    if isinstance(given, Mapping):
        return _tensors(given.get("params", ()))
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        return ()
    return tuple(one for part in given for one in _tensors(part))
