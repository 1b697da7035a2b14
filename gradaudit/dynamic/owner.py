"""What a loss is stepped with: what the run shows, what the user says, else what living optimizers tell.

Of a loss alone no step is seen. Of several optimizers it is the one that holds anything the loss reaches; where that
are several, those that hold what the loss regresses on data: nobody gives a regression to make its other parts grow.
"""

from __future__ import annotations

from gradaudit import ownership
from gradaudit.dynamic.recording import Recording
from gradaudit.dynamic.roles import TRAINED
from gradaudit.paths import Analysis, View
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.roles import parameters, roles
from gradaudit.tape import Node, Tape


def own(recording: Recording) -> None:
    """Set what each loss of a recording is stepped with, where it can be told."""
    tape = recording.tape
    ownership.own_sets(tape)
    trained = {node for node, role in tape.roles.items() if role == TRAINED}
    beside = [one.leaves for one in tape.optimizers if not trained.isdisjoint(one.leaves)]
    trained |= {leaf for leaves in beside for leaf in leaves if leaf not in tape.roles}
    missing = [sink for sink in tape.sinks if sink.own is None]
    for sink in missing:
        if trained:
            sink.own = frozenset(trained)
    if missing and not trained and len(tape.optimizers) > 1:
        analysis = Analysis(tape)
        for view in analysis.views:
            if view.sink.own is None:
                view.sink.own = _told(view, tape)


def _told(view: View, tape: Tape) -> frozenset[Node] | None:
    """The leaves of the optimizers that this loss is there for, and what nobody holds although it is no copy."""
    analysis, facts = view.analysis, roles(view.analysis)
    reached = set(analysis.leaves(view.live(view.sink.loss) & parameters(analysis)))
    holders = [one for one in tape.optimizers if not reached.isdisjoint(one.leaves)]
    if len(holders) > 1:
        predicting = _regressed(view)
        holders = [one for one in holders if not predicting.isdisjoint(one.leaves)]
    if not holders:
        return None
    held = {leaf for one in tape.optimizers for leaf in one.leaves}
    free = {leaf for leaf in reached - held if not facts.is_copy(leaf)}
    return frozenset(free.union(*(one.leaves for one in holders)))


def _regressed(view: View) -> set[Node]:
    """The leaves behind predictions that meet a constant in a regression."""
    found: set[Node] = set()
    for meeting in discrepancies(view):
        live = [side for side in meeting.sides if side.passes and view.live(side.source)]
        if len(meeting.sides) == 2 and len(live) == 1 and not meeting.entropy:
            found.update(view.analysis.leaves(view.live(live[0].source)))
    return found
