"""A stand-in for the analysis, so that the shell can be tested by itself: comments in the text say what it finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from gradaudit import catalog, lint
from gradaudit.cli import main
from gradaudit.finding import Finding, Fix, Step
from gradaudit.rule import Rule
from gradaudit.tape import Location

KINDS = {
    "GA101": ("bootstrap-target", "error"),
    "GA102": ("target-network", "warning"),
    "GA104": ("unsafe-default", "info"),
    "GA204": ("foreign-gradient", "warning"),
    "GA403": ("discarded-stop", "warning"),
}


class Tape(NamedTuple):
    path: str
    line: int
    text: str


class Recorder:
    def __init__(self, cwd: Path, overlay: dict[str, str] | None) -> None:
        self.problems: list[str] = []
        self.syntax_errors: dict[str, tuple[int, int, str]] = {}
        self.overlay = overlay or {}

    def expect(self, paths: list[str]) -> int:
        return 0

    def syntax_error(self, path: str) -> tuple[int, int, str] | None:
        return self.syntax_errors.get(path)

    def record(self, path: str) -> list[Any]:
        text = self.overlay[path] if path in self.overlay else Path(path).read_text()
        if "CRASH" in text:
            raise ZeroDivisionError("on purpose")
        if "UNREADABLE" in text:
            self.problems.append(f"{path}: not UTF-8")
            return []
        try:
            compile(text, path, "exec")
        except SyntaxError as error:
            self.syntax_errors[path] = (error.lineno or 1, error.offset or 1, error.msg)
        return [Tape(path, line, text) for line, text in enumerate(text.splitlines(), 1)]


def judge(tape: Tape, rules: list[Rule], failed: object) -> list[Finding]:
    path, line, text = tape
    found = []
    for code in re.findall(r"=> (GA\d+)", text):
        name, severity = KINDS[code]
        where = Location(path, line, 1, line, len(text.split("#")[0].rstrip()) + 1, "step")
        trace = (Step(where, "the loss"), Step(Location(path, 1), "the network's parameters"))
        message = f"the target's gradient reaches `q`, 100% of it, at {code}"
        found.append(Finding(code, name, message, severity, where, "torch", Fix("stop it: `target.detach()`"), trace))
    return [finding for finding in found if any(rule.code == finding.code for rule in rules)]


class Shell:
    """A folder with files in it, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str = "x = 1\n") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        return path

    def run(self, *arguments: str) -> Result:
        import click

        @click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
        @click.argument("words", nargs=-1, type=click.UNPROCESSED)
        def everything(words: tuple[str, ...]) -> None:
            main(words)

        return CliRunner().invoke(everything, list(arguments))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in an empty folder, with the stand-in for recorder and rules."""
    known = [catalog.Entry(code, name, "") for code, (name, _) in KINDS.items()]
    known += [catalog.Entry("GA900", "syntax-error", ""), catalog.Entry("GA901", "unused-suppression", "")]

    def load(entry: catalog.Entry) -> Rule:
        return Rule(entry.code, entry.name, f"Summary of {entry.code}", f"Page of {entry.code}", lambda _: iter(()))

    monkeypatch.setattr(catalog, "entries", lambda: known)
    monkeypatch.setattr(catalog.Entry, "load", load)
    monkeypatch.setattr(lint, "make_recorder", Recorder)
    monkeypatch.setattr(lint, "_judge", judge)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)
