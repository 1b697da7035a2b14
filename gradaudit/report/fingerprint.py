"""A finding's identity that survives edits elsewhere in the file: rule, file, text of its line, and which of equals."""

from __future__ import annotations

import hashlib
from collections import Counter

from gradaudit.report import Report, line_of


def fingerprints(report: Report) -> list[str]:
    """One for each of the report's findings, in order, all different."""
    seen: Counter[str] = Counter()
    result = []
    for finding in report.findings:
        where = finding.location
        text = " ".join(line_of(report, where.path, where.line).split())
        key = "\0".join((finding.code, where.path, where.function, text))
        result.append(hashlib.sha256(f"{key}\0{seen[key]}".encode("utf-8", errors="surrogateescape")).hexdigest()[:32])
        seen[key] += 1
    return result
