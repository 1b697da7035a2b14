"""Fixtures of check: every `@gradaudit.case` of a file, its findings held against the comments on its lines.

A case answers for the expectations inside its own function, and for those in helpers that it reaches; a case whose name
begins with `ok_` must have none.
"""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

from expectations import FIXTURES, Expectation, Found, read_expectations

from gradaudit.check import CheckReport, Options, check_case
from gradaudit.dynamic.case import Case
from gradaudit.dynamic.collect import collect_file
from gradaudit.dynamic.target import Target


@cache
def cases(folder: str) -> dict[str, tuple[Target, Case, Path]]:
    """`file::function` -> target, case and file, for all files of a folder below fixtures/."""
    found: dict[str, tuple[Target, Case, Path]] = {}
    for file in sorted((FIXTURES / folder).glob("*.py")):
        if "gradaudit.case" not in file.read_text(encoding="utf-8"):
            continue
        for target, case in collect_file(file):
            name = target.text.rpartition(":")[2]
            found[f"{file.stem}::{name}{'-' + case.name if case.name else ''}"] = (target, case, file)
    return found


def run(target: Target, case: Case) -> CheckReport:
    return check_case(target, case, Options())


def found_in(report: CheckReport) -> list[Found]:
    return [
        Found((Path.cwd() / one.location.path).resolve(), one.location.line, one.code, one.severity)
        for one in report.findings
    ]


def expected_of(target: Target, file: Path, everything: bool) -> list[Expectation]:
    """The expectations inside the function; with `everything`, those outside of all cases (in helpers), too."""
    inside = _span(target)
    others = [_span(other) for other, _, path in cases(file.parent.name).values() if path == file]
    wanted = []
    for one in read_expectations(file):
        mine = inside[0] <= one.line <= inside[1]
        helper = not any(first <= one.line <= last for first, last in others)
        if mine or (everything and helper):
            wanted.append(one)
    return wanted


def _span(target: Target) -> tuple[int, int]:
    function = inspect.unwrap(getattr(target.function, "_torchdynamo_orig_callable", target.function))
    lines, first = inspect.getsourcelines(function)
    return first, first + len(lines) - 1
