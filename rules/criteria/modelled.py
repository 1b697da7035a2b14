"""A network that one loss fits, and that a policy's objective of another loss goes through and trains as well.

The objective of a policy that learns through a model, or through a critic, follows what that says of the actions. If
the step of this loss moves the model, too, it comes to say what is good to hear, whatever the loss that fits it has
taught it: here it has to be applied with parameters that are constant, or the step has to leave them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.applied import is_followed
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.maximised import acts_on
from gradaudit.rules.criteria.sites import made_at, takers
from gradaudit.rules.criteria.trees import place_of, places_of
from gradaudit.tape import Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Modelled(NamedTuple):
    """The loss of `view` follows what `maker` makes of what it trains, and trains the model `leaves`, too."""

    view: View
    leaves: int
    maker: Node
    location: Location


def trained_models(analysis: Analysis) -> Iterator[Modelled]:
    """One for each objective that trains a model which another loss fits."""
    views = [view for view in analysis.every_view if view.own and _is_stepped(view)]
    fits = {view: _fitted(view) & (view.own or 0) for view in views} if len(views) > 1 else {}
    judged = set(analysis.views) if any(fits.values()) else set()
    for view in (one for one in views if one in judged):
        elsewhere = {place for other in views if other is not view for place in places_of(analysis, fits[other])}
        reached = view.live(view.sink.loss) & (view.own or 0) & ~fits[view]
        model = analysis.mask(leaf for leaf in analysis.leaves(reached) if place_of(analysis, leaf) in elsewhere)
        makers = [
            maker
            for maker in (takers(view, model, view.down) if model and reached & ~model else ())
            if acts_on(view, maker, model | fits[view]) and is_followed(view, maker)
        ]
        if makers:
            makers.sort(key=lambda maker: maker.time)
            leaves = model & view.live_in(makers)
            yield Modelled(view, leaves, makers[0], made_at(view, makers, view.sink.loss)[0].location)


def _is_stepped(view: View) -> bool:
    """Does the step take all of this gradient, and not some entries?"""
    return view.sink.kind != "library" and (view.sink.kind != "grad" or view.sink.applied)


def _fitted(view: View) -> int:
    """What the regressions of a loss on constants train."""
    fitted = 0
    for meeting in discrepancies(view):
        if not meeting.entropy and len(meeting.sides) == 2:
            for prediction, target in permutations(meeting.sides):
                learns = prediction.passes and expand(view.analysis, prediction.source).network()
                if learns and not (target.passes and view.live(target.source)):
                    fitted |= view.live(prediction.source)
    return fitted
