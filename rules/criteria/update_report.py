"""A finding about an update or an optimizer: it stands beside the losses."""

from __future__ import annotations

from collections.abc import Iterable

from gradaudit.finding import Fix, Step
from gradaudit.paths import Analysis
from gradaudit.rules.criteria.report import Rooted
from gradaudit.tape import Location, Node


def update_finding(
    analysis: Analysis,
    code: str,
    name: str,
    message: str,
    severity: str,
    location: Location,
    *,
    fix: str,
    leaves: Iterable[Node] = (),
    also: Iterable[tuple[Location, str]] = (),
) -> Rooted:
    """`also`: other lines that a reader wants to see, each with what happens on it."""
    trace = tuple(Step(where, what) for where, what in also if where != location)
    framework, roots = analysis.tape.framework, frozenset(leaves)
    return Rooted(code, name, message, severity, location, framework, Fix(fix), trace, roots=roots)
