"""Who speaks: of what several rules say about one thing, what the user hears."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradaudit.finding import SEVERITIES, Finding, Step
from gradaudit.rule import Rule

BESIDE = ("GA403", "GA5", "GA6", "GA9")
"""Rules that speak of something else than the leak on their line: no other rule silences them, nor they another."""


def who_speaks(found: Iterable[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """One finding for one thing: equal ones once, and on one line only the rule of lowest rank speaks."""
    rank = {rule.code: rule.rank for rule in rules}
    unique: dict[tuple[object, ...], Finding] = {}
    for finding in sorted(_one_each(found), key=lambda finding: finding.sort_key):
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


def _one_each(found: Iterable[Finding]) -> list[Finding]:
    """Of findings that tell of the same way those of one entry, the one with the fewest of them: the way was recorded
    more than once (from a class, and from a script that uses it), and what may stop it was not the same each time.
    """
    ways: dict[object, dict[str, list[Finding]]] = {}
    for finding in found:
        steps = map(_line, finding.trace)
        way = (finding.code, finding.message, *steps) if len(finding.trace) > 1 else id(finding)
        ways.setdefault(way, {}).setdefault(finding.entry, []).append(finding)
    return [finding for entries in ways.values() for finding in min(entries.values(), key=_places)]


def _places(findings: list[Finding]) -> tuple[int, int, int]:
    """The gravest first: how grave, at how many lines, and how many of these are beside the way that is told."""
    beside = [one for one in findings if _line(one) not in map(_line, one.trace)]
    grave = max(SEVERITIES.index(one.severity) for one in findings)
    return -grave, len(set(map(_line, findings))), len(set(map(_line, beside)))


def _line(one: Finding | Step) -> tuple[str, int]:
    return one.location.path, one.location.line


def _weight(finding: Finding) -> tuple[int, int]:
    """Of equal findings the shortest one is told, and of equally short ones the gravest."""
    return len(finding.trace), -SEVERITIES.index(finding.severity)
