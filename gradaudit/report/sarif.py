"""`--output-format sarif`: SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from gradaudit import __version__
from gradaudit.finding import Edit, Finding
from gradaudit.report import Paint, Report
from gradaudit.report.fingerprint import fingerprints
from gradaudit.rule import Rule
from gradaudit.tape import Location

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def render(report: Report, paint: Paint) -> str:
    rules = sorted(report.rules, key=lambda rule: rule.code)
    index = {rule.code: place for place, rule in enumerate(rules)}
    results = [
        _result(finding, fingerprint, index)
        for finding, fingerprint in zip(report.findings, fingerprints(report), strict=True)
    ]
    driver = {"name": "gradaudit", "version": __version__, "rules": [_rule(rule) for rule in rules]}
    run: dict[str, Any] = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    if report.problems:
        notes = [{"level": "note", "message": {"text": problem}} for problem in report.problems]
        run["invocations"] = [{"executionSuccessful": True, "toolExecutionNotifications": notes}]
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "help": {"text": rule.page, "markdown": rule.page},
    }


def _result(finding: Finding, fingerprint: str, index: dict[str, int]) -> dict[str, Any]:
    place: dict[str, Any] = _location(finding.location)
    if finding.location.function:
        place["logicalLocations"] = [{"fullyQualifiedName": finding.location.function, "kind": "function"}]
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": LEVELS[finding.severity],
        "message": {"text": finding.message},
        "locations": [place],
        "partialFingerprints": {"gradaudit/v1": fingerprint},
    }
    if finding.code in index:
        result["ruleIndex"] = index[finding.code]
    if finding.trace:
        steps = [{"location": _location(step.location) | {"message": {"text": step.message}}} for step in finding.trace]
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    if finding.fix is not None and finding.fix.edits:
        result["fixes"] = [
            {"description": {"text": finding.fix.message}, "artifactChanges": _changes(finding.fix.edits)}
        ]
    return result


def _changes(edits: tuple[Edit, ...]) -> list[dict[str, Any]]:
    by_path: dict[str, list[dict[str, Any]]] = {}
    for edit in edits:
        change = {"deletedRegion": _region(edit.location), "insertedContent": {"text": edit.text}}
        by_path.setdefault(edit.location.path, []).append(change)
    return [{"artifactLocation": {"uri": quote(path)}, "replacements": changes} for path, changes in by_path.items()]


def _location(location: Location) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": quote(location.path)}, "region": _region(location)}}


def _region(location: Location) -> dict[str, int]:
    region = {"startLine": location.line, "startColumn": location.column}
    if location.end_line and location.end_column:
        region |= {"endLine": location.end_line, "endColumn": location.end_column}
    return region
