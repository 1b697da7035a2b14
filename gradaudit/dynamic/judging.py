"""All judgements of a recording: by the stated roles, by the rules; one for one thing, sorted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from gradaudit.dynamic import environment
from gradaudit.dynamic.aliases import aliases
from gradaudit.dynamic.arguments import name_arguments
from gradaudit.dynamic.beside import held_copies, place_optimizers
from gradaudit.dynamic.broadcast import broadcasts
from gradaudit.dynamic.by_rules import STARVING, by_rules, learns_elsewhere, reached_past, roots_of, whole_update
from gradaudit.dynamic.from_text import Told, from_text
from gradaudit.dynamic.judge import by_names, by_roles, predicting, verb
from gradaudit.dynamic.judgement import NAMES, Case, Judgement, finding, names, trace
from gradaudit.dynamic.owner import own
from gradaudit.dynamic.placing import outside
from gradaudit.dynamic.recording import NONE, Group, Recording
from gradaudit.dynamic.roles import FROZEN
from gradaudit.dynamic.shapes import raw_inputs
from gradaudit.dynamic.starved import starved
from gradaudit.dynamic.undifferentiated import guessed
from gradaudit.dynamic.unowned import unowned
from gradaudit.errors import CheckError
from gradaudit.rules.criteria.discrepancy import meetings_at

SHAPED = frozenset(("GA105", "GA201", "GA202", "GA203", "GA206"))
"""Codes that say more of a leak into a frozen group than that it is one."""

TARGETS = {"GA101": "GA102"}
"""A bootstrap target that leaks into a frozen network is told as what the user stated: a target network."""

NOTHING = (
    "the loss depends on no parameter in reach, so there is nothing to audit: name the function that calls the "
    "networks, and pass them as arguments, keep them at module level or on the object whose method it is"
)


def judge(recording: Recording, trained: Collection[str] = (), told: Sequence[Told] = ()) -> list[Judgement]:
    """Everything that check says of a recording, not yet proved. `trained`: groups that another loss of it trains;
    `told`: what lint says of the text."""
    name_arguments(recording.tape)
    environment.mark(recording.tape)
    own(recording)
    case = Case(recording)
    place_optimizers(case)
    stated = list(by_roles(case))
    nothing = [] if stated else list(_untrained(case))
    shared = [one for one in by_rules(case) if not nothing or one.finding.code not in STARVING]
    sided = any(one.finding.code == "GA303" for one in shared)  # it says which side nothing trains
    stated += nothing or ([] if sided else _left_out(case, trained))
    merged = [_shaped(judgement, shared) for judgement in stated]
    leaking = case.mask(group for group in case.groups if group.stated and group.role == FROZEN)
    merged += [judgement for judgement in shared if not _said(case, judgement, merged, leaking)]
    merged += [judgement for judgement in by_names(case) if not _known(case, judgement, merged)]
    merged += [judgement for judgement in unowned(case) if not _known(case, judgement, merged)]
    merged += [judgement for judgement in from_text(case, told) if not _known(case, judgement, merged)]
    merged = _uncured(case, merged)
    for one in merged:
        one.finding = replace(one.finding, location=outside(case, one))
    merged += guessed(recording)
    merged += aliases(case)
    held = {one.finding.location for one in merged if one.finding.code == "GA501"}
    merged += [one for one in held_copies(case) if one.finding.location not in held]
    merged += _carried(case, {(one.finding.location.path, one.finding.location.line) for one in merged})
    lines = {(one.finding.location.path, one.finding.location.line) for one in merged if one.finding.code == "GA603"}
    merged += [one for one in broadcasts(case) if (one.finding.location.path, one.finding.location.line) not in lines]
    return sorted(merged, key=lambda judgement: judgement.finding.sort_key)


def _untrained(case: Case) -> Iterator[Judgement]:
    """A loss that trains nothing at all, whatever the roles: what cut it off from the groups it is made of."""
    live = case.view.live(case.view.sink.loss)
    asked = [group for group in case.groups if group.differentiated]
    if any(group.state != NONE for group in asked) or live & case.mask(asked) or (live and not asked):
        return
    if asked and learns_elsewhere(case) and _fits_others(case):
        case.recording.notes.append(
            f"gradient is taken for the first argument and does not reach {names([one.name for one in asked])}; "
            "name what this loss trains by --argnums or --trained"
        )
        return
    depends = case.analysis.dep(case.view.sink.loss)
    used = [group for group in case.groups if case.mask([group]) & depends or case.recording.escapes_of(group)]
    if case.recording.tape.framework == "jax":  # asked for by name
        used = [group for group in used if group.differentiated] or asked
    used = used or _handed_in(case)
    if not used:
        raise CheckError(NOTHING)
    held = {leaf for one in case.recording.tape.optimizers for leaf in one.leaves}
    yield from starved(case, [group for group in used if not held.isdisjoint(group.leaves)] or used)


def _fits_others(case: Case) -> bool:
    """Whether a comparison in the loss is made with what is not differentiated: that may be what it is to train."""
    others = case.mask(group for group in case.groups if not group.differentiated)
    meetings = (meeting for node in case.analysis.graph.nodes for meeting in meetings_at(case.analysis, node))
    return any(case.analysis.dep(side.source) & others for meeting in meetings for side in meeting.sides)


def _handed_in(case: Case) -> list[Group]:
    """Groups that the loss takes as arguments, as jax's are, and does not use: it was to train them."""
    handed = case.recording.call.arguments()
    return [one for one in case.groups if one.trainable and not one.role and re.split(r"[.\[]", one.name)[0] in handed]


