"""`--output-format concise`: one line a finding."""

from __future__ import annotations

from gradaudit.finding import Finding
from gradaudit.report import Paint, Report


def render(report: Report, paint: Paint) -> str:
    return "".join(headline(finding, paint) + "\n" for finding in report.findings)


def headline(finding: Finding, paint: Paint) -> str:
    """`path:line:column: GA101 [error] message`."""
    where = finding.location
    message = " ".join(finding.message.split())
    place = paint(where.path, "path") + f":{where.line}:{where.column}:"
    return f"{place} {paint(finding.code, finding.severity)} [{finding.severity}] {message}"
