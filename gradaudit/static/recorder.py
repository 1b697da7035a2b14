"""The static recorder: a file in, tapes out. User code is read, never imported."""

from __future__ import annotations

import ast
import os
import re
import sys

from gradaudit.static.entries import Entries
from gradaudit.static.files import FRAMEWORKS, Files, Module
from gradaudit.static.interpreter import Interpreter
from gradaudit.tape import Tape

RECURSION_LIMIT = 20_000
MANY_PARTS = 3
DIFFERENTIATES = re.compile(
    r"backward\(|minimize\(|\bgrad\(|value_and_grad|GradientTape|zero_grad|apply_gradients|\bdef training_step"
)


class Recorder:
    """Records files of one run, reading each file of the project once.

    cwd       paths on tapes are relative to it
    overlay   path -> text to use in place of the file's
    """

    def __init__(self, cwd: str, overlay: dict[str, str] | None = None) -> None:
        self.files = Files(cwd, overlay)
        self.run = Interpreter(self.files)
        self.problems: list[str] = []
        self._driven: set[frozenset[str]] = set()

    def syntax_error(self, path: str) -> tuple[int, int, str] | None:
        """(line, column, message) where a recorded file cannot be parsed."""
        return self.files.syntax_errors.get(os.path.abspath(os.path.join(self.files.cwd, path)))

    def record(self, path: str) -> list[Tape]:
        """The tapes of one file. Never raises for what is in the file; what went wrong is in `problems`."""
        file = os.path.abspath(os.path.join(self.files.cwd, path))
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
        text = self.files.text(file)
        if text is None:
            self.problems.append(f"{path}: cannot be read ({self.files.unreadable.get(file, 'unknown reason')})")
            return []
        if not FRAMEWORKS.search(text):
            self.files.check_syntax(file)
            return []
        module = self.files.module(file)
        if module is None:
            return []
        entries = Entries(self.run, module, script=not self._driven_already(module, text))
        tapes = entries.record()
        self.problems += entries.problems
        return tapes

    def _driven_already(self, module: Module, text: str) -> bool:
        """A script that only sets the project's own parts to work (an example, a launcher: it differentiates nothing
        itself) says nothing new after another one that uses the same parts."""
        if DIFFERENTIATES.search(text):
            return False
        parts = frozenset(
            f"{getattr(statement, 'module', '')}.{alias.name}"
            for bound in module.bound.values()
            for statement, alias in bound
            if alias is not None and self._in_project(statement, alias, module)
        )
        if len(parts) < MANY_PARTS:
            return False
        known = parts in self._driven
        self._driven.add(parts)
        return known

    def _in_project(self, statement: ast.stmt, alias: ast.alias, module: Module) -> bool:
        if isinstance(statement, ast.ImportFrom):
            return bool(statement.level) or self.files.find(statement.module or "", module.file) is not None
        return self.files.find(alias.name.split(".")[0], module.file) is not None
