"""Modules that differentiate nothing themselves: a loss, a quantiser, a layer. Each is judged by its forward pass and
its other public methods, whose arguments are leaves, as a function without a caller is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Container
from typing import Any

from gradaudit.static.attributes import decorators_of
from gradaudit.static.interpreter import Interpreter
from gradaudit.static.syntax import names_on_self, walk
from gradaudit.static.values import DISTRIBUTION, ClassValue, External, Function, Instance, Mapping, Sequence

FORWARD = ("forward", "__call__", "call")
NOT_CALLED = frozenset({"property", "cached_property", "staticmethod", "classmethod", "setter", "abstractmethod"})
MOST_METHODS = 4
OF_DISTRIBUTIONS = frozenset({"sample", "log_prob"})
STEPS = frozenset({"training_step", "validation_step", "test_step", "predict_step"})
"""What a trainer calls with a batch: data, whoever is asked."""
DRAWS = re.compile(r"sample|mode|clamp|clip|straight|quanti|round")
"""Methods of a distribution that make a value of it, or bring one into its bounds."""
COMPARES = re.compile(
    r"loss|entropy|kl_?div|similarity|softmax|logsumexp|square|pow|norm|distance|cdist|detach|stop_?grad|no_grad"
    r"|round|floor|sign|argm|one_?hot|quanti[sz]|commit|ste$|straight|lerp|momentum|requires_grad|^where$|sample|hard"
)
"""Names without which a forward pass compares nothing, rounds nothing and stops nothing: it is not followed."""

Argument = Callable[[ast.arg, ast.expr | None, Function], Any]
"""What stands for an argument: of its declaration, its default and the function."""


def entry_methods(run: Interpreter, cls: ClassValue) -> list[str]:
    """The forward pass of a network class, and what else it computes for whoever calls it."""
    methods = {part.name: part for part in cls.node.body if isinstance(part, ast.FunctionDef)}
    if is_distribution(run, cls):
        drawn = [name for name in methods if DRAWS.search(name)]
        return drawn[:MOST_METHODS] if _compares(cls.node) else []
    if not run.is_module_class(cls) or not (_compares(cls.node) or _calls_what_compares(run, cls)):
        return []
    forward = [name for name in FORWARD if name in methods][:1]
    used = {name for method in methods.values() for name in names_on_self(method) if name != method.name}
    if not forward and (template := _template(run, cls, methods)) is not None:
        forward = [template.name]
        used.update(names_on_self(template.node))
    others = [
        name
        for name, method in methods.items()
        if name not in used | STEPS and name not in FORWARD and not name.startswith("_") and _computes(method)
    ]
    return forward + others[:MOST_METHODS]


def _template(run: Interpreter, cls: ClassValue, methods: Container[str]) -> Function | None:
    """The forward pass of a base, if it leaves a part of itself to methods of the class."""
    for name in FORWARD:
        method, _ = run.member(cls, name)
        if isinstance(method, Function):
            return method if any(part in methods for part in names_on_self(method.node)) else None
    return None


def is_distribution(run: Interpreter, cls: ClassValue) -> bool:
    """A distribution of the project: it derives from a library's, or has the methods of one."""
    if any(isinstance(base, External) and "distribution" in base.path.lower() for base in run.mro(cls)):
        return True
    methods = {part.name for part in cls.node.body if isinstance(part, ast.FunctionDef)}
    return run.distribution_base(cls) is not None or methods >= OF_DISTRIBUTIONS


def constructed(run: Interpreter, cls: ClassValue, argument: Argument) -> Any:
    """An object of the class, with leaves for the arguments of its constructor."""
    method, _ = run.member(cls, "__init__")
    if not isinstance(method, Function):
        return _inherited(run, cls)

    def given(parameter: ast.arg, default: ast.expr | None, function: Function) -> Any:
        either = isinstance(default, ast.Constant) and default.value is None  # `logits=None, probs=None`
        return argument(parameter, None if either else default, function)

    return run.instantiate(cls, [], _given(method, given))


def _inherited(run: Interpreter, cls: ClassValue) -> Any:
    """An object whose constructor is its base's: what a library's distribution is made of is a leaf."""
    instance = run.instantiate(cls, [], {}, entry=True)
    base = run.distribution_base(cls)
    if base is not None and isinstance(instance, Instance) and DISTRIBUTION not in instance.attrs:
        instance.attrs[DISTRIBUTION] = run.call_external(base.path, [run.leaf("arg", "parameters")], {})
    return instance


def follow(run: Interpreter, instance: Instance, name: str, argument: Argument) -> list[Any]:
    """Calls a method with leaves for its arguments; the parts of what it returns."""
    assert instance.cls is not None
    method, owner = run.member(instance.cls, name)
    if not isinstance(method, Function):
        return []
    keywords = _given(method.bind(instance, owner), argument)
    for _ in range(2 if _writes_itself(instance.cls) else 1):  # what one call leaves in the module, the next one reads
        run.line_node = method.node
        result = run.settle(run.call_module(instance, [], keywords, name))
    if isinstance(result, Sequence):
        return list(result.items)
    return list(result.entries.values()) if isinstance(result, Mapping) else [result]


def _given(method: Function, argument: Argument) -> dict[str, Any]:
    """What stands for the arguments of a method, the object itself left out."""
    spec = method.node.args
    everyone = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(everyone) - len(spec.defaults)) + list(spec.defaults)
    parameters, defaults = everyone[1:], defaults[1:]
    declared = [*zip(parameters, defaults, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    return {parameter.arg: argument(parameter, default, method) for parameter, default in declared}


def _compares(statement: ast.AST) -> bool:
    """Whether the text names anything that our rules speak of."""
    for node in walk(statement):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if COMPARES.search(name):
                return True
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return True
    return False


def _calls_what_compares(run: Interpreter, cls: ClassValue) -> bool:
    """Whether a function of the project that the class calls by its name does: `D(p, z)`."""
    names = {getattr(node.func, "id", "") for node in walk(cls.node) if isinstance(node, ast.Call)}
    for name in sorted(names & cls.module.bound.keys()):
        statement, alias = cls.module.bound[name][-1]
        if alias is None and not isinstance(statement, ast.FunctionDef):
            continue
        function = run.module_name(cls.module, name)
        if isinstance(function, Function) and _compares(function.node):
            return True
    return False


def _computes(method: ast.FunctionDef) -> bool:
    """Has it arguments and arithmetic, or does it write into an attribute?"""
    if not method.args.args[1:] or decorators_of(method) & NOT_CALLED:
        return False
    return any(
        isinstance(node, ast.BinOp) or isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        for node in walk(method)
    )


def _writes_itself(cls: ClassValue) -> bool:
    """Does a method other than the constructor assign an attribute?"""
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"
        for method in cls.node.body
        if isinstance(method, ast.FunctionDef) and method.name not in ("__init__", "setup")
        for node in walk(method)
    )
