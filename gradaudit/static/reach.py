"""Which of a file's functions and methods reach a place where something is differentiated."""

from __future__ import annotations

import ast
import functools
import re

from gradaudit.static.collecting import Methods
from gradaudit.static.files import Module
from gradaudit.static.interpreter import Interpreter
from gradaudit.static.syntax import last_name, walk
from gradaudit.static.values import ClassValue, External, Function

SINK_ATTRIBUTES = frozenset({"backward", "minimize", "value_and_grad", "manual_backward", "filter_grad",
                             "filter_value_and_grad", "vjp", "linearize"})  # fmt: skip
RETURNED_LOSSES = {"LightningModule": ("training_step",), "Trainer": ("compute_loss",)}
DIFFERENTIATES = re.compile(
    r"backward|minimize|value_and_grad|filter_grad|vjp|linearize|grad\b|apply_gradients|(?i:optim|_opt\b)"
)


class Reach:
    """What the text of one file says; nothing is executed here."""

    def __init__(self, run: Interpreter, module: Module) -> None:
        self.run = run
        self.module = module

    def returned_losses(self, cls: ClassValue) -> list[str]:
        found = []
        for base in self.run.mro(cls):
            if isinstance(base, External):
                for tail, names in RETURNED_LOSSES.items():
                    if base.tail == tail or tail == "Trainer" and base.tail.endswith("Trainer"):
                        found += [name for name in names if isinstance(self.run.member(cls, name)[0], Function)]
        return list(dict.fromkeys(found))

    def roots(self, cls: ClassValue) -> list[str]:
        """The methods that reach a sink and that no other such method calls."""
        methods = self.methods(cls)
        mentions = {
            name: {other for node in nodes for other in self.references(node)[0]}
            for name, nodes in methods.nodes.items()
        }
        reaches = {name for name, nodes in methods.nodes.items() if any(self.reaches_sink(node) for node in nodes)}
        self._grow(reaches, mentions)
        kept = self._kept_by_constructor(methods.nodes.get("__init__", []), reaches)
        if kept:
            reaches |= {name for name, names in mentions.items() if names & kept and name != "__init__"}
            self._grow(reaches, mentions)
        refers = methods.refers
        roots = [
            name
            for name in methods.nodes
            if name in reaches
            and not any(name in refers[other] for other in reaches if other != name)
            and (not name.startswith("__") or name == "__call__")
        ]
        return roots or [name for name in methods.nodes if name in reaches and name != "__init__"][:3]

    def may_differentiate(self, cls: ClassValue) -> bool:
        """Whether the text of the class or of one that it derives from has a word of it at all."""
        files = {base.module.file for base in self.run.mro(cls) if isinstance(base, ClassValue)}
        texts = [self.run.files.peek(file) or "" for file in sorted(files)]
        return any(_speaks_of_gradient(text) or any(name in text for name in self.helpers()) for text in texts)

    def methods(self, cls: ClassValue) -> Methods:
        nodes: dict[str, list[ast.AST]] = {}
        for base in self.run.mro(cls):
            if isinstance(base, ClassValue):
                for statement in base.node.body:
                    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        nodes.setdefault(statement.name, []).append(statement)
        refers: dict[str, set[str]] = {}
        for name, mine in nodes.items():
            refers[name] = {other for node in mine for other in self.references(node)[0] & nodes.keys()} - {name}
        return Methods(nodes, refers)

    def _grow(self, reaches: set[str], mentions: dict[str, set[str]]) -> None:
        """Who names a method that reaches a sink reaches it, too."""
        growing = True
        while growing:
            found = {name for name, names in mentions.items() if name not in reaches and names & reaches}
            reaches |= found
            growing = bool(found)

    def _kept_by_constructor(self, constructors: list[ast.AST], reaches: set[str]) -> set[str]:
        """The attributes that a constructor keeps an update or a gradient in: `self._grad = jax.grad(self.loss)`."""
        if self.module.framework != "jax":
            return set()
        found = set()
        for constructor in constructors:
            for statement in walk(constructor):
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
                    names, sink = self.references(statement.value)
                    if sink or names & reaches:
                        found |= {target.attr for target in statement.targets if isinstance(target, ast.Attribute)}
        return found

    def references(self, function: ast.AST) -> tuple[set[str], bool]:
        """The methods that a function names on self or super, and whether it differentiates something itself."""
        known = self.run.callers.references.get(function)
        if known is None:
            names: set[str] = set()
            sink = False
            differentiating = self.helpers()
            for node in walk(function):
                if isinstance(node, ast.Call):
                    sink = sink or _calls_optimizer(node.func) or last_name(node.func) in differentiating
                elif isinstance(node, ast.Attribute):
                    owner = node.value
                    if isinstance(owner, ast.Name) and owner.id in ("self", "cls"):
                        names.add(node.attr)
                    elif isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super":
                        names.add(node.attr)
                    sink = sink or _differentiates(node)
                elif isinstance(node, ast.Name) and node.id in ("value_and_grad", "vjp"):
                    sink = True
            known = self.run.callers.references[function] = (names, sink)
        return known

    def helpers(self) -> frozenset[str]:
        """The names of what differentiates for its caller."""
        if self.module.framework == "jax":
            return self.run.hints.gradient_helpers(self.module.file)
        if self.module.framework == "torch":
            return self.run.hints.backward_helpers(self.module.file)
        return frozenset({"GradientTape"})

    def reaches_sink(self, node: ast.AST) -> bool:
        return self.references(node)[1]


@functools.lru_cache(maxsize=256)
def _speaks_of_gradient(text: str) -> bool:
    return DIFFERENTIATES.search(text) is not None


def _calls_optimizer(function: ast.expr) -> bool:
    """`self.actor_opt(loss, ...)`: an optimizer of the project that does the whole step."""
    name = last_name(function)
    made = name.startswith(("get", "make", "create", "build", "set"))
    return name.lower().endswith(("_opt", "_optim", "_optimizer")) and not made


def _differentiates(node: ast.Attribute) -> bool:
    if node.attr in SINK_ATTRIBUTES:
        return True
    name = last_name(node.value)
    if node.attr == "grad":
        return name in ("jax", "autograd", "nnx", "eqx", "hk")
    return node.attr in ("step", "apply_gradients") and "optim" in name.lower()
