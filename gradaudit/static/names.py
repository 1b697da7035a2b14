"""Names: scopes, modules, imports, and the class that an annotation means."""

from __future__ import annotations

import ast
import builtins
from itertools import islice
from typing import Any

from gradaudit.static.files import Module
from gradaudit.static.machine import Machine
from gradaudit.static.state import Scope
from gradaudit.static.values import (
    MISSING,
    ClassValue,
    Const,
    Elements,
    External,
    ModuleValue,
    Union,
    Unknown,
)

BUILTINS = frozenset(dir(builtins))
MODULE_CLASSES = frozenset({
    "torch.nn.Module", "torch.nn.modules.Module", "torch.nn.modules.module.Module", "flax.linen.Module",
    "flax.nnx.Module", "haiku.Module", "equinox.Module", "tensorflow.keras.Model", "tensorflow.keras.layers.Layer",
    "tensorflow.Module", "keras.Model", "keras.layers.Layer", "tensorflow.keras.Sequential",
})  # fmt: skip
WRAPPERS = frozenset({"Optional", "Union", "Annotated", "ClassVar", "Final", "Required", "NotRequired"})
CONTAINERS = frozenset({
    "list", "List", "dict", "Dict", "tuple", "Tuple", "Sequence", "Callable", "type", "Type", "Mapping", "Iterable",
    "Iterator", "Generator", "set", "Set", "Literal", "Deque", "deque", "defaultdict",
})  # fmt: skip


