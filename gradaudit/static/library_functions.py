"""Functions that nobody calls: each is judged by its arguments, which are leaves, and what it returns is the sink."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from typing import Any

from gradaudit.static.calls import is_named_tuple
from gradaudit.static.files import Module
from gradaudit.static.forward import is_distribution
from gradaudit.static.interpreter import Interpreter
from gradaudit.static.syntax import counted_with
from gradaudit.static.values import ClassValue, Function, Mapping, Sequence, Unknown

DEEPEST = 2
"""A struct in a struct in a struct: further in, nothing is told apart."""


class LibraryFunctions:
    run: Interpreter
    module: Module

    def library_function(self, function: Function) -> None:
        """Nobody calls it: it is judged by its arguments, each a leaf; what it returns is the sink."""
        run = self.run
        keywords: dict[str, Any] = {}
        spec = function.node.args
        parameters = [*spec.posonlyargs, *spec.args]
        defaults = [None] * (len(parameters) - len(spec.defaults)) + list(spec.defaults)
        for parameter, default in [
            *list(zip(parameters, defaults, strict=True))[function.self_value is not None :],
            *zip(spec.kwonlyargs, spec.kw_defaults, strict=True),
        ]:
            keywords[parameter.arg] = self._library_argument(parameter, default, function)
        run.line_node = function.node
        result = run.settle(run.call_function(function, [], keywords))
        parts = result.items if isinstance(result, Sequence) and result.items else [result]
        parts = [part for place, part in enumerate(parts) if not (place and isinstance(part, Mapping))]  # no metrics
        self.library_sinks(parts, function.name, function.name, function.node)

    def library_sinks(self, parts: Iterable[Any], name: str, mentioned: str, at: ast.AST) -> None:
        """Every tensor of what is returned is a sink: nobody knows which of them the caller differentiates."""
        run = self.run
        run.line_node = at
        run.file, run.function = self.module.display, name
        for part in list(parts)[:6]:
            for node in run.nodes_of(part)[:4]:
                if node.leaf is None:
                    run.make_sink(node, "library", None)
        uses = functools.cache(functools.partial(run.callers.internal, mentioned, self.module.file))
        for sink in run.sinks:
            sink.uses = uses

    def _library_argument(self, parameter: ast.arg, default: ast.expr | None, function: Function) -> Any:
        run = self.run
        annotation = ast.unparse(parameter.annotation) if parameter.annotation is not None else ""
        no_tensor = any(word in annotation for word in ("Callable", "bool", "str", "int"))
        if default is not None or no_tensor or parameter.arg in counted_with(function.node):
            made = run.entry_argument(parameter, default, function)
            if (
                default is not None
                and isinstance(default, ast.Constant)
                and default.value is None
                and "Array" in annotation
            ):
                return run.leaf("arg", parameter.arg)
            return made
        cls = run.class_from_annotation(parameter.annotation, function.scope)
        if cls is not None and not (isinstance(cls, ClassValue) and is_distribution(run, cls)):
            return self._library_struct(cls, parameter, parameter.arg) or run.entry_argument(
                parameter, default, function
            )
        run.line_node = parameter
        run.file = self.module.display
        return run.leaf("arg", parameter.arg)

    def _library_struct(self, cls: Any, parameter: ast.arg, path: str) -> Any:
        """A struct of arrays (a NamedTuple or dataclass whose fields are annotated): each array is a leaf, and those
        of the structs in it.
        """
        run = self.run
        if not isinstance(cls, ClassValue) or not (is_named_tuple(cls, run) or _is_dataclass(cls)):
            return None
        values: dict[str, Any] = {}
        run.line_node, run.file = parameter, self.module.display
        for name, field, owner in run.fields(cls):
            if any(word in ast.unparse(field.annotation) for word in ("Array", "Tensor", "ndarray")):
                values[name] = run.leaf("arg", f"{path}.{name}")
                continue
            inner = run.class_from_annotation(field.annotation, owner.scope) if path.count(".") < DEEPEST else None
            part = self._library_struct(inner, parameter, f"{path}.{name}") if inner is not None else None
            if part is not None:
                values[name] = part
            elif field.value is None:
                values[name] = Unknown(name)
        return run.call(cls, [], values) if values else None


def _is_dataclass(cls: ClassValue) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in cls.node.decorator_list)
