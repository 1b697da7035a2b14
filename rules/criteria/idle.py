"""K6: a summand of a loss that trains nothing: all that it reaches is another optimizer's, which clears it unused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.ownership import CLEARED, deposit
from gradaudit.rules.criteria.game import opposed
from gradaudit.rules.criteria.marks import SUMS
from gradaudit.rules.criteria.scale import is_scaled
from gradaudit.rules.criteria.sites import made_at, takers
from gradaudit.tape import Edge, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Idle(NamedTuple):
    """The summand `term` of the loss of `view` leaves gradient in `leaves` only, which nobody uses."""

    view: View
    leaves: int
    term: Node
    location: Location


def idle_terms(analysis: Analysis) -> Iterator[Idle]:
    """Every such summand, once for a place in the text."""
    told: set[Location] = set()
    for view in analysis.views:
        own = view.own
        if not own or view.sink.kind != "backward" or not view.live(view.sink.loss) & own:
            continue
        for term in _terms(view, own):
            leaves = view.live(term)
            cleared = all(deposit(analysis.tape, view.sink, leaf) == CLEARED for leaf in analysis.leaves(leaves))
            if cleared and leaves & ~opposed(view):
                makers = takers(view, leaves, view.backward(term))
                where = made_at(view, makers, view.sink.loss)
                if where and where[0].location not in told:
                    told.add(where[0].location)
                    yield Idle(view, leaves, term, where[0].location)


def _terms(view: View, own: int) -> Iterator[Node]:
    """The largest summands of the loss that train something, and nothing of what it is to train."""
    seen, waiting = {view.sink.loss}, [view.sink.loss]
    while waiting:
        node = waiting.pop()
        if not view.live(node) & own:
            yield node
            continue
        if node.op not in SUMS and not (node.op in ("mul", "div") and is_scaled(node)):
            continue
        for edge in node.inputs:
            if _flows(view, edge) and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)


def _flows(view: View, edge: Edge) -> bool:
    return edge.passes and view.reaches(edge.source) and bool(view.live(edge.source))
