"""Modules that differentiate nothing themselves: a loss, a quantiser, a layer. Each is judged by its forward pass, whose
arguments are leaves, as a function without a caller is.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from gradaudit.static.interpreter import Interpreter
from gradaudit.static.values import ClassValue, Function, Instance, Mapping, Sequence

FORWARD = ("forward", "__call__", "call")
COMPARES = re.compile(
    r"loss|entropy|kl_?div|similarity|softmax|logsumexp|square|pow|norm|distance|cdist|detach|stop_?grad|no_grad"
    r"|round|floor|sign|argm|one_?hot|quanti[sz]|commit|ste$|straight|lerp|momentum|requires_grad"
)
"""Names without which a forward pass compares nothing, rounds nothing and stops nothing: it is not followed."""


def forward_of(run: Interpreter, cls: ClassValue) -> Function | None:
    """The forward pass of a network class that defines one itself."""
    if not run.is_module_class(cls):
        return None
    for name in FORWARD:
        method, owner = run.member(cls, name)
        if isinstance(method, Function) and owner is cls:
            return method.bind(Instance(cls), cls)
    return None


def may_compare(cls: ClassValue) -> bool:
    """Whether the text of the class names anything that our rules speak of."""
    for node in ast.walk(cls.node):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if COMPARES.search(name):
                return True
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return True
    return False


def follow_forward(run: Interpreter, cls: ClassValue, forward: Function, argument: Any) -> list[Any]:
    """Makes an instance and runs its forward pass on leaves that `argument` makes; the parts of its result."""
    instance = run.instantiate(cls, [], {}, entry=True)
    if not isinstance(instance, Instance):
        return []
    bound = forward.bind(instance, cls)
    spec = forward.node.args
    parameters = [*spec.posonlyargs, *spec.args][1:]
    defaults = [None] * (len(parameters) - len(spec.defaults)) + list(spec.defaults)
    keywords = {
        parameter.arg: argument(parameter, default, bound)
        for parameter, default in [
            *zip(parameters, defaults, strict=True),
            *zip(spec.kwonlyargs, spec.kw_defaults, strict=True),
        ]
    }
    rounds = 2 if _writes_itself(cls) else 1
    for _ in range(rounds):  # what one call leaves in the module, the next one reads
        run.line_node = forward.node
        result = run.settle(run.call_module(instance, [], keywords))
    if isinstance(result, Sequence):
        return list(result.items)
    return list(result.entries.values()) if isinstance(result, Mapping) else [result]


def _writes_itself(cls: ClassValue) -> bool:
    """Does a method other than the constructor assign an attribute?"""
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"
        for method in cls.node.body
        if isinstance(method, ast.FunctionDef) and method.name not in ("__init__", "setup")
        for node in ast.walk(method)
    )
