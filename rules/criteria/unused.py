"""A gradient that is zero by its text: the loss reads the tree itself, not the argument that stands for it.

`jax.grad(loss_fn)(state.params)` with a `loss_fn(params)` that reads `state.params` differentiates nothing: what a
function finds around it is a constant. That the tree is in the loss, and the argument is not, is the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.lagging import lagging
from gradaudit.rules.criteria.place import below, common
from gradaudit.rules.criteria.starved import is_test
from gradaudit.tape import Event, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Unused(NamedTuple):
    """`leaves` are differentiated and not in the loss; what was passed for them is, at `location`."""

    view: View
    leaves: tuple[Node, ...]
    location: Location


def unused_arguments(analysis: Analysis) -> Iterator[Unused]:
    events = {event.sink: event for event in analysis.tape.events if event.kind == "backward"}
    for view in analysis.views:
        event, differentiated = events.get(view.sink), view.sink.differentiated
        if view.sink.kind != "grad" or event is None or not differentiated or is_test(view):
            continue
        inside = _upstream(view.sink.loss)
        if inside.isdisjoint(differentiated) and not _written(analysis, differentiated):
            location = _read_around(view, event, inside)
            if location is not None:
                yield Unused(view, tuple(sorted(differentiated, key=lambda leaf: leaf.time)), location)


def _written(analysis: Analysis, arguments: frozenset[Node]) -> bool:
    """Are they written into a network, which is then called in their place?"""
    return any(arguments.intersection(event.sources) for event in lagging(analysis).updates)


def _upstream(loss: Node) -> set[Node]:
    """All that the loss is computed from, with gradient or without."""
    seen, waiting = {loss}, [loss]
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def _read_around(view: View, event: Event, inside: set[Node]) -> Location | None:
    """The first use in the loss of a tree that was passed to be differentiated, as the loss's own text has it.

    What was computed before the loss was called (the actions of a rollout) is data.
    """
    trees = set(event.sources or ())
    home = view.sink.loss.call
    start = min(leaf.time for leaf in view.sink.differentiated or ())
    for node in sorted(inside, key=lambda node: node.time):
        if node.time > start and any(edge.source in trees for edge in node.inputs):
            helper = below(common([home, node.call]), node.call)
            return node.location if helper is None else helper.location
    return None
