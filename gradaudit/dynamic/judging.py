"""All judgements of a recording: by the stated roles, by the rules; one for one thing, sorted."""

from __future__ import annotations

from dataclasses import replace

from gradaudit import ownership
from gradaudit.dynamic.by_rules import by_rules, roots_of
from gradaudit.dynamic.judge import by_roles
from gradaudit.dynamic.judgement import NAMES, Case, Judgement
from gradaudit.dynamic.recording import Recording
from gradaudit.dynamic.roles import FROZEN, TRAINED

SHAPED = frozenset(("GA105", "GA201", "GA202", "GA203", "GA206", "GA301", "GA302"))
"""Codes that say more of a leak into a frozen group than that it is one."""


def judge(recording: Recording) -> list[Judgement]:
    """Everything that check says of a recording, not yet proved."""
    _own(recording)
    case = Case(recording)
    stated = list(by_roles(case))
    shared = list(by_rules(case))
    merged = [_shaped(judgement, shared) for judgement in stated]
    leaking = case.mask(group for group in case.groups if group.stated and group.role == FROZEN)
    merged += [judgement for judgement in shared if not _said(case, judgement, merged, leaking)]
    return sorted(merged, key=lambda judgement: judgement.finding.sort_key)


def _own(recording: Recording) -> None:
    """What this loss is stepped with: the groups that the user trains, else what the events say."""
    tape = recording.tape
    trained = [node for node, role in tape.roles.items() if role == TRAINED]
    for sink in tape.sinks:
        if trained:
            sink.own = frozenset(trained)
    ownership.own_sets(tape)


def _shaped(judgement: Judgement, shared: list[Judgement]) -> Judgement:
    """A leak into a frozen group under the code of the rule that speaks of the same line."""
    if not judgement.leaks or judgement.freeze:
        return judgement
    where = judgement.finding.location
    for other in shared:
        place = other.finding.location
        if (place.path, place.line) == (where.path, where.line) and other.finding.code in SHAPED:
            code = other.finding.code
            judgement.finding = replace(judgement.finding, code=code, name=NAMES[code])
    return judgement


def _said(case: Case, judgement: Judgement, before: list[Judgement], frozen: int) -> bool:
    """Whether a stated role has spoken of this already: on its line, or of all its leaves."""
    where = judgement.finding.location
    for other in before:
        place = other.finding.location
        if (place.path, place.line) == (where.path, where.line):
            return True
    roots = roots_of(case, judgement.finding)
    return bool(roots) and not roots & ~frozen and any(other.leaks for other in before)
