"""`--output-format json-lines`: one finding a line."""

from __future__ import annotations

import json

from gradaudit.report import Paint, Report
from gradaudit.report.json import as_dict


def render(report: Report, paint: Paint) -> str:
    return "".join(json.dumps(as_dict(finding), ensure_ascii=False) + "\n" for finding in report.findings)
