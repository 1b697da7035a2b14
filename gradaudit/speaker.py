"""Who speaks: of what several rules say about one thing, what the user hears."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradaudit.finding import SEVERITIES, Finding
from gradaudit.rule import Rule

BESIDE = ("GA403", "GA5", "GA6", "GA9")
"""Rules that speak of something else than the leak on their line: no other rule silences them, nor they another."""


def who_speaks(found: Iterable[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """One finding for one thing: equal ones once, and on one line only the rule of lowest rank speaks."""
    rank = {rule.code: rule.rank for rule in rules}
    unique: dict[tuple[object, ...], Finding] = {}
    for finding in sorted(found, key=lambda finding: finding.sort_key):
        where = finding.location
        key = (where.path, finding.code, where.line, where.column)
        if key not in unique or _weight(finding) < _weight(unique[key]):
            unique[key] = finding
    speaker: dict[tuple[str, int], str] = {}
    for finding in unique.values():
        if not finding.code.startswith(BESIDE):
            line = (finding.location.path, finding.location.line)
            speaker[line] = min(
                speaker.get(line, finding.code), finding.code, key=lambda code: (rank.get(code, 0), code)
            )
    return [
        finding
        for finding in unique.values()
        if finding.code.startswith(BESIDE) or speaker[finding.location.path, finding.location.line] == finding.code
    ]


def _weight(finding: Finding) -> tuple[int, int]:
    """Of equal findings the shortest one is told, and of equally short ones the gravest."""
    return len(finding.trace), -SEVERITIES.index(finding.severity)