def _left_out(case: Case, trained: Collection[str]) -> Iterator[Judgement]:
    """In a whole update: groups that are stepped after this loss, that it is made of, and that no loss trains."""
    stepped, depends = case.view.own, case.analysis.dep(case.view.sink.loss)
    if stepped is None or not whole_update(case):
        return
    groups = [group for group in case.groups if group.state == NONE and not group.stated and group.name not in trained]
    groups = [group for group in groups if group.trainable]
    groups = [group for group in groups if case.mask([group]) & stepped & depends]
    if groups:
        used = predicting(case)
        yield from starved(case, [group for group in groups if used.intersection(group.leaves)])


def _carried(case: Case, said: Collection[tuple[str, int]]) -> Iterator[Judgement]:
    """Values kept from an earlier run whose graph gradient goes on through."""
    for node, name in case.recording.carried:
        where = node.location
        leaves = case.view.live(node)
        if not leaves or not case.view.reaches(node) or not where.line or (where.path, where.line) in said:
            continue
        message = f"`{name}` is kept from before this loss and brings its graph along: gradient goes on into the past"
        advice = f"keep `{name}` without its graph: `.detach()` where it is stored"
        found = finding(case, "GA206", "error", message, where, fix=advice, trace=trace(case, node, leaves))
        yield Judgement(found, nodes=(node,))


def _shaped(judgement: Judgement, shared: list[Judgement]) -> Judgement:
    """A leak into frozen groups as the rule tells it that speaks of the same line, or of the very same leak.

    A rule knows what a value is for: of a leak into the same groups that another function hands on, or whose code says
    more, its place is the better one.
    """
    if not judgement.leaks:
        return judgement
    if judgement.freeze:
        return next((one for other in shared if (one := _stopped(judgement, other)) is not None), judgement)
    where = judgement.finding.location
    for other in shared:
        place, code = other.finding.location, other.finding.code
        if (place.path, place.line) == (where.path, where.line):
            if code in TARGETS or (code in SHAPED and not any(raw_inputs(node) for node in judgement.nodes)):
                return _under(judgement, TARGETS.get(code, code))
        elif other.cut is not None and set(other.leaks) == set(judgement.leaks):
            if code in SHAPED or (code in TARGETS and _elsewhere(judgement, other)):
                judgement.cut, judgement.nodes = other.cut, other.nodes
                judgement.finding = replace(judgement.finding, location=place, trace=other.finding.trace)
                return _under(judgement, TARGETS.get(code, code))
    return judgement


def _stopped(judgement: Judgement, other: Judgement) -> Judgement | None:
    """What seems to flow through a frozen network all the way, and a rule knows for a weight: that is to be stopped."""
    if other.finding.code not in SHAPED or other.cut is None or not set(judgement.leaks) <= set(other.leaks):
        return None
    message = f"{names(judgement.leaks)}, stated as frozen, {verb(judgement.leaks)} gradient from the loss"
    return replace(other, finding=replace(other.finding, message=message, severity="error"), leaks=judgement.leaks)


def _under(judgement: Judgement, code: str) -> Judgement:
    judgement.finding = replace(judgement.finding, code=code, name=NAMES[code])
    return judgement


def _elsewhere(judgement: Judgement, other: Judgement) -> bool:
    """Whether the two stand in different functions."""
    return {node.call for node in judgement.nodes} != {node.call for node in other.nodes}


def _uncured(case: Case, judgements: list[Judgement]) -> list[Judgement]:
    """Without those that the stops of the others cure: what only flows into a leak is none of its own."""
    kept = list(judgements)
    for one in sorted(judgements, key=lambda one: min((node.time for node in one.nodes), default=0)):
        if one.cut is None or one.freeze or not one.nodes:
            continue
        others = [other.cut for other in kept if other is not one and other.cut and _stops_as_much(case, one, other)]
        if others and not reached_past(case, others) & set(one.nodes):
            kept = [other for other in kept if other is not one]
    return kept


def _stops_as_much(case: Case, one: Judgement, other: Judgement) -> bool:
    """Whether the other is a leak too, of at least the same leaves."""
    if other.freeze or other.finding.severity == "info":
        return False
    return not roots_of(case, one.finding) & ~roots_of(case, other.finding)


def _known(case: Case, judgement: Judgement, before: list[Judgement]) -> bool:
    """Whether something has been said of its line, or of any of its groups."""
    where = judgement.finding.location
    mine = case.mask(group for group in case.groups if group.name in judgement.leaks)
    for other in before:
        place = other.finding.location
        if (place.path, place.line) == (where.path, where.line) or roots_of(case, other.finding) & mine:
            return True
    return False


def _said(case: Case, judgement: Judgement, before: list[Judgement], frozen: int) -> bool:
    """Whether a stated role has spoken of this already: on its line, or of all its leaves."""
    where = judgement.finding.location
    for other in before:
        place = other.finding.location
        if (place.path, place.line) == (where.path, where.line):
            return True
    roots = roots_of(case, judgement.finding)
    return bool(roots) and not roots & ~frozen and any(other.leaks for other in before)
