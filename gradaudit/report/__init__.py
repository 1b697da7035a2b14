"""What a run found, and the formats it can be told in: one module a format, each with `render(report, paint)`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from gradaudit.finding import SEVERITIES, Finding
from gradaudit.rule import Rule

Paint = Callable[[str, str], str]
"""(text, style) -> text, in colour on a terminal; a style is one of the words in `STYLES`."""

_LINE_ENDS = re.compile("\r\n|\r|\n")

STYLES = {
    "error": "31;1",
    "warning": "33;1",
    "info": "36;1",
    "bold": "1",
    "dim": "2",
    "help": "32",
    "path": "1",
}


def plain(text: str, style: str) -> str:
    return text


def colour(text: str, style: str) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def _no_source(path: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a run. `source` gives the text of a file of the report ("" where there is none)."""

    findings: tuple[Finding, ...] = ()
    problems: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    files: int = 0
    suppressed: int = 0
    source: Callable[[str], str] = _no_source

    def fails(self, threshold: str) -> bool:
        """Whether a finding is at or above `threshold` (a severity or "never")."""
        if threshold == "never":
            return False
        return any(SEVERITIES.index(item.severity) >= SEVERITIES.index(threshold) for item in self.findings)


def line_of(report: Report, path: str, line: int) -> str:
    """The text of a source line without its end, or "" where there is none. Lines end where Python says they do."""
    lines = _LINE_ENDS.split(report.source(path))
    return lines[line - 1].rstrip() if 0 < line <= len(lines) else ""


def render(report: Report, output_format: str, paint: Paint = plain) -> str:
    """The report as text that ends in a newline, or is empty."""
    module = importlib.import_module(f"gradaudit.report.{output_format.replace('-', '_')}")
    text: str = module.render(report, paint)
    return text
