"""Rename a program: every identifier that its author chose becomes a neutral one, on the same lines.

Library names, dunder names, framework hooks and attributes that a library object may have stay as they are; strings
and comments stay too. One identifier gets one new name wherever it stands, in all files of the program.

    python tests/rename.py fixtures/ga101/dqn_torch_ok.py      prints the renamed text
"""

from __future__ import annotations

import ast
import builtins
import collections
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HOOKS = """
forward setup call __call__ step reset act update training_step validation_step configure_optimizers train_step
automatic_optimization manual_backward optimizers log save_hyperparameters hparams params apply_fn tx opt_state
apply_gradients create replace init apply n_obs loss_fn make_inputs compute_loss create_optimizer trainable_variables
on_fit_start on_train_start on_train_epoch_start on_train_batch_start on_before_zero_grad on_train_batch_end
on_train_epoch_end optimizer_idx
""".split()
"""Names with a meaning for a framework, or for who runs the program."""

NAMING_CALLS = "getattr setattr hasattr delattr register_buffer register_parameter add_module".split()
"""Calls that name an attribute by a string."""

LIBRARY_OBJECTS = (
    ("torch", "Tensor"),
    ("torch.nn", "Module"),
    ("torch.nn", "ModuleDict"),
    ("torch.nn", "Linear"),
    ("torch.nn", "Embedding"),
    ("torch.optim", "Adam"),
    ("torch.distributions", "Normal"),
    ("torch.distributions", "Categorical"),
    ("torch.autograd", "Function"),
    ("torch.optim.swa_utils", "AveragedModel"),
    ("torch.amp", "GradScaler"),
    ("jax", "Array"),
    ("optax", "GradientTransformation"),
    ("flax.nnx", "Module"),
    ("flax.training.train_state", "TrainState"),
    ("distrax", "Normal"),
)
CONSTRUCTORS = ("replace", "_replace", "create", "partial")
"""Calls whose keywords may be the fields or parameters of something of the user's."""


def library_attributes() -> frozenset[str]:
    """Attributes that an object of a library may have, whichever of the libraries are installed."""
    found = set(HOOKS) | set(dir(builtins))
    for kind in (dict, list, tuple, set, str, bytes, int, float, range, collections.deque, collections.OrderedDict):
        found.update(dir(kind))
    for module, name in LIBRARY_OBJECTS:
        try:
            found.update(dir(getattr(importlib.import_module(module), name)))
        except ImportError:
            continue
    return frozenset(found)


@dataclass(slots=True)
class Names:
    """What the program defines: `variables` (functions and classes too), `attributes`, `fields` and own `modules`."""

    variables: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    classes: dict[str, set[str]] = field(default_factory=dict)
    """The keywords that each class can be made with, as far as its own body tells."""
    files: frozenset[str] = frozenset()
    libraries: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    """What libraries call it, whatever it is called here."""
    modules: set[str] = field(default_factory=set)


