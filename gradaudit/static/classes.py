"""Classes of the project: order of bases, members, instances."""

from __future__ import annotations

import ast
import functools
from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.names import MODULE_CLASSES
from gradaudit.static.state import DEPTH, Scope
from gradaudit.static.syntax import last_name
from gradaudit.static.values import (
    MISSING,
    ClassValue,
    Const,
    External,
    Function,
    GradMode,
    Instance,
    Mapping,
    Partial,
    Sequence,
    Union,
    Unknown,
)

MODULE_TAILS = frozenset({
    "Module", "Model", "LightningModule", "Layer", "Sequential", "PreTrainedModel", "TensorDictModule", "RNNBase",
    "Network", "DistributionalModel", "AbstractModule",
})  # fmt: skip
NO_NETWORKS = frozenset(
    {"torch", "abc", "typing", "typing_extensions", "builtins", "dataclasses", "enum", "collections"}
)
RECORD_BASES = frozenset({"Protocol", "TypedDict"})
ATTRIBUTE_PROTOCOL = frozenset({"__setattr__", "__getattr__", "__setitem__", "__getstate__"})
GRAD_DECORATORS = frozenset({"no_grad", "inference_mode", "enable_grad", "set_grad_enabled"})
TRANSPARENT_DECORATORS = frozenset({
    "property", "cached_property", "staticmethod", "classmethod", "abstractmethod", "overload", "override", "setter",
    "getter", "wraps", "lru_cache", "cache", "jit", "compile", "compact", "nowrap", "contextmanager", "final",
    "dataclass", "singledispatch", "functools", "eval_mode", "train_api", "type_check", "typechecked", "jaxtyped",
})  # fmt: skip
CALL_METHODS = ("__call__", "forward", "call")


