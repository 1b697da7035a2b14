"""K9: a shared encoder that the wrong loss trains. What the program itself says elsewhere is the proof.

sibling   one head on one encoder is the prediction of two regressions of one optimizer; before one of them the encoder
          is stopped, before the other it is not
path      an actor's objective that goes through the critic and the critic's own regression both step one encoder
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.foreign import through_makers
from gradaudit.rules.criteria.sites import made_at, sites, takers
from gradaudit.tape import Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


@dataclass(frozen=True, slots=True)
class Shared:
    """The loss of `view` trains the encoder `leaves` by way of `node`; the stop belongs at `location`."""

    view: View
    leaves: int
    node: Node
    location: Location
    kind: str


@dataclass(frozen=True, slots=True)
class _Prediction:
    view: View
    node: Node
    live: int
    behind: int


def shared_encoders(analysis: Analysis) -> Iterator[Shared]:
    yield from _siblings(analysis)
    yield from _paths(analysis)


def _siblings(analysis: Analysis) -> Iterator[Shared]:
    heads: dict[int, list[_Prediction]] = {}
    for view in analysis.views:
        if view.own:
            for prediction, head in _predictions(view):
                heads.setdefault(head, []).append(prediction)
    for found in heads.values():
        stopped = {entry.behind: entry for entry in found if entry.behind and not entry.live & entry.behind}
        for entry in found:
            other = stopped.get(entry.behind)
            if other is not None and entry.live & entry.behind and other.view.own == entry.view.own:
                where = sites(analysis).beside(entry.node, analysis.leaves(entry.behind)).location
                yield Shared(entry.view, entry.live & entry.behind, entry.node, where, "sibling")


def _predictions(view: View) -> Iterator[tuple[_Prediction, int]]:
    """The heads whose output a regression of this sink predicts with, and the trained leaves behind each."""
    analysis, own = view.analysis, view.own or 0
    for meeting in discrepancies(view):
        for edge in meeting.sides if not meeting.entropy else ():
            for atom in expand(analysis, edge.source).network():
                node = atom.node
                head = analysis.mask(source.source for source in node.inputs if source.source.leaf is not None)
                if edge.passes and node.op == "module_call" and view.reaches(node) and head & own:
                    live, behind = view.live(node) & ~head, analysis.dep(node) & own & ~head
                    yield _Prediction(view, node, live, behind), head


def _paths(analysis: Analysis) -> Iterator[Shared]:
    """An actor's loss through the critic that steps the encoder which the critic's regression steps, too."""
    for view in analysis.views:
        if not view.own or view.sink.kind != "backward":
            continue
        reached = view.live(view.sink.loss)
        for leaves, makers in through_makers(view):
            for other in analysis.views:
                both = reached & view.own & (other.own or 0) & other.live(other.sink.loss)
                if other is view or not both or not (other.own or 0) & leaves or (other.own or 0) == view.own:
                    continue
                if not any(view.own & ~(other.own or 0) & reached for _ in makers) or not discrepancies(other):
                    continue
                origin = takers(view, both, view.down)
                spots = made_at(view, origin, view.sink.loss)
                if spots:
                    yield Shared(view, both, origin[-1], spots[-1].location, "path")
                break
