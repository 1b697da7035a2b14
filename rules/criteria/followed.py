"""K9: an actor's loss in JAX that trains the encoder which the critic's loss trains, in a loss of its own.

Two gradients are taken of one tree. One loss regresses the critic on what the encoder makes; the other one applies the
critic as a constant to what encoder and actor make, and has the encoder follow the actor's objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.sites import frames, takers
from gradaudit.rules.criteria.trees import Place, places
from gradaudit.tape import PARAMETER, Frame, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


def followed_encoders(analysis: Analysis) -> Iterator[tuple[View, int, list[Node]]]:
    """(the actor's loss, the encoder's leaves in it, what takes them)"""
    kind = "grad" if analysis.tape.framework == "jax" else "backward"
    views = [view for view in analysis.views if view.sink.kind == kind]
    if len(views) < 2:
        return
    regressed = {view: dict(_regressed(view)) for view in views}
    for view in views:
        for network, actions in _held_fixed(view).items():
            if network in regressed[view] and kind == "backward":
                continue  # one loss has both, and is judged by itself
            before: set[Place] = set()
            for other in views:
                if other is not view and network in regressed[other]:
                    before |= regressed[other][network]
            live = [view.live(action) for action in actions]
            reached = 0
            for mask in live:
                reached |= mask
            both = analysis.mask(leaf for leaf, place in places(analysis, _stepped(view, reached)) if place in before)
            others = reached & ~both  # what the critic is applied to is an action of somebody's as well
            if both and others and _stepped_together(analysis, both, others):
                yield view, both, takers(view, both, view.down)
                break


def _stepped(view: View, leaves: int) -> int:
    """torch: what an optimizer takes this gradient for; what a gradient is taken of in jax is named."""
    return leaves if view.sink.kind == "grad" else leaves & (view.own or 0)


def _stepped_together(analysis: Analysis, encoder: int, actor: int) -> bool:
    """Does one optimizer hold both, as far as it is said who holds them? What else a gradient is taken of is left."""
    versions = roles(analysis).versions
    holders = [set(event.leaves) for event in analysis.tape.events if event.kind == "hold"]
    sides = [{versions.get(leaf, leaf) for leaf in analysis.leaves(mask)} for mask in (encoder, actor)]
    known = all(any(held & side for held in holders) for side in sides)
    return not known or any(all(held & side for side in sides) for held in holders)


def _regressed(view: View) -> Iterator[tuple[Network, set[Place]]]:
    """The networks whose own parameters a regression of this loss trains, and what it trains before them."""
    predicting = {
        node
        for meeting in discrepancies(view)
        for edge in meeting.sides
        if edge.passes
        for node in view.backward(edge.source)
    }
    found: dict[Network, set[Place]] = {}
    for node, frame, trained in _calls(view):
        if trained and node in predicting:
            for argument in frame.arguments:
                entries = (place for _, place in places(view.analysis, view.live(argument)))
                found.setdefault(frame.network, set()).update(entries)
    yield from found.items()


def _held_fixed(view: View) -> dict[Network, list[Node]]:
    """The networks that the loss goes through without training them, and what they are given there."""
    found: dict[Network, list[Node]] = {}
    for node, frame, trained in _calls(view):
        if not trained and view.reaches(node) and view.live(node):
            found.setdefault(frame.network, []).extend(one for one in frame.arguments if view.reaches(one))
    return found


def _calls(view: View) -> Iterator[tuple[Node, Frame, bool]]:
    for node in view.slice:
        weights = [edge for edge in node.inputs if edge.kind == PARAMETER]
        if node.op == "module_call" and weights:
            trained = any(edge.passes and view.live(edge.source) for edge in weights)
            for frame in frames(node):
                yield node, frame, trained