class Classes(Machine):
    # -- bases -------------------------------------------------------------------------------------------------------
    def mro(self, cls: ClassValue) -> list[Any]:
        if cls.mro is None:
            cls.mro = [cls]  # a cycle of bases ends here
            at = self.line_node
            try:
                cls.mro = self._linearised(cls)
            except BaseException:
                cls.mro = None  # out of budget: the next one who asks has one of his own
                raise
            finally:
                self.line_node = at  # where it is asked, not where the class is written
        return cls.mro

    def _linearised(self, cls: ClassValue) -> list[Any]:
        lines: list[list[Any]] = []
        for base in cls.node.bases:
            while isinstance(base, ast.Subscript):
                base = base.value
            value = self.evaluate(base, cls.scope)
            for part in value.alternatives if isinstance(value, Union) else (value,):
                lines.append(self.mro(part) if isinstance(part, ClassValue) else [part])
        order: list[Any] = [cls]
        for line in lines:
            for part in line:
                order = [other for other in order if other is not part] + [part]
        return order

    def is_module_class(self, cls: ClassValue) -> bool:
        if cls.is_module is None:
            bases = [base for base in self.mro(cls) if isinstance(base, External)]
            cls.is_module = any(is_module_path(base.path) for base in bases) or self._is_foreign_module(cls, bases)
        return cls.is_module

    def _is_foreign_module(self, cls: ClassValue, bases: list[External]) -> bool:
        """A class with a `forward` whose base comes from a library that we do not see: a network as that has them."""
        return any(base.root not in NO_NETWORKS for base in bases) and self.member(cls, "forward")[1] is not None

    def is_record(self, cls: ClassValue) -> bool:
        """A dynamic bag of attributes (a Batch, a TensorDict of one's own): not entered, kept per key."""
        if cls.record is None:
            cls.record = not self.is_module_class(cls) and any(map(self._makes_record, self.mro(cls)))
        return cls.record

    def _makes_record(self, base: Any) -> bool:
        if isinstance(base, External):
            return base.tail in RECORD_BASES
        if isinstance(base, ClassValue):
            names = _members(base.node.body).keys()
            return "__getitem__" in names and len(names & ATTRIBUTE_PROTOCOL) >= 2
        return False

    # -- members -----------------------------------------------------------------------------------------------------
    def member(self, cls: ClassValue, name: str, after: ClassValue | None = None) -> tuple[Any, ClassValue | None]:
        order = self.mro(cls)
        if after is not None:
            index = next((i for i, base in enumerate(order) if base is after), -1)
            order = order[index + 1 :]
        for base in order:
            if type(base) is ClassValue:
                value = base.attrs.get(name, MISSING)
                if value is MISSING:
                    if base.members is not None and name not in base.members:
                        continue
                    value = self._own_member(base, name)
                if value is not MISSING:
                    return value, base
        return MISSING, None

    def _own_member(self, cls: ClassValue, name: str) -> Any:
        value = cls.attrs.get(name, MISSING)
        if value is not MISSING:
            return value
        statement = self._members_of(cls).get(name)
        if statement is None:
            return MISSING
        cls.attrs[name] = Unknown(name)  # while it is being evaluated
        value = MISSING
        try:
            value = self._member_value(cls, name, statement)
        finally:
            if value is MISSING:
                cls.attrs.pop(name, None)
            else:
                cls.attrs[name] = value
        return value

    def _members_of(self, cls: ClassValue) -> dict[str, ast.stmt]:
        if cls.members is None:
            cls.members = _members(cls.node.body)
        return cls.members

    def behaviour(self, cls: ClassValue) -> tuple[Any, ...]:
        """Where its methods come from: classes of which this is equal differ in their constructors only."""
        found: list[Any] = []
        for base in self.mro(cls):
            if not isinstance(base, ClassValue):
                found.append(base.path if isinstance(base, External) else base)
            elif self._members_of(base).keys() - {"__init__"}:
                found.append(base.node)
        return tuple(found)

    def _member_value(self, cls: ClassValue, name: str, statement: ast.stmt) -> Any:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self.make_function(statement, cls.scope, cls)
        if isinstance(statement, ast.ClassDef):
            return ClassValue(statement, cls.module, cls.scope)
        if isinstance(statement, ast.Assign):
            inner = Scope(cls.scope, cls.module)
            inner.vars = cls.attrs
            value = self.settle(self.evaluate(statement.value, inner))
            if isinstance(value, Function):
                value.owner = cls
            return value
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            return self.settle(self.evaluate(statement.value, cls.scope))
        return MISSING

    def annotation_of(self, cls: ClassValue, name: str) -> Any:
        for base in self.mro(cls):
            if isinstance(base, ClassValue):
                annotation = annotated(base.node).get(name)
                if annotation is not None:
                    return self.class_from_annotation(annotation, base.scope)
        return None

    def fields(self, cls: ClassValue) -> list[tuple[str, ast.AnnAssign, ClassValue]]:
        """The annotated fields of a dataclass, NamedTuple or flax module, bases first."""
        if cls.fields is None:
            found: dict[str, tuple[str, ast.AnnAssign, ClassValue]] = {}
            for base in reversed(self.mro(cls)):
                if isinstance(base, ClassValue):
                    for statement in base.node.body:
                        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                            found[statement.target.id] = (statement.target.id, statement, base)
            cls.fields = list(found.values())
        return cls.fields

    # -- functions ---------------------------------------------------------------------------------------------------
    def make_function(self, node: Any, scope: Scope, owner: ClassValue | None = None) -> Any:
        made = Function(node, scope.module, scope, None, owner)
        scope.captured = True
        if owner is None and scope.parent is not None:
            self.uncalled[node] = made
        value: Any = made
        for decorator in reversed(node.decorator_list):
            value = self._decorate(value, made, decorator, scope)
        return value

    def _decorate(self, value: Any, function: Function, decorator: ast.expr, scope: Scope) -> Any:
        head = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = head.attr if isinstance(head, ast.Attribute) else getattr(head, "id", "")
        if name in GRAD_DECORATORS:
            mode = self.evaluate(decorator, scope)
            function.grad = "off" if name in ("no_grad", "inference_mode") else "on"
            if isinstance(mode, GradMode):
                function.grad = "on" if mode.mode == "on" else "off"
            return value
        if name in TRANSPARENT_DECORATORS or function.owner is not None and name not in ("partial", "grad"):
            if name not in ("checkpoint", "remat"):
                return value
        wrapper = self.evaluate(decorator, scope)
        if isinstance(wrapper, (Function, Partial)):
            return self._wrapped(value, wrapper)
        if isinstance(wrapper, External) and self.hints.models.function(wrapper.path) is None:
            return value
        if isinstance(wrapper, External) or not isinstance(wrapper, (Unknown, ClassValue, Instance, Const)):
            result = self.call(wrapper, [value], {})
            return value if isinstance(result, (Unknown, Const)) else result
        return value

    def _wrapped(self, value: Any, wrapper: Any) -> Any:
        result = self.call(wrapper, [value], {})
        return result if isinstance(result, (Function, Partial)) else value

    # -- instances ---------------------------------------------------------------------------------------------------
    def instantiate(self, cls: ClassValue, args: Args, keywords: Keywords, entry: bool = False) -> Any:
        instance = Instance(cls)
        self.made.append(instance)
        if self.is_record(cls):
            for value in args:
                if isinstance(value, Mapping):
                    instance.attrs.update({k: v for k, v in value.known().items() if isinstance(k, str)})
            instance.attrs.update(self.distinct_entries(keywords))
            for key, value in instance.attrs.items() if self.originals else ():
                self.named_tree(value, str(key))
            return instance
        if self.is_module_class(cls):
            self.name_inside(instance.network)
        applied, self.applied = self.applied, None  # what it is made of is named by where it is kept
        try:
            method, owner = self.member(cls, "__init__")
            if isinstance(method, Function):
                self.call_function(method.bind(instance, owner), args, keywords, entry=entry)
            elif self.distribution_base(cls) is not None:
                self.foreign_init(instance, args, keywords)
            else:
                self._fill_fields(instance, cls, args, keywords, entry)
            self._run_setup(instance, cls)
        finally:
            self.applied = applied
        return instance

    def _fill_fields(self, instance: Instance, cls: ClassValue, args: Args, keywords: Keywords, entry: bool) -> None:
        fields = self.fields(cls)
        keywords = self.distinct_entries(keywords)
        for index, (name, statement, owner) in enumerate(fields):
            if index < len(args):
                self.set_attribute(instance, name, args[index])
            elif name in keywords:
                self.set_attribute(instance, name, keywords[name])
            elif statement.value is not None and not entry:
                self.set_attribute(instance, name, self._field_default(statement.value, owner))
            elif entry and (given := self._default_object(statement.value, owner)) is not None:
                self.set_attribute(instance, name, given)
            elif entry:
                made = Unknown(name, annotation=self.class_from_annotation(statement.annotation, owner.scope))
                if isinstance(statement.value, ast.Constant):
                    made.default = statement.value.value
                instance.attrs[name] = made
        known = {name for name, _, _ in fields}
        for name, value in keywords.items():
            if name not in known:
                instance.attrs[name] = value
        if not fields and args:
            instance.attrs["*"] = Sequence(args)

    def _default_object(self, expression: ast.expr | None, owner: ClassValue) -> Any:
        """A class or function that a field has by default: what it is used for is what is written for it."""
        if not isinstance(expression, (ast.Name, ast.Attribute)):
            return None
        value = self.evaluate(expression, owner.scope)
        return value if isinstance(value, (ClassValue, Function)) else None

    def _field_default(self, expression: ast.expr, owner: ClassValue) -> Any:
        if isinstance(expression, ast.Call) and isinstance(expression.func, (ast.Name, ast.Attribute)):
            name = expression.func.attr if isinstance(expression.func, ast.Attribute) else expression.func.id
            if name == "field":
                for keyword in expression.keywords:
                    if keyword.arg == "default":
                        return self.evaluate(keyword.value, owner.scope)
                    if keyword.arg == "default_factory":
                        return self.call(self.evaluate(keyword.value, owner.scope), [], {})
                return Unknown("field")
        return self.settle(self.evaluate(expression, owner.scope))

    def _run_setup(self, instance: Instance, cls: ClassValue) -> None:
        """flax linen's `setup`, equinox's and attrs' `__post_init__`."""
        for name in ("setup", "__post_init__", "__attrs_post_init__"):
            if name == "setup" and not self.is_module_class(cls):
                continue
            method, owner = self.member(cls, name)
            if isinstance(method, Function) and not method.node.args.args[1:]:
                self.call_function(method.bind(instance, owner), [], {})

    def materialise(self, unknown: Unknown) -> Instance | None:
        """The object behind an annotated argument: made the first time that something is asked of it."""
        cls = unknown.annotation
        if unknown.instance is None and isinstance(cls, ClassValue):
            if len(self.stack) > DEPTH - 4 or cls.node in self.stack:
                return None
            self.stack.append(cls.node)
            journal, self.journal = self.journal, None
            try:
                concrete = self.concrete(cls)
                made = self.instantiate(concrete, [], {}, entry=True)
            finally:
                self.stack.pop()
                self.journal = journal
            if isinstance(made, Instance):
                made.network.name = made.network.name or unknown.name
                for key, value in unknown.attrs.items():
                    made.attrs.setdefault(key, value)
                unknown.instance = made
        return unknown.instance

    def concrete(self, cls: ClassValue) -> ClassValue:
        """A class that can be instantiated: of an abstract one, a subclass (one with parameters first)."""
        if not self._is_abstract(cls):
            return cls
        best: ClassValue | None = None
        for name, file in self.hints.subclasses(cls.name, cls.module.file)[:8]:
            module = self.files.module(file)
            value = self.module_name(module, name) if module is not None else None
            if isinstance(value, ClassValue) and any(base is cls for base in self.mro(value)):
                if self.is_module_class(value) and not self._is_abstract(value):
                    return value
                best = best or value
        return best or cls

    def _is_abstract(self, cls: ClassValue) -> bool:
        for statement in cls.node.body:
            if isinstance(statement, ast.FunctionDef):
                if any(_tail(decorator) == "abstractmethod" for decorator in statement.decorator_list):
                    return True
                if _refuses(statement):
                    return True
        return False


