"""K9: an actor's loss that trains the encoder which the critic's loss trains, in a loss of its own.

Two gradients are taken of the same parameters (in JAX, of one tree). One loss regresses the critic on what the encoder
makes; the other one applies the critic as a constant to what encoder and actor make, and has the encoder follow the
actor's objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.applied import followed_parts, regressed
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.sites import takers
from gradaudit.rules.criteria.trees import Place, place_of
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


def followed_encoders(analysis: Analysis) -> Iterator[tuple[View, int, list[Node]]]:
    """(the actor's loss, the encoder's leaves in it, what takes them)"""
    kind = "grad" if analysis.tape.framework == "jax" else "backward"
    views = [view for view in analysis.views if view.sink.kind == kind]
    if len(views) < 2:
        return
    fitted = {view: regressed(view) for view in views}
    for view in views:
        for network, actions in followed_parts(view).items():
            if network in fitted[view] and kind == "backward":
                continue  # one loss has both, and is judged by itself
            before: set[Place] = set()
            for other in views:
                if other is not view and network in fitted[other]:
                    before |= fitted[other][network]
            reached = view.live_in(actions)
            stepped = analysis.leaves(_stepped(view, reached))
            both = analysis.mask(leaf for leaf in stepped if place_of(analysis, leaf) in before)
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
