"""What gradaudit says of the fixtures, asked while the documentation is built.

The programs are shown without the comments that tell the tests what to expect of them.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gradaudit.config import Config
from gradaudit.finding import Finding
from gradaudit.lint import lint_paths
from gradaudit.report import Report, plain, text

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
EXPECT = re.compile(r"\s*# expect(?P<missing>-missing)?: (?P<codes>GA\d{3}(?:\|GA\d{3})*)(?P<rest>.*)$")
MARKERS = re.compile(r"^# (?:raises: |lint-only\b).*\n?", re.MULTILINE)
FRAMEWORKS = (
    ("JAX", re.compile(r"^\s*(?:import|from) (?:jax|flax|haiku|optax|equinox|rlax)\b", re.MULTILINE)),
    ("TensorFlow", re.compile(r"^\s*(?:import|from) tensorflow\b", re.MULTILINE)),
    ("PyTorch", re.compile(r"^\s*(?:import|from) (?:torch|lightning)\b", re.MULTILINE)),
)


@dataclass(frozen=True)
class Program:
    """One fixture: `path` is where it is shown to stand (`ga101/dqn_torch_leak.py`)."""

    path: str
    source: str
    limits: tuple[tuple[int, str, str], ...]
    """Lines where a rule is known to say nothing: (line, codes, reason)."""

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py")

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]

    @cached_property
    def text(self) -> str:
        """The program as a reader sees it."""
        lines = [EXPECT.sub("", line).rstrip() for line in self.source.splitlines()]
        return MARKERS.sub("", "\n".join(lines).strip() + "\n")

    @property
    def expected(self) -> frozenset[str]:
        """The codes that it is an example of."""
        found = [EXPECT.search(line) for line in self.source.splitlines()]
        return frozenset(code for one in found if one and not one["missing"] for code in one["codes"].split("|"))

    @property
    def framework(self) -> str:
        return next((name for name, mark in FRAMEWORKS if mark.search(self.source)), "")

    @property
    def summary(self) -> str:
        found = re.match(r'(?:#.*\n)*"""(.+?)(?:"""|\n\n|\Z)', self.source, re.DOTALL)
        return " ".join(found[1].split()).rstrip(".") + "." if found else ""


class Programs:
    """All fixtures that are single files, and one lint of them."""

    def __init__(self) -> None:
        self.all = {one.path: one for one in _read()}
        self._reports: dict[str, Report] = {}

    def report(self, program: Program) -> Report:
        if program.path not in self._reports:
            self._reports[program.path] = _lint(program)
        return self._reports[program.path]

    def findings(self, program: Program) -> tuple[Finding, ...]:
        return self.report(program).findings

    def matching(self, patterns: list[str]) -> list[Program]:
        """Those whose names match one of the globs, in order."""
        return [one for one in self.all.values() if any(Path(one.name).match(pattern) for pattern in patterns)]

    def is_right(self, program: Program) -> bool:
        return not program.expected and not program.limits

    def output(self, program: Program) -> str:
        """What `gradaudit lint` prints about a program."""
        return text.render(self.report(program), plain).rpartition("\n\n")[0].rstrip() + "\n"

    def nearest_right(self, program: Program) -> Program | None:
        """The correct program that has most lines in common with a wrong one."""
        system = program.stem.split("_")[0]
        rivals = [one for one in self.all.values() if self.is_right(one) and one.framework == program.framework]
        same = [one for one in rivals if one.stem.split("_")[0] == system]
        nearest = max(same, key=lambda one: likeness(one, program), default=None)
        return nearest if nearest is not None and likeness(nearest, program) > 0.6 else None


def changes(before: Program, after: Program) -> str:
    """A unified diff from the correct program to the wrong one, without its head."""
    lines = difflib.unified_diff(before.text.splitlines(), after.text.splitlines(), lineterm="", n=3)
    return "\n".join(list(lines)[2:])


def likeness(one: Program, other: Program) -> float:
    return difflib.SequenceMatcher(None, one.text.splitlines(), other.text.splitlines(), autojunk=False).ratio()


def run(*words: str) -> str:
    """What a command of gradaudit prints, at the root of the repository."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gradaudit", *words], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"gradaudit {' '.join(words)}: {done.stderr}")
    return done.stdout


def _read() -> Iterator[Program]:
    for file in sorted(FIXTURES.glob("*/*.py")):
        if file.parent.name.startswith("check_"):
            continue
        source = file.read_text(encoding="utf-8")
        limits = tuple(
            (number, found["codes"], found["rest"].strip())
            for number, line in enumerate(source.splitlines(), start=1)
            if (found := EXPECT.search(line)) and found["missing"]
        )
        yield Program(file.relative_to(FIXTURES).as_posix(), source, limits)


def _lint(program: Program) -> Report:
    """Lint one program as it is shown, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("pyproject.toml").touch()
        Path(program.path).parent.mkdir()
        Path(program.path).write_text(program.text, encoding="utf-8")
        report = lint_paths([Path(program.path)], Config())
    return replace(report, source={program.path: program.text}.get)