class Collector(ast.NodeVisitor):
    """Gathers what one file defines."""

    def __init__(self, names: Names, own_modules: frozenset[str]) -> None:
        self.names, self.own = names, own_modules
        self.scopes: list[str] = ["module"]

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            kind = self.names.modules if alias.name.split(".")[0] in self.own else self.names.libraries
            kind.add(alias.asname or alias.name.split(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if node.level or (node.module or "").split(".")[0] in self.own:
                if alias.name in self.own:
                    self.names.modules.add(alias.asname or alias.name)
                elif alias.asname:
                    self.names.variables.add(alias.asname)
            else:
                self.names.libraries.add(alias.asname or alias.name)
                self.names.imported.add(alias.name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        (self.names.attributes if self.scopes[-1] == "class" else self.names.variables).add(node.name)
        accepted = self.names.classes.setdefault(node.name, set())
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                arguments = statement.args
                accepted.update(arg.arg for arg in [*arguments.args, *arguments.kwonlyargs])
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                accepted.add(statement.target.id)
        self._inside("class", node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        (self.names.attributes if self.scopes[-1] == "class" else self.names.variables).add(node.name)
        self._inside("function", node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._inside("function", node)

    def _inside(self, kind: str, node: ast.AST) -> None:
        self.scopes.append(kind)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_arg(self, node: ast.arg) -> None:
        self.names.variables.add(node.arg)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            if self.scopes[-1] == "class":
                self.names.attributes.add(node.id)
                self.names.fields.add(node.id)
            else:
                self.names.variables.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store):
            self.names.attributes.add(node.attr)
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.names.variables.add(node.name)
        self.generic_visit(node)


def root_of(node: ast.expr) -> str:
    """The name at the left end of a chain of attributes, calls and subscripts."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def only_attributes(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


@dataclass(slots=True)
class Renamer:
    """Decides for every identifier of the program; `mapping` is filled as new names are asked for."""

    names: Names
    kept: frozenset[str]
    mapping: dict[str, str] = field(default_factory=dict)

    def is_variable(self, name: str) -> bool:
        return name in self.names.variables and not name.startswith("__") and name not in (*HOOKS, "self", "cls")

    def is_attribute(self, name: str) -> bool:
        return name in self.names.attributes and name not in self.kept and not name.startswith("__")

    def new(self, name: str) -> str:
        if name not in self.mapping:
            number = len(self.mapping) + 1
            bare = name.lstrip("_")
            letter = "K" if name in self.names.classes else "X" if bare.isupper() and len(bare) > 1 else "x"
            self.mapping[name] = "_" * (len(name) - len(bare)) + f"{letter}{number}"
        return self.mapping[name]

    def own_attribute(self, node: ast.Attribute) -> bool:
        if only_attributes(node.value):
            root = root_of(node.value)
            if root in self.names.libraries and root not in self.names.variables:
                return False
            if root in self.names.modules:
                return self.is_variable(node.attr)
        return self.is_attribute(node.attr)

    def keyword_is_own(self, call: ast.Call, name: str) -> bool:
        """Whether a keyword names a parameter or field that the user defined."""
        function = call.func
        if isinstance(function, ast.Attribute):
            if function.attr in CONSTRUCTORS:
                return self.is_attribute(name) if function.attr != "partial" else self.is_variable(name)
            if not (
                self.own_attribute(function) or function.attr in ("update", "step", "act", "create", "compute_loss")
            ):
                return function.attr in self.names.attributes and self.is_variable(name)
            return self.is_variable(name)
        if isinstance(function, ast.Name):
            if function.id in CONSTRUCTORS:
                return self.is_attribute(name) or (function.id == "partial" and self.is_variable(name))
            if function.id in self.names.libraries and function.id not in self.names.variables:
                return False
            if function.id == "dict":
                return False
            if function.id in self.names.classes:
                if self.names.classes[function.id] and name not in self.names.classes[function.id]:
                    return False
                return self.is_attribute(name) if name in self.names.fields else self.is_variable(name)
            return self.is_variable(name)
        return False

    def edits(self, tree: ast.Module, lines: list[str]) -> Iterator[tuple[int, int, str]]:
        """(line, byte column, name) of every place to rewrite."""
        in_class: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                in_class.update(node.body)
                in_class.update(
                    target
                    for statement in node.body
                    for target in ast.walk(statement)
                    if isinstance(target, ast.Name)
                    and isinstance(statement, ast.Assign | ast.AnnAssign)
                    and isinstance(target.ctx, ast.Store)
                )
        for node in ast.walk(tree):
            match node:
                case ast.Name():
                    own = self.is_attribute(node.id) if node in in_class else self.is_variable(node.id)
                    if own:
                        yield node.lineno, node.col_offset, node.id
                case ast.Attribute() if self.own_attribute(node):
                    yield node.end_lineno or 0, (node.end_col_offset or 0) - len(node.attr.encode()), node.attr
                case ast.arg() if self.is_variable(node.arg):
                    yield node.lineno, node.col_offset, node.arg
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    own = self.is_attribute(node.name) if node in in_class else self.is_variable(node.name)
                    if own:
                        match_ = re.compile(rb"(?:def|class)\s+").search(
                            lines[node.lineno - 1].encode(), node.col_offset
                        )
                        assert match_ is not None
                        yield node.lineno, match_.end(), node.name
                case ast.Call():
                    for keyword in node.keywords:
                        if keyword.arg and self.keyword_is_own(node, keyword.arg):
                            yield keyword.lineno, keyword.col_offset, keyword.arg
                    yield from self._named_by_string(node)
                case ast.alias() if self.is_variable(node.name) and node.name not in self._not_ours():
                    yield node.lineno, node.col_offset, node.name
                    if node.asname and self.is_variable(node.asname):
                        yield node.lineno, (node.end_col_offset or 0) - len(node.asname), node.asname
                case ast.alias() if node.asname and self.is_variable(node.asname):
                    yield node.lineno, (node.end_col_offset or 0) - len(node.asname), node.asname
                case ast.ExceptHandler() if node.name:
                    column = lines[node.lineno - 1].encode().rindex(node.name.encode())
                    yield node.lineno, column, node.name
                case ast.Global() | ast.Nonlocal():
                    for name in node.names:
                        found = re.search(rf"\b{name}\b", lines[node.lineno - 1])
                        if found and self.is_variable(name):
                            yield node.lineno, found.start(), name

    def _named_by_string(self, call: ast.Call) -> Iterator[tuple[int, int, str]]:
        for keyword in call.keywords:
            if keyword.arg in ("static_argnames", "donate_argnames"):
                for name in ast.walk(keyword.value):
                    if isinstance(name, ast.Constant) and self.is_variable(str(name.value)):
                        yield name.lineno, name.col_offset + 1, str(name.value)
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if called in NAMING_CALLS:
            for argument in call.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    if self.is_attribute(argument.value):
                        yield argument.lineno, argument.col_offset + 1, argument.value

    def _not_ours(self) -> set[str]:
        return self.names.libraries | self.names.imported | self.names.files

    def strings(self, tree: ast.Module) -> Iterator[tuple[int, int, int, int]]:
        """Spans in which names stand inside of a string: f-strings and `__all__`."""
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0

    def rewrite(self, text: str) -> str:
        tree = ast.parse(text)
        lines = text.split("\n")
        spans = list(self.strings(tree))
        chosen: dict[tuple[int, int], str] = {}
        for line, column, name in self.edits(tree, lines):
            if not any((a, b) <= (line, column) < (c, d) for a, b, c, d in spans):
                chosen[line, column] = name
        for (line, column), name in sorted(chosen.items(), reverse=True):
            raw = lines[line - 1].encode()
            assert raw[column : column + len(name.encode())] == name.encode(), (lines[line - 1], name)
            lines[line - 1] = (raw[:column] + self.new(name).encode() + raw[column + len(name.encode()) :]).decode()
        return "\n".join(self._format_strings(self._exports(line)) for line in lines)

    def _format_strings(self, line: str) -> str:
        """The expressions of f-strings: their positions are not in the tree before Python 3.12."""

        def expression(match: re.Match[str]) -> str:
            inside = re.sub(
                r"(?<![\w.])([A-Za-z_]\w*)",
                lambda name: self.new(name[1]) if self.is_variable(name[1]) else name[1],
                match[1],
            )
            return "{" + inside + match[2] + "}"

        def literal(match: re.Match[str]) -> str:
            return re.sub(r"\{([^{}:!]+)([^{}]*)\}", expression, match[0])

        return re.sub(r"""\bf"[^"\n]*"|\bf'[^'\n]*'""", literal, line)

    def _exports(self, line: str) -> str:
        if not line.startswith("__all__"):
            return line
        return re.sub(r'"(\w+)"', lambda m: f'"{self.new(m[1]) if self.is_variable(m[1]) else m[1]}"', line)


def rename(files: Mapping[Path, str]) -> dict[Path, str]:
    """The renamed text of every file of one program."""
    own = frozenset(path.stem for path in files) | frozenset(path.parent.name for path in files)
    names = Names(files=own if len(files) > 1 else frozenset())
    for text in files.values():
        Collector(names, names.files).visit(ast.parse(text))
    names.libraries -= names.modules
    renamer = Renamer(names, library_attributes())
    return {path: renamer.rewrite(text) for path, text in files.items()}


def rename_paths(paths: Iterable[Path]) -> dict[Path, str]:
    return rename({path: path.read_text(encoding="utf-8") for path in paths})


if __name__ == "__main__":
    for renamed in rename_paths([Path(argument) for argument in sys.argv[1:]]).values():
        print(renamed)
