"""Calls: who is called, binding of arguments, entering functions of the project, and what an unknown call gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gradaudit.static.attributes import decorators_of, informed
from gradaudit.static.classes import CALL_METHODS, is_stub
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.recursion import stops_all_parts
from gradaudit.static.state import DEPTH, NESTED, RECURSION, Scope
from gradaudit.static.syntax import last_name
from gradaudit.static.values import (
    MISSING,
    NONE,
    Bound,
    ClassValue,
    Const,
    External,
    Function,
    Gradient,
    GradMode,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Partial,
    Sequence,
    Super,
    Transformed,
    Union,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Call, Edge, Frame, Guard, Node, join_guards

NO_RESULT_IN = frozenset({
    "step", "reset", "sample", "get", "add", "append", "push", "store", "insert", "put", "record", "log", "info",
    "debug",
    "warning", "close", "render", "seed", "add_scalar", "add_text", "write", "update_stats", "print", "save", "load",
    "track_data", "join", "keys", "items", "values", "format", "recv", "send", "start", "add_scalars", "log_metrics",
    "set_description", "set_postfix", "remember", "observe", "extend", "add_batch", "add_transition",
})  # fmt: skip
COMPARES = re.compile(r"(^|_)(loss|criterion)(_?(fn|fnc|func|function))?$")
"""What compares the two tensors that it is given, chosen by a configuration or of a library that is not known."""
MOST = 3  # alternatives of an undecided callee that are followed
MOST_LOOKED_AT = 300  # nodes behind an argument
NOWHERE = ast.Pass(lineno=0, col_offset=0, end_lineno=0, end_col_offset=0)
NOT_ENTERED = frozenset({"setup", "configure_optimizers", "training_step", "_init_weights", "init_weights"})
NAMELESS = frozenset({"random", "alloc", "const"})


class Calls(Machine):
    given: dict[tuple[int, str], Unknown]
    """What the constructors of this entry were given from outside, by the object and the parameter's name."""

    def call(self, function: Any, args: Args, keywords: Keywords, extra: Any = None) -> Any:
        handler = CALLEES.get(type(function))
        if handler is not None:
            return handler(self, function, args, keywords, extra)
        if isinstance(function, Node):
            if function.leaf is not None and function.leaf.name == "gradient" and len(args) == 2:
                return self.gradient_of(*args)  # of a tape that a library function was given
            if function.leaf is not None and function.leaf.kind == "arg" and not args and not keywords:
                return function  # `agent.entropy_cost()`: a parameter of its own
            part = function.op == "getitem" and function.detail[:1] == "."  # an object in what a network gave
            edges = [Edge(function, not part)] + [
                Edge(node) for value in (*args, *keywords.values()) for node in self.nodes_of(value)
            ]
            return self.node("call", edges[:40])
        return self.call_unknown("?", args, keywords)

    def _call_function(self, function: Function, args: Args, keywords: Keywords, extra: Any) -> Any:
        return self.call_function(function, args, keywords, extra=extra)

    def _call_class(self, cls: ClassValue, args: Args, keywords: Keywords, extra: Any) -> Any:
        if is_named_tuple(cls, self):
            return self._named_tuple(cls, args, keywords, extra)
        if len(self.stack) > DEPTH or self.stack.count(cls.node) >= RECURSION:
            return Unknown(cls.name, annotation=None)
        self.stack.append(cls.node)
        try:
            return self.instantiate(cls, args, keywords)
        finally:
            self.stack.pop()

    def _named_tuple(self, cls: ClassValue, args: Args, keywords: Keywords, extra: Any = None) -> Any:
        names = [name for name, _, _ in self.fields(cls)]
        made = Sequence(self.distinct(self._fields_of_tuple(names, args, keywords, extra)))
        for name, item in zip(names, made.items, strict=True) if self.originals else ():
            self.named_tree(item, name)
        made.names = tuple(names)
        return made

    def _fields_of_tuple(self, names: Iterable[str], args: Args, keywords: Keywords, extra: Any) -> list[Any]:
        """What is given for each field: one by one, by name, or out of what was unpacked, whose length is not known."""
        return [
            args[i] if i < len(args) else keywords[name] if name in keywords else self._unpacked(extra, name, i)
            for i, name in enumerate(names)
        ]

    def _unpacked(self, extra: Any, name: str, index: int) -> Any:
        if extra is None:
            return NONE
        if isinstance(extra, Unknown):
            return self.get_attribute(extra, name)
        return self.one_of_any(extra, Const(index))

    def _call_instance(self, instance: Instance, args: Args, keywords: Keywords, extra: Any) -> Any:
        return self.call_module(instance, args, keywords)

    def _bound(self, bound: Bound, args: Args, keywords: Keywords, extra: Any) -> Any:
        return self.call_method(bound.receiver, bound.name, args, keywords)

    def _call_external(self, function: External, args: Args, keywords: Keywords, extra: Any) -> Any:
        if extra is not None and not args:
            args = [extra]
        return self.call_external(function.path, args, keywords)

    def _partial(self, partial: Partial, args: Args, keywords: Keywords, extra: Any) -> Any:
        return self.call(partial.function, [*partial.args, *args], {**partial.keywords, **keywords}, extra)

    def _gradient(self, gradient: Gradient, args: Args, keywords: Keywords, extra: Any) -> Any:
        return self.call_gradient(gradient, args, keywords)

    def _call_union(self, union: Union, args: Args, keywords: Keywords, extra: Any) -> Any:
        at = self.line_node
        results = []
        assumed = self.assumed
        parts = most_derived(informed(self.possible(union)), self)
        if len(parts) > 1 and not any(union.guards):
            parts = unlike(parts, self)
        self.undecided_callee += len(parts) > 1
        for part in parts:
            guard = union.guard_of(part)
            if guard and any(assumed.get(key, value) is not value for key, value in guard):
                continue
            self.line_node, self.assumed = at, {**assumed, **dict(guard)}
            mine, named = [_under(guard, value) for value in args], {k: _under(guard, v) for k, v in keywords.items()}
            results.append((self.call(part, mine, named, extra), guard))
        self.assumed = assumed
        self.undecided_callee -= len(parts) > 1
        joined = self.join(results)
        return Unknown("result") if joined is MISSING else joined

    def _call_super(self, value: Super, args: Args, keywords: Keywords, extra: Any) -> Any:
        return NONE

    def _transformed(self, value: Transformed, args: Args, keywords: Keywords, extra: Any) -> Any:
        if value.how == "namedtuple":
            made = Sequence(self._fields_of_tuple(value.function.value, args, keywords, extra))
            made.names = value.function.value
            return made
        return self.call_transformed(value, args, keywords)

    def _call_grad_mode(self, mode: GradMode, args: Args, keywords: Keywords, extra: Any) -> Any:
        """`torch.no_grad()(f)`: the function with gradient switched off."""
        if args and isinstance(args[0], Function):
            made = args[0].bind(args[0].self_value, args[0].owner)  # type: ignore[arg-type]
            made.grad = "on" if mode.mode == "on" else "off"
            return made
        return args[0] if args else NONE

    # -- functions of the project ------------------------------------------------------------------------------------
    def call_function(
        self, function: Function, args: Args, keywords: Keywords, entry: bool = False, extra: Any = None
    ) -> Any:
        node = function.node
        if function.owner is not None and function.self_value is None and args and isinstance(args[0], Instance):
            if "staticmethod" not in decorators_of(node):  # `Base.__init__(self, ...)`
                function, args = function.bind(args[0], function.owner), args[1:]
        if function.owner is not None and function.self_value is not None and is_stub(node):
            receiver = function.self_value
            if self.is_module(receiver) and not self._is_filled_in(function):
                return self.call_module_opaquely(receiver, args, keywords)
            return self.call_unknown(function.name, args, keywords)
        depth = self.stack.count(node)
        structured = any(isinstance(value, (Sequence, Mapping, Instance)) for value in (*args, *keywords.values()))
        goes_down = not depth or structured or node in self.taking_apart or self._is_of_object(function, args, keywords)
        most = NESTED if node in self.taking_apart else RECURSION
        if len(self.stack) > DEPTH or depth >= most or not goes_down:
            made = self.call_unknown(function.name, args, keywords)
            return self.stop(made) if isinstance(made, Node) and stops_all_parts(node) else made
        if not entry and _returns_plain(node) and not self._carries(args, keywords):
            return plain(function.name)
        self.called.add(node)
        self.uncalled.pop(node, None)
        scope = Scope(function.scope, function.module, function.name)
        scope.assumed_at_entry = frozenset(self.assumed)
        if function.owner is not None:
            scope.cls, scope.self_value = function.owner, function.self_value
        if function.self_value is not None:
            args = [function.self_value, *args]
            scope.self_value = function.self_value
        self._bind_arguments(function, scope, args, keywords, entry, extra)
        managed = self.managed(function, scope)
        if managed is not None:
            return managed
        inside: Any = function.self_value
        if isinstance(inside, Instance) and self._enters(inside, function.name):
            return self._run_inside(function, scope, inside, args[1:], keywords)
        if entry and self.call_site is None:
            self.line_node = NOWHERE  # nobody's line: the entry itself calls it
        apart = self.taking_apart
        self.taking_apart = apart | {node} if structured else apart - {node}
        made = self.run_function(function, scope)
        self.taking_apart = apart
        if made is NONE and "classmethod" in decorators_of(node):
            return self.call_unknown(function.name, [], {})  # a class in the place of one that is not installed
        return self.node("identity", [Edge(made)]) if self._gives_back(node, made) else made

    def _is_filled_in(self, stub: Function) -> bool:
        """Does a subclass in the project say what the method does? It is followed there, as that class's own."""
        if stub.name in CALL_METHODS or stub.owner is None:
            return False
        subclasses = self.hints.subclasses(stub.owner.name, stub.module.file)
        return any(f"def {stub.name}(" in (self.hints.files.text(file) or "") for _, file in subclasses)

    def _gives_back(self, node: ast.AST, made: Any) -> bool:
        """`(lambda x: x)(value)`: where the text has a function in the place of one that does something."""
        if not isinstance(node, ast.Lambda) or not isinstance(node.body, ast.Name):
            return False
        first = [argument.arg for argument in node.args.args[:1]]
        computed = isinstance(made, Node) and made.leaf is None and made.op not in ("const", "stop")
        return computed and node.body.id in first and self.current_framework != "torch"

    def _enters(self, receiver: Instance, name: str) -> bool:
        """Is this a call of a network from outside of it, by whatever method?"""
        if name.startswith("__") or name in NOT_ENTERED or receiver.cls is None:
            return False
        if not self.is_module_class(receiver.cls):
            return False
        if self.frame is None:  # its own training step is outside of it, and so are the helpers of that
            caller = self.call_site.receiver if self.call_site is not None else None
            return caller is None or caller is not receiver.network or name in CALL_METHODS
        return self.frame.network is not receiver.network

    def _run_inside(self, function: Function, scope: Scope, receiver: Instance, args: Args, keywords: Keywords) -> Any:
        frame = self.frame
        nodes = [node for value in (*args, *keywords.values()) for node in self.nodes_of(value)]
        self.frame = Frame(receiver.network, tuple(nodes[:40]), frame)
        try:
            return self.run_function(function, scope)
        finally:
            self.frame = frame

    def _carries(self, args: Args, keywords: Keywords) -> bool:
        """Is anything given that gradient could be in, or that is known well enough to end a recursion?"""
        return any(isinstance(value, (Node, Sequence, Mapping, Instance)) for value in (*args, *keywords.values()))

    def _is_of_object(self, function: Function, args: Args, keywords: Keywords) -> bool:
        """Is it worth calling a method from within itself: for another object?

        A function is called from within itself for a part of a known structure, down to the first tensors of it: what
        it does again to other tensors is told by the arms that end its recursion.
        """
        inner = function.self_value is not None or function.scope.parent is not None
        return inner and self._carries(args, keywords)

    def run_function(self, function: Function, scope: Scope) -> Any:
        node = function.node
        saved = (self.grad_on, self.grad_guard, self.file, self.function, self.line_node, self.call_site)
        assumed = dict(self.assumed)
        if function.name != "<lambda>":
            receiver = function.self_value.network if isinstance(function.self_value, Instance) else None
            self.call_site = Call(self.location(), function.name, self.call_site, receiver)
            self.function = _qualified(function)
        self.stack.append(node)
        journal, mark = self.journal, len(self.journal or ())
        self.file = function.module.display
        if function.grad:
            self.grad_on, self.grad_guard = function.grad == "on", ALWAYS
        try:
            if isinstance(node, ast.Lambda):
                return self.settle(self.evaluate(node.body, scope))
            awaited = len(self.pending)
            self.block(node.body, scope)
            if scope.left:
                self.rejoin(scope)
            self.left_behind(awaited, node.body, scope)
        finally:
            self.stack.pop()
            self.grad_on, self.grad_guard, self.file, self.function, self.line_node, self.call_site = saved
            self.assumed = assumed
            if journal is not None and journal is self.journal and not scope.captured:
                journal[mark:] = [
                    entry for entry in journal[mark:] if entry[0] is not scope.vars
                ]  # its locals are gone
        if scope.yields:
            made = Sequence((), self.element(Sequence(scope.yields[:12])), "generator")
            made.yielded = tuple(scope.yields)
            return made
        if len(scope.returns) == 1:
            return scope.returns[0][0]
        if not scope.returns:
            return NONE
        return self.join(scope.returns[:12], "return")

    def _bind_arguments(
        self, function: Function, scope: Scope, args: Args, keywords: Keywords, entry: bool, extra: Any
    ) -> None:
        spec = function.node.args
        positional = [*spec.posonlyargs, *spec.args]
        first_default = len(positional) - len(spec.defaults)
        bind = scope.vars
        for index, parameter in enumerate(positional):
            name = parameter.arg
            if index < len(args):
                bind[name] = value = args[index]
                if type(value) is Unknown:
                    self._is_said_to_be(value, parameter, function)
                elif type(value) is Node:
                    if not value.name and value.op in NAMELESS:
                        value.name = name  # a batch that is made on the spot
                    if parameter.annotation is not None and last_name(parameter.annotation) == "PackedSequence":
                        self.packed.add(value)
            elif name in keywords:
                bind[name] = keywords[name]
                self._is_said_to_be(keywords[name], parameter, function)
            else:
                default = spec.defaults[index - first_default] if index >= first_default else None
                bind[name] = self._missing(parameter, default, function, entry, extra)
        for parameter, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            name = parameter.arg
            if name in keywords:
                bind[name] = keywords[name]
                self._is_said_to_be(keywords[name], parameter, function)
            else:
                bind[name] = self._missing(parameter, default, function, entry, extra)
        if spec.vararg is not None:
            rest = Unknown(spec.vararg.arg) if entry else extra
            bind[spec.vararg.arg] = Sequence(args[len(positional) :], rest)
        if spec.kwarg is not None:
            names = {parameter.arg for parameter in (*positional, *spec.kwonlyargs)}
            rest = extra if extra is not None else Unknown(spec.kwarg.arg) if entry else None
            bind[spec.kwarg.arg] = Mapping({key: value for key, value in keywords.items() if key not in names}, rest)

    def _is_said_to_be(self, value: Any, parameter: ast.arg, function: Function) -> None:
        """An unknown that nothing was asked of yet is what the function that gets it says."""
        if parameter.annotation is None or not isinstance(value, Unknown) or value.annotation is not None:
            return
        if value.instance is None and not value.attrs and not value.plain:
            where = self.line_node
            annotation = self.class_from_annotation(parameter.annotation, function.scope)
            if isinstance(annotation, ClassValue) and not self.is_record(annotation):
                value.annotation = annotation
            self.line_node = where

    def _missing(
        self, parameter: ast.arg, default: ast.expr | None, function: Function, entry: bool, extra: Any
    ) -> Any:
        if entry:
            return self.entry_argument(parameter, default, function)
        if extra is not None:
            annotation = self.class_from_annotation(parameter.annotation, function.scope)
            if isinstance(extra, Unknown) and annotation is None:
                return self.get_attribute(extra, parameter.arg)
            return Unknown(parameter.arg, annotation=annotation)
        if default is not None:
            value = self.evaluate(default, function.scope)
            return Const(value.value) if isinstance(value, Const) and isinstance(value.value, bool) else value
        return Unknown(parameter.arg, annotation=self.class_from_annotation(parameter.annotation, function.scope))

    def entry_argument(self, parameter: ast.arg, default: ast.expr | None, function: Function) -> Any:
        """An argument of a function that nobody calls: its default is only what happens unless someone asks."""
        given = self._given_before(function, parameter.arg)
        if given is not None:
            return given
        annotation = self.class_from_annotation(parameter.annotation, function.scope)
        made = Unknown(parameter.arg, annotation=annotation)
        if function.name == "__init__":
            self.given[id(function.self_value), parameter.arg] = made
        if default is not None and annotation is None:
            value = self.evaluate(default, function.scope)
            if isinstance(value, Const):
                if isinstance(value.value, (bool, int, float, str, type(None))):
                    made.default = value.value
                    made.parameter = isinstance(value.value, bool)
                    if made.parameter:
                        self._declare(made, parameter, function)
                    return made if value.value is not None or not parameter.annotation else made
            return value if not isinstance(value, Unknown) else made
        made.parameter = _is_flag(parameter.annotation)
        return made

    def _given_before(self, method: Function, name: str) -> Unknown | None:
        """What the constructor took under this name, if networks are in it: `__init__(self, q)`, `step(self, q)`."""
        known = self.given.get((id(method.self_value), name)) if method.name != "__init__" else None
        if known is None or not any(part.leaf is not None for part in (known, *_unknowns(known.attrs.values()))):
            return None
        return known

    def _declare(self, made: Unknown, parameter: ast.arg, function: Function) -> None:
        """A flag's symbol stands where the function declares it."""
        file, self.file = self.file, function.module.display
        where, self.line_node = self.line_node, parameter
        key = self.symbol(f"u{made.key}", made.name, made.default, True)
        self.file, self.line_node = file, where
        if function.self_value is None and isinstance(function.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            passed = self.callers.passed(function.node, made.name, made.default, function.module.file)
            self.symbols[key].passed = passed

    # -- what is not understood --------------------------------------------------------------------------------------
    def _call_unknown(self, function: Unknown, args: Args, keywords: Keywords, extra: Any) -> Any:
        if self.recognised and function.annotation is None:
            self.recognise(function)
        if function.annotation is not None and function.instance is None:
            self.materialise(function)
        if function.instance is not None:
            return self.call(function.instance, args, keywords, extra)
        return self.call_object(function, args, keywords)

    def call_unknown(self, name: str, args: Args, keywords: Keywords, receiver: list[Node] | None = None) -> Any:
        """Gradient passes from what is computed and given to the result; without any it is a new unknown."""
        self.expose(*args, *keywords.values())
        nodes: dict[Node, None] = dict.fromkeys(receiver or ())
        for value in (*args, *keywords.values()):
            nodes.update(dict.fromkeys(self.nodes_of(value)))
        if any(is_computed(node) for node in nodes):
            return self.node("call", [Edge(node) for node in list(nodes)[:40]], detail=name)
        made = Unknown(name)
        made.call = True
        return made


def _under(guard: Guard, value: Any) -> Any:
    """What one of several values is where the guard holds: the partner that was chosen together with the callee."""
    if not isinstance(value, Union) or not guard:
        return value
    left = [part for part in value.alternatives if join_guards(guard, value.guard_of(part)) is not None]
    if len(left) == 1:
        return left[0]
    return Union(tuple(left), tuple(map(value.guard_of, left))) if left else value


def _unknowns(values: Iterable[Any]) -> Iterator[Unknown]:
    return (value for value in values if isinstance(value, Unknown))


def is_computed(node: Node) -> bool:
    """Not merely an input or a constant."""
    return node.op != "const" and (node.leaf is None or node.leaf.kind in ("param", "arg"))


def carries_gradient(nodes: list[Node]) -> bool:
    """Does gradient get from any of these to a parameter (or to an argument that is one)? A size that was computed
    from settings is no tensor, whatever it is handed to."""
    seen: set[Node] = set()
    waiting = list(nodes)
    while waiting and len(seen) < MOST_LOOKED_AT:
        node = waiting.pop()
        if node.leaf is not None and node.leaf.kind in ("param", "arg"):
            return True
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return len(seen) >= MOST_LOOKED_AT


def most_derived(values: list[Any], machine: Machine) -> list[Any]:
    """Of several classes, or instances of classes, those whose subclass is not among them too."""
    classes = [value for value in values if isinstance(value, ClassValue)]
    if len(classes) < 2:
        return values[:MOST]
    kept = []
    for value in values:
        if isinstance(value, ClassValue) and any(
            other is not value and any(base is value for base in machine.mro(other)) for other in classes
        ):
            continue
        kept.append(value)
    return kept[:MOST]


def unlike(values: list[Any], machine: Machine) -> list[Any]:
    """Of several classes, one of those that differ in their constructors only: whichever it is, it does the same."""
    kept: dict[Any, Any] = {}
    for value in values:
        kept.setdefault(machine.behaviour(value) if isinstance(value, ClassValue) else value, value)
    return list(kept.values())


def is_named_tuple(cls: ClassValue, machine: Machine) -> bool:
    return any(isinstance(base, External) and base.tail in ("NamedTuple",) for base in machine.mro(cls))


def _returns_plain(node: Any) -> bool:
    """A function that says that it returns a number, a text or a truth value."""
    returns = getattr(node, "returns", None)
    return isinstance(returns, ast.Name) and returns.id in ("int", "str", "bool")


def _is_flag(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "bool"


def _qualified(function: Function) -> str:
    return f"{function.owner.name}.{function.name}" if function.owner is not None else function.name


def _constant(self: Any, function: Any, args: Args, keywords: Keywords, extra: Any) -> Any:
    return Unknown("result")


CALLEES: dict[type, Any] = {
    Function: Calls._call_function,
    ClassValue: Calls._call_class,
    Instance: Calls._call_instance,
    Bound: Calls._bound,
    External: Calls._call_external,
    Partial: Calls._partial,
    Gradient: Calls._gradient,
    Union: Calls._call_union,
    Super: Calls._call_super,
    Transformed: Calls._transformed,
    GradMode: Calls._call_grad_mode,
    Unknown: Calls._call_unknown,
    Const: _constant,
    Parameters: _constant,
    OptimizerValue: _constant,
}
