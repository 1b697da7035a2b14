"""The static recorder: a file in, tapes out. User code is read, never imported."""

from __future__ import annotations

import ast
import os
import sys

from gradaudit.static.entries import Entries
from gradaudit.static.files import FRAMEWORKS, Files
from gradaudit.static.interpreter import Interpreter
from gradaudit.tape import Tape

RECURSION_LIMIT = 20_000


class Recorder:
    """Records files of one run, reading each file of the project once.

    cwd       paths on tapes are relative to it
    overlay   path -> text to use in place of the file's
    """

    def __init__(self, cwd: str, overlay: dict[str, str] | None = None) -> None:
        self.files = Files(cwd, overlay)
        self.run = Interpreter(self.files)
        self.problems: list[str] = []
        self.loaded: dict[str, set[str]] = {}

    @property
    def syntax_errors(self) -> dict[str, tuple[int, int, str]]:
        return {self.files.display(file): error for file, error in self.files.syntax_errors.items()}

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
        self.files.read_log = {file}
        entries = Entries(self.run, module)
        tapes = entries.record()
        self.problems += entries.problems
        self.loaded[path] = {self.files.display(name) for name in self.files.read_log}
        return tapes


__all__ = ["Recorder", "ast"]