class Names(Machine):
    def lookup_name(self, name: str, scope: Scope) -> Any:
        home: Scope | None = scope
        while home is not None:
            if name in home.vars:
                return self.fetch(home.vars, name) if home is not scope and home.parent is not None else home.vars[name]
            if home.parent is None:
                value = self.module_name(home.module, name)
                if value is not MISSING:
                    return value
                break
            home = home.parent
        if name == "__name__":
            return Const("__main__" if scope.module.file == self.main_file else scope.module.display)
        if name == "__file__":
            return Const(scope.module.display)
        if name in BUILTINS:
            return External("builtins." + name)
        return Unknown(name)

    # -- modules -----------------------------------------------------------------------------------------------------
    def module_scope(self, module: Module) -> Scope:
        scope = self.scopes.get(module)
        if scope is None:
            scope = self.scopes[module] = Scope(None, module)
        return scope

    def module_name(self, module: Module, name: str) -> Any:
        """A module's global, evaluated when it is first asked for."""
        scope = self.module_scope(module)
        value = scope.vars.get(name, MISSING)
        if value is not MISSING:
            return value
        entries = module.bound.get(name)
        if entries is None:
            return self._starred_name(module, name)
        if (module, name) in self.busy:
            return MISSING
        self.busy.add((module, name))
        saved, so_far = self._step_aside(module), len(self.frozen)
        try:
            value = self._global_bind(entries[-1], name, module, scope)
        finally:
            self.busy.discard((module, name))
            self._step_back(saved)
        self.frozen_globals.update(islice(self.frozen.items(), so_far, None))
        scope.vars[name] = value
        return value

    def _step_aside(self, module: Module) -> Any:
        """A global is the same for everyone: it is evaluated outside of whatever is running."""
        saved = (
            self.journal, self.assumed, self.grad_on, self.grad_guard, self.frame, self.loops, self.loop_keys,
            self.file,
            self.line_node, self.function, self.applied, self.call_site,
        )  # fmt: skip
        self.journal, self.assumed, self.grad_on, self.grad_guard = None, {}, True, frozenset()
        self.frame, self.loops, self.loop_keys, self.applied, self.call_site = None, [], (), None, None
        self.file, self.function = module.display, ""
        return saved

    def _step_back(self, saved: Any) -> None:
        (
            self.journal, self.assumed, self.grad_on, self.grad_guard, self.frame, self.loops, self.loop_keys,
            self.file,
            self.line_node, self.function, self.applied, self.call_site,
        ) = saved  # fmt: skip

    def _global_bind(self, entry: tuple[ast.stmt, ast.alias | None], name: str, module: Module, scope: Scope) -> Any:
        statement, alias = entry
        if alias is not None:
            return self.imported(statement, alias, module)
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self.make_function(statement, scope)
        if isinstance(statement, ast.ClassDef):
            return ClassValue(statement, module, scope)
        if isinstance(statement, ast.AnnAssign):
            if statement.value is None:
                return Unknown(name, annotation=self.class_from_annotation(statement.annotation, scope))
            return self.settle(self.evaluate(statement.value, scope))
        if isinstance(statement, ast.Assign):
            value = self.settle(self.evaluate(statement.value, scope))
            for target in statement.targets:
                self.assign(target, value, scope)
            return scope.vars.get(name, Unknown(name))
        return Unknown(name)

    def _starred_name(self, module: Module, name: str) -> Any:
        if not module.stars or (module, "*" + name) in self.busy:  # modules that import everything of each other
            return MISSING
        self.busy.add((module, "*" + name))
        try:
            return self._from_stars(module, name)
        finally:
            self.busy.discard((module, "*" + name))

    def _from_stars(self, module: Module, name: str) -> Any:
        for statement in module.stars:
            file = self.files.find(self._absolute(statement, module), module.file)
            if file is not None and file != module.file:
                source = self.files.module(file)
                if source is not None:
                    value = self.module_name(source, name)
                    if value is not MISSING:
                        return value
            elif file is None and not statement.level and statement.module:
                row = self.hints.models.function(f"{statement.module}.{name}")
                if row is not None:
                    return External(f"{statement.module}.{name}")
        return MISSING

    # -- imports -----------------------------------------------------------------------------------------------------
    def _absolute(self, statement: ast.ImportFrom, module: Module) -> str:
        """The dotted path that an import names, relative ones resolved against the file's place in the project."""
        if not statement.level:
            return statement.module or ""
        import os

        root = self.files.root(module.file)
        folder = os.path.dirname(module.file)
        for _ in range(statement.level - 1):
            folder = os.path.dirname(folder)
        inside = os.path.relpath(folder, root)
        parts = [] if inside in (".", "") else inside.split(os.sep)
        if statement.module:
            parts += statement.module.split(".")
        return ".".join(parts)

    def imported(self, statement: ast.stmt, alias: ast.alias, module: Module) -> Any:
        if isinstance(statement, ast.Import):
            dotted = alias.name if alias.asname else alias.name.split(".")[0]
            file = self.files.find(dotted, module.file)
            source = self.files.module(file) if file is not None and file != module.file else None
            return ModuleValue(source) if source is not None else External(dotted)
        assert isinstance(statement, ast.ImportFrom)
        base = self._absolute(statement, module)
        file = self.files.find(base, module.file) if base else None
        if file is not None and file != module.file:
            source = self.files.module(file)
            if source is not None:
                value = self.module_name(source, alias.name)
                if value is not MISSING:
                    return value
        part = self.files.find(f"{base}.{alias.name}" if base else alias.name, module.file)
        if part is not None and part != module.file:
            source = self.files.module(part)
            if source is not None:
                return ModuleValue(source)
        if statement.level or file is not None:
            return Unknown(alias.name)
        return External(f"{base}.{alias.name}")

    # -- annotations -------------------------------------------------------------------------------------------------
    def class_from_annotation(self, annotation: ast.expr | None, scope: Scope, depth: int = 0) -> Any:
        """The project's class that an annotation means, a library's module class, or None."""
        if annotation is None or depth > 4:
            return None
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                return self.class_from_annotation(ast.parse(annotation.value, mode="eval").body, scope, depth + 1)
            except (SyntaxError, ValueError):
                return None
        if isinstance(annotation, ast.BinOp):
            left = self.class_from_annotation(annotation.left, scope, depth + 1)
            return left or self.class_from_annotation(annotation.right, scope, depth + 1)
        if isinstance(annotation, ast.Subscript):
            head = annotation.value
            name = head.attr if isinstance(head, ast.Attribute) else getattr(head, "id", "")
            if name in CONTAINERS:
                return self._elements(name, annotation.slice, scope, depth)
            if name in WRAPPERS:
                parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
                for part in parts:
                    found = self.class_from_annotation(part, scope, depth + 1)
                    if found is not None:
                        return found
                return None
            return self.class_from_annotation(head, scope, depth + 1)
        if isinstance(annotation, (ast.Name, ast.Attribute)):
            return self._class_of(self.evaluate(annotation, scope))
        return None

    def _elements(self, container: str, inside: ast.expr, scope: Scope, depth: int) -> Any:
        """`list[Critic]`, `dict[str, Critic]`: what its elements are."""
        if container in ("Callable", "Literal", "type", "Type"):
            return None
        part = inside.elts[-1] if isinstance(inside, ast.Tuple) and container.lower() in ("dict", "mapping") else inside
        if isinstance(part, ast.Tuple) and part.elts:
            part = part.elts[0]
        found = self.class_from_annotation(part, scope, depth + 1)
        return Elements(found) if isinstance(found, (ClassValue, External)) else None

    def _class_of(self, value: Any) -> Any:
        if isinstance(value, ClassValue):
            return value
        if isinstance(value, External):
            known = self.hints.models.canonical(value.path) in MODULE_CLASSES or value.path in MODULE_CLASSES
            if known or value.tail in ("LightningModule", "PreTrainedModel", "PreTrainedModelWrapper"):
                return External("torch.nn.Module")
            return External(value.path) if value.tail in ("Optimizer", "GradientTransformation") else None
        if (
            isinstance(value, Unknown)
            and isinstance(value.annotation, (ClassValue, External))
            and value.flag_of == "TypeVar"
        ):
            return value.annotation
        if isinstance(value, Union):
            return next((found for found in map(self._class_of, value.alternatives) if found is not None), None)
        return None
