"""`--output-format github`: annotations of a GitHub workflow."""

from __future__ import annotations

from gradaudit.finding import Finding
from gradaudit.report import Paint, Report

LEVELS = {"error": "error", "warning": "warning", "info": "notice"}


def render(report: Report, paint: Paint) -> str:
    return "".join(_line(finding) + "\n" for finding in report.findings)


def _line(finding: Finding) -> str:
    where = finding.location
    properties = {
        "title": f"gradaudit ({finding.code} {finding.name})",
        "file": where.path,
        "line": str(where.line),
        "col": str(where.column),
        "endLine": str(where.end_line or where.line),
    }
    if where.end_line in (0, where.line) and where.end_column > where.column:
        properties["endColumn"] = str(where.end_column)
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    message = f"{where.path}:{where.line}:{where.column}: {finding.code} {finding.message}"
    if finding.fix is not None:
        message += f"\nhelp: {finding.fix.message}"
    return f"::{LEVELS[finding.severity]} {listed}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
