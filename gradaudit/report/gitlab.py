"""`--output-format gitlab`: a GitLab code quality report."""

from __future__ import annotations

import json

from gradaudit.report import Paint, Report
from gradaudit.report.fingerprint import fingerprints

LEVELS = {"error": "major", "warning": "minor", "info": "info"}


def render(report: Report, paint: Paint) -> str:
    rows = [
        {
            "description": f"{finding.code} {finding.message}",
            "check_name": finding.code,
            "fingerprint": fingerprint,
            "severity": LEVELS[finding.severity],
            "location": {
                "path": finding.location.path,
                "lines": {"begin": finding.location.line, "end": finding.location.end_line or finding.location.line},
            },
        }
        for finding, fingerprint in zip(report.findings, fingerprints(report), strict=True)
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
