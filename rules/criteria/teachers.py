"""K11: a teacher that an optimizer holds by mistake: in evaluation mode for good, and yet its loss trains it.

It is known by its part: it makes the labels of a comparison, whose predictions are made by a network that is trained in
training mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.branches import reinforcement
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


@dataclass(frozen=True, slots=True)
class Teacher:
    """`labels` are made with `leaves`, evaluated and stepped; `node` compares them with another network's output."""

    view: View
    node: Node
    labels: Node
    leaves: int


def trained_teachers(analysis: Analysis) -> Iterator[Teacher]:
    """Every such teacher, once for a loss."""
    evaluated = analysis.mask(roles(analysis).evaluated)
    if not evaluated or reinforcement(analysis):
        return
    for view in analysis.views:
        teacher = _in_view(view, evaluated & (view.own or 0))
        if teacher is not None:
            yield teacher


def _in_view(view: View, evaluated: int) -> Teacher | None:
    for meeting in discrepancies(view) if evaluated else ():
        if len(meeting.sides) != 2:
            continue
        for labels, prediction in (meeting.sides, meeting.sides[::-1]):
            theirs, ours = view.live(labels.source), view.live(prediction.source)
            if labels.passes and prediction.passes and theirs and not theirs & ~evaluated and ours & ~evaluated:
                return Teacher(view, meeting.node, labels.source, theirs)
    return None
