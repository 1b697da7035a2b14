"""`--output-format json`: one array of findings."""

from __future__ import annotations

import json
from typing import Any

from gradaudit.finding import Finding, Fix
from gradaudit.report import Paint, Report
from gradaudit.tape import Location


def render(report: Report, paint: Paint) -> str:
    return json.dumps([as_dict(finding) for finding in report.findings], indent=2, ensure_ascii=False) + "\n"


def as_dict(finding: Finding) -> dict[str, Any]:
    """The finding as the json contract has it."""
    location = finding.location
    return {
        "code": finding.code,
        "name": finding.name,
        "message": finding.message,
        "severity": finding.severity,
        "path": location.path,
        "line": location.line,
        "column": location.column,
        "end_line": location.end_line or location.line,
        "end_column": location.end_column or location.column,
        "function": location.function,
        "framework": finding.framework,
        "fix": _fix(finding.fix),
        "trace": [_place(step.location) | {"message": step.message} for step in finding.trace],
    }


def _fix(fix: Fix | None) -> dict[str, Any] | None:
    if fix is None:
        return None
    edits = [
        _place(edit.location)
        | {"end_line": edit.location.end_line, "end_column": edit.location.end_column, "text": edit.text}
        for edit in fix.edits
    ]
    return {"message": fix.message, "applicability": fix.applicability, "edits": edits}


def _place(location: Location) -> dict[str, Any]:
    return {"path": location.path, "line": location.line, "column": location.column}