def is_module_path(path: str) -> bool:
    return path in MODULE_CLASSES or path.rsplit(".", 1)[-1] in MODULE_TAILS or path.startswith("torch.nn.")


def _tail(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return last_name(node)


def _members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            decorators = {_tail(decorator) for decorator in statement.decorator_list}
            if decorators & {"setter", "overload", "deleter"}:
                continue
            found[statement.name] = statement
        elif isinstance(statement, ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.value is not None:
                found[statement.target.id] = statement
        elif isinstance(statement, (ast.If, ast.Try)):
            found.update(_members(statement.body))
    return found


@functools.lru_cache(maxsize=4096)
def annotated(node: ast.ClassDef) -> dict[str, ast.expr]:
    """The annotations in a class's body; of several for one name the first."""
    found: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found.setdefault(statement.target.id, statement.annotation)
    return found


def _refuses(function: ast.FunctionDef) -> bool:
    """`raise NotImplementedError` and nothing else: what a subclass has to define."""
    rest = [part for part in function.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
    return len(rest) == 1 and isinstance(rest[0], ast.Raise) and "NotImplemented" in ast.unparse(rest[0])


@functools.lru_cache(maxsize=8192)
def is_stub(node: Any) -> bool:
    """A function without a body worth entering: `...`, `raise NotImplementedError`, an abstract method."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return False
    rest = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if not rest:
        return bool(node.name != "__init__")
    if len(rest) == 1 and isinstance(rest[0], ast.Raise):
        return True
    if any(_tail(decorator) == "abstractmethod" for decorator in node.decorator_list):
        return all(
            isinstance(s, (ast.Pass, ast.Raise))
            or (isinstance(s, ast.Return) and (s.value is None or isinstance(s.value, ast.Constant)))
            for s in rest
        )
    return len(rest) == 1 and isinstance(rest[0], ast.Pass) and node.name != "__init__"
