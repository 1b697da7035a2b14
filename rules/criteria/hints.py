"""K11: a teacher of which one answer is stopped, and another one trains it: labels are constants, features are not.

That it is a teacher is said where its answer is stopped: there the pupil is compared with a constant. What else it
makes for the same pupil is to be a constant as well, as long as it learns from nothing but that comparison. Two terms
of the same two answers, of which each is to train one of them, are GA303's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.branches import reinforcement
from gradaudit.rules.criteria.discrepancy import Discrepancy, discrepancies, meetings_at
from gradaudit.rules.criteria.mutual import unbalanced_peers, unbalanced_terms
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.teachers import Teacher, only_here

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View
    from gradaudit.tape import Node


def half_stopped(analysis: Analysis) -> list[Teacher]:
    """Every such teacher, once for a comparison that trains it."""
    known = analysis.cache.get("half stopped")
    if not isinstance(known, list):
        known = analysis.cache["half stopped"] = list(_half_stopped(analysis))
    return known


def _half_stopped(analysis: Analysis) -> Iterator[Teacher]:
    if reinforcement(analysis):
        return
    facts = roles(analysis)
    balanced = {mutual.node for find in (unbalanced_terms, unbalanced_peers) for mutual in find(analysis)}
    for view in analysis.views:
        lessons = list(_lessons(view)) if view.sink.kind != "library" else []
        for meeting in discrepancies(view) if lessons else ():
            for theirs, ours, label in _both_trained(view, meeting):
                taught = meeting.node not in balanced and any(
                    pupil & ours and not teacher & ours and not theirs & ~teacher for teacher, pupil in lessons
                )
                copied = any(facts.is_copy(leaf) or facts.follows(leaf) for leaf in analysis.leaves(theirs))
                if taught and not copied and only_here(view, meeting.node, theirs):
                    yield Teacher(view, meeting.node, label, theirs)


def _both_trained(view: View, meeting: Discrepancy) -> Iterator[tuple[int, int, Node]]:
    """(one side's leaves, the other's, the one side), where both have gradient, of leaves of their own."""
    if len(meeting.sides) != 2 or not all(side.passes for side in meeting.sides):
        return
    for one, other in (meeting.sides, meeting.sides[::-1]):
        theirs, ours = view.live(one.source), view.live(other.source)
        if theirs and ours and not theirs & ours:
            yield theirs, ours, one.source


def _lessons(view: View) -> Iterator[tuple[int, int]]:
    """(what a stopped side is made of, what the other side trains) of every comparison with a stopped side."""
    for node in view.slice:
        for meeting in meetings_at(view.analysis, node):
            if len(meeting.sides) != 2:
                continue
            for label, answer in (meeting.sides, meeting.sides[::-1]):
                teacher = view.analysis.dep(label.source) & view.mask
                pupil = view.live(answer.source) if answer.passes else 0
                if pupil and teacher and not (label.passes and view.live(label.source)):
                    yield teacher, pupil
