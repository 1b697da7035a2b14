"""A value's regression that trains the policy whose return it is to predict.

A policy that learns through a model follows its return (or a cost): `-ret.mean()`. A critic is fitted to the same
return, as a constant: `(v(features) - stop(ret))**2`. Where the features keep the graph of the actions, the policy is
moved by that, too: to where the critic errs less. Told where one loss holds both, or another loss has the policy
follow what the critic, a constant there, says; and where all that follows, and learns by no other error, is behind the
critic's features: of a trunk that policy and critic share, the policy's head is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.applied import followed_parts, regressed
from gradaudit.rules.criteria.conservative import rising
from gradaudit.rules.criteria.discrepancy import LOSSES, SQUARES, Discrepancy, discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.imagined import heads
from gradaudit.rules.criteria.marks import SHAPES, bare, behind
from gradaudit.rules.criteria.sites import stop_at, takers
from gradaudit.rules.criteria.trees import place_of, places_of
from gradaudit.tape import Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


ERRORS = LOSSES | SQUARES | {"pow"}


class OwnReturn(NamedTuple):
    """`prediction` is fitted at `node` to a return that `leaves` follow, and gradient reaches them from there."""

    view: View
    node: Node
    prediction: Node
    leaves: int
    location: Location


class _Fit(NamedTuple):
    meeting: Discrepancy
    prediction: Node
    label: Node | None
    """What the label is the constant of, if the loss has a term of that itself."""
    constant: bool


def own_returns(analysis: Analysis) -> Iterator[OwnReturn]:
    """Every such regression, once for a place in the text."""
    told: set[Location] = set()
    for view in analysis.views:
        if not view.own or view.sink.kind == "library":
            continue
        fits = list(_fits(view))
        for fit, leaves in chain(_followed_here(view, fits), _followed_apart(view, fits)):
            where = _place(view, fit, leaves)
            if where not in told:
                told.add(where)
                yield OwnReturn(view, fit.meeting.node, fit.prediction, leaves, where)


def _followed_here(view: View, fits: list[_Fit]) -> Iterator[tuple[_Fit, int]]:
    returns = {fit.label for fit in fits if fit.label is not None}
    learning = _otherwise(view, fits, returns) if returns else 0
    for fit in fits:
        leaves = view.live(fit.label) & (view.own or 0) & ~learning if fit.label is not None else 0
        if leaves and not leaves & ~view.live(fit.prediction):
            yield fit, leaves


def _followed_apart(view: View, fits: list[_Fit]) -> Iterator[tuple[_Fit, int]]:
    """What another loss trains to follow a critic, a constant there, if this regression of the critic trains it too."""
    analysis = view.analysis
    others = [other for other in analysis.every_view if other is not view and other.own and other.sink.kind == "grad"]
    before = regressed(view) if others and analysis.tape.framework == "jax" else {}
    for other in others if before else ():
        policy = places_of(analysis, other.live(other.sink.loss) & (other.own or 0))
        for part in followed_parts(other):
            if policy and policy <= before.get(part, set()):
                mine = analysis.mask(leaf for leaf in analysis.graph.leaves if place_of(analysis, leaf) in policy)
                for fit in fits:
                    leaves = mine & view.live(fit.prediction) & (view.own or 0)
                    if fit.constant and leaves and not leaves & _by_others(view, fits, fit):
                        yield fit, leaves


def _by_others(view: View, fits: list[_Fit], fit: _Fit) -> int:
    """What learns by the errors of another prediction."""
    return view.live_in(other.prediction for other in fits if other.meeting.node is not fit.meeting.node)


def _fits(view: View) -> Iterator[_Fit]:
    for meeting in discrepancies(view):
        sides = meeting.sides
        for prediction, label in (sides, sides[::-1]) if len(sides) == 2 else ((sides[0], sides[0]),):
            if not prediction.passes or not view.live(prediction.source):
                continue
            constant = not (label.passes and view.live(label.source))
            followed = _followed(view, label.source, prediction.source) if constant else None
            yield _Fit(meeting, prediction.source, followed, constant)


def _followed(view: View, label: Node, prediction: Node) -> Node | None:
    """The live value that the label is the constant of, if it is a term of the loss; none that the critic makes."""
    number = view.analysis.algebra.vn
    value = number(bare(label))
    if behind(label, SHAPES | {"mean", "sum"}).op in ERRORS:  # a forecast of one's own error is no critic
        return None
    head = heads(view.analysis, expand(view.analysis, prediction).network())
    for node in view.slice if head else ():
        if number(node) == value and any(step is view.sink.loss for step, _ in rising(view, node)):
            return None if view.live(node) & head else node
    return None


def _otherwise(view: View, fits: list[_Fit], returns: set[Node]) -> int:
    """What learns by the errors of something else: an encoder, a model. A return may have errors in it, as costs."""
    costs = {node for value in returns for node in view.backward(value)}
    return view.live_in(fit.prediction for fit in fits if fit.label is None and fit.meeting.node not in costs)


def _place(view: View, fit: _Fit, leaves: int) -> Location:
    """Where the critic is given what the policy has made."""
    area = view.backward(fit.prediction, leaves)
    critic = view.live(fit.prediction) & ~leaves
    for maker in sorted(takers(view, critic, area), key=lambda node: node.time):
        for given in maker.arguments():
            if view.live(given) & leaves and not view.live(given) & critic:
                return stop_at(view, maker, given, leaves)
    return stop_at(view, fit.meeting.node, fit.prediction, leaves)
