"""Methods that compute a loss and leave it to their caller to differentiate it: loss classes, models with a
`compute_loss`. Names only say where to look; what is found there is told by gradient alone."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from gradaudit.static.syntax import names_on_self, walk
from gradaudit.static.values import ClassValue, Instance, Mapping, Sequence, Union
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.static.interpreter import Interpreter

A_LOSS = re.compile(r"(^|_)(loss|losses|objective)($|_)")
NO_LOSS = re.compile(
    r"^_*(log|plot|print|record|save|set|reset|update|make|build|create|init|register|track|report)_|_(fn|class|type)$"
)
LOSS_CLASS = re.compile(r"(Loss|Objective|Criterion)(Module|Fn)?$")
CALLS = ("forward", "__call__")
MOST = 8


def loss_methods(run: Interpreter, cls: ClassValue) -> list[str]:
    """The methods that a class defines, computes and returns a loss with, and that no other such method calls."""
    own = {part.name for part in cls.node.body if isinstance(part, ast.FunctionDef)}
    found = [
        part
        for part in cls.node.body
        if isinstance(part, ast.FunctionDef) and _is_loss_method(part, cls) and part not in run.called
    ]
    named = {part.name: names_on_self(part) & own for part in found}
    return [name for name in named if not any(name in others for other, others in named.items() if other != name)][
        :MOST
    ]


def _is_loss_method(method: ast.FunctionDef, cls: ClassValue) -> bool:
    named = A_LOSS.search(method.name.lower()) and not NO_LOSS.search(method.name.lower())
    if not named and not (method.name in CALLS and LOSS_CLASS.search(cls.name)):
        return False
    if any(
        "no_grad" in ast.unparse(decorator) or "property" in ast.unparse(decorator)
        for decorator in method.decorator_list
    ):
        return False
    arguments = method.args
    given = len(arguments.args) + len(arguments.kwonlyargs) > 1 or arguments.vararg is not None
    return given and any(isinstance(node, ast.Return) and node.value is not None for node in walk(method))


def losses_in(value: Any) -> list[Node]:
    """What a caller would differentiate of the result: the loss, or what is called one in a tuple, dict or object."""
    if isinstance(value, Node):
        return [value] if value.leaf is None else []
    if isinstance(value, Union):
        return [node for part in value.alternatives for node in losses_in(part)][:MOST]
    if isinstance(value, Sequence):
        items = [*value.items, *([value.rest] if value.rest is not None else [])]
        if value.names:
            return _called_losses(dict(zip(value.names, value.items, strict=False)))
        first = losses_in(items[0]) if items else []
        others = [item for item in items[1:] if isinstance(item, Node) and A_LOSS.search(item.name.lower())]
        return [*first, *others][:MOST]
    if isinstance(value, Mapping):
        return _called_losses(value.known())
    if isinstance(value, Instance) and isinstance(value.cls, ClassValue):
        return _called_losses(value.attrs)
    return []


def _called_losses(entries: dict[Any, Any]) -> list[Node]:
    for whole in ("loss", "total_loss", "loss_total"):
        if isinstance(entries.get(whole), Node):
            return [entries[whole]]
    found = [part for key, part in entries.items() if isinstance(key, str) and A_LOSS.search(key.lower())]
    return [node for part in found for node in losses_in(part)][:MOST]
