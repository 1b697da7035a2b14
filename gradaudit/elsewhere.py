"""Findings in files that nobody asked about: told at the line of an asked file that leads there.

Who lints one file reads of that file alone, as with any linter. But what its own calls do in a helper may be seen from
this file only. So such a finding stands at the call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from gradaudit.finding import Finding
from gradaudit.tape import Call, Event, Location, Node, Tape

MADE_ANYWAY = frozenset({"phi", "leaf", "const"})
"""What is recorded alike whether gradient is on or off."""


def with_callers(finding: Finding, tape: Tape) -> Finding:
    """The finding with the calls that lead to it, where it is not in the file that the tape was recorded from."""
    if finding.location.path == tape.path:
        return finding
    return replace(finding, callers=tuple(dict.fromkeys(_callers(finding.location, tape))))


def _callers(place: Location, tape: Tape) -> Iterator[Location]:
    """The calls around every operation and event at the place, and around every call that stands there: first those in
    which something is computed with gradient.
    """
    live = {node.call for node in tape.nodes if node.grad_mode and node.op not in MADE_ANYWAY}
    yield from _around(place, [node for node in tape.nodes if node.call in live])
    yield from _around(place, [*tape.nodes, *tape.events])


def _around(place: Location, recorded: Iterable[Node | Event]) -> Iterator[Location]:
    spot = _spot(place)
    innermost: dict[Call | None, bool] = {}
    for made in recorded:
        innermost[made.call] = innermost.get(made.call, False) or _spot(made.location) == spot
    for call, inside in innermost.items():
        for step in _chain(call):
            if inside and step.location.line:
                yield step.location
            inside = inside or _spot(step.location) == spot


def _chain(call: Call | None) -> Iterator[Call]:
    while call is not None:
        yield call
        call = call.parent


def _spot(location: Location) -> tuple[str, int, int]:
    return location.path, location.line, location.column


def told_in(finding: Finding, wanted: Collection[str]) -> Finding | None:
    """The finding at the call in one of these files that leads to it, or at the nearest line of its trace there."""
    place = finding.location
    found = next((caller for caller in finding.callers if caller.path in wanted), None) or _nearest(finding, wanted)
    if found is None or not place.line:
        return None
    return replace(finding, location=found, message=f"{finding.message} (at {place.path}:{place.line})")


def _nearest(finding: Finding, wanted: Collection[str]) -> Location | None:
    lines = [(step.location.path, step.location.line) for step in finding.trace]
    place = finding.location.path, finding.location.line
    middle = lines.index(place) if place in lines else len(lines)
    steps = [(abs(middle - index), index) for index, (path, line) in enumerate(lines) if path in wanted and line]
    return finding.trace[min(steps)[1]].location if steps else None
