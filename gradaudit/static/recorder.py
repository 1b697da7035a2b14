"""The static recorder: a file in, tapes out. User code is read, never imported."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable

from gradaudit.static.callers import Callers
from gradaudit.static.drivers import concerned, drivers
from gradaudit.static.entries import Entries
from gradaudit.static.files import FRAMEWORKS, Files, Module, speaks_of_framework
from gradaudit.static.hints import Hints
from gradaudit.static.interpreter import Interpreter
from gradaudit.tape import Tape

RECURSION_LIMIT = 20_000
MANY_PARTS = 3
IMPORT = re.compile(r"\n(?:from[ \t]+([\w.]+)[ \t]+import[ \t]*(?:\(([^)]*)\)|([^(\n]+))|import[ \t]+([^\n#;]+))")
DIFFERENTIATES = (
    "backward(", "minimize(", "value_and_grad", "GradientTape", "zero_grad", "apply_gradients", "def training_step",
)  # fmt: skip
GRADIENT = re.compile(r"\bgrad\(")


class Recorder:
    """Records files of one run, reading each file of the project once. What one file leads to does not depend on which
    others were recorded before it: each has an interpreter of its own.

    cwd       paths on tapes are relative to it
    overlay   path -> text to use in place of the file's
    """

    def __init__(self, cwd: str, overlay: dict[str, str] | None = None) -> None:
        self.files = Files(cwd, overlay)
        self.hints = Hints(self.files)
        self.callers = Callers(self.files)
        self.problems: list[str] = []
        self._driven: set[str] = set()
        self._expected: frozenset[str] = frozenset()

    def expect(self, paths: Iterable[str]) -> int:
        """The files that are going to be recorded. How much text there is to follow, in characters."""
        files = [self._file(path) for path in paths]
        self.hints.expect(files)
        self._expected = frozenset(files)
        seen: set[frozenset[str]] = set()
        size = 0
        for file in files:
            text = self.files.peek(file) or ""
            if FRAMEWORKS.search(text):
                size += len(text)
                parts = self._driven_parts(file, text)
                if parts in seen:
                    self._driven.add(file)
                elif len(parts) >= MANY_PARTS:
                    seen.add(parts)
        return size

    def _file(self, path: str) -> str:
        return os.path.abspath(os.path.join(self.files.cwd, path))

    def syntax_error(self, path: str) -> tuple[int, int, str] | None:
        """(line, column, message) where a recorded file cannot be parsed."""
        return self.files.syntax_errors.get(self._file(path))

    def record(self, path: str) -> list[Tape]:
        """The tapes of one file. Never raises for what is in the file; what went wrong is in `problems`."""
        file = self._file(path)
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
        self.hints.start()
        text = self.files.text(file)
        if text is None:
            self.problems.append(f"{path}: cannot be read ({self.files.unreadable.get(file, 'unknown reason')})")
            return []
        if not speaks_of_framework(text):
            self.files.check_syntax(file)
            return []
        module = self.files.module(file)
        if module is None:
            return []
        run = Interpreter(self.files, self.hints, self.callers)
        entries = Entries(run, module, script=file not in self._driven)
        tapes = entries.record()
        self.problems += entries.problems
        for driver in drivers(self.files, self.callers, module, self._expected):
            tapes += self._driven_by(driver, module)
        return tapes

    def _driven_by(self, driver: str, module: Module) -> list[Tape]:
        """What another file that is not recorded itself does with this one."""
        other = self.files.module(driver)
        if other is None:
            return []
        run = Interpreter(self.files, self.hints, self.callers)
        return concerned(Entries(run, other).record(), module.display)

    def _driven_parts(self, file: str, text: str) -> frozenset[str]:
        """The project's own parts that a script sets to work which differentiates nothing itself (an example, a
        launcher): it says nothing new after another one that uses the same parts."""
        if any(word in text for word in DIFFERENTIATES) or "grad(" in text and GRADIENT.search(text):
            return frozenset()
        found: set[str] = set()
        for module, many, one, plain in IMPORT.findall("\n" + text):
            if plain:
                names = [name.split(" as ")[0].strip() for name in plain.split(",")]
                found.update(name for name in names if self.files.find(name.split(".")[0], file) is not None)
            elif module.startswith(".") or self.files.find(module, file) is not None:
                words = re.sub(r"#.*", "", many or one).split(",")
                found.update(f"{module}.{word.split()[0]}" for word in words if word.split())
        return frozenset(found)
