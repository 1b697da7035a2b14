"""A critic that one loss fits and raises at once.

An actor's objective `-Q(s, pi(s))` goes through the critic. Where the critic is stepped with the very gradient of that
loss, it learns to give large values, whatever its own regression says: it has to be applied with parameters that this
loss does not train.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.ownership import taken_by
from gradaudit.rules.criteria.adversary import judged, weights
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.sites import made_at, takers
from gradaudit.rules.criteria.trees import Place, places
from gradaudit.tape import DATA, Edge, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

LINEAR = SHAPES | {
    "add",
    "sub",
    "neg",
    "mean",
    "sum",
    "stack",
    "cat",
    "phi",
    "minimum",
    "maximum",
    "min",
    "where",
    "mul",
}


LAYERS = frozenset({"module_call", "matmul", "add"})


class Maximised(NamedTuple):
    """The loss of `view` fits the critic `leaves`, and raises what it makes at `maker` of values that it trains."""

    view: View
    leaves: int
    maker: Node
    location: Location


def maximised_critics(analysis: Analysis) -> Iterator[Maximised]:
    """Every such use, once for a place in the text."""
    told = set()
    for view in analysis.views:
        if not view.own or view.sink.kind == "library":
            continue
        critic, before, fitted = fitted_critic(view)
        if not critic:
            critic, before = _applied_beside(view) if view.sink.kind == "grad" else (_fitted_beside(view), before)
        raised = {one.node for one in judged(view) if one.sign < 0} if critic else set()
        for maker in takers(view, critic, view.down) if critic else ():
            acts = maker not in fitted and acts_on(view, maker, critic | before)
            if acts and (maker in raised or is_raised(view, maker)):
                where = made_at(view, [maker], view.sink.loss)[0].location
                if where not in told:
                    told.add(where)
                    yield Maximised(view, view.live(maker) & critic, maker, where)


def _fitted_beside(view: View) -> int:
    """What another loss fits whose gradient is still there when this one's is added, and one step takes both."""
    analysis, found = view.analysis, 0
    if view.sink.kind != "backward":
        return 0
    for other in analysis.every_view:
        shared = (view.own or 0) & (other.own or 0) & view.live(view.sink.loss)
        if other is view or other.sink.kind != "backward" or not shared:
            continue
        for leaf in analysis.leaves(fitted_critic(other)[0] & shared):
            taken = taken_by(analysis.tape, view.sink, leaf)
            same = taken is taken_by(analysis.tape, other.sink, leaf)
            if same and taken is not None and taken.kind == "step":
                found |= analysis.bit(leaf)
    return found


def _applied_beside(view: View) -> tuple[int, int]:
    """What another loss fits, or judges with, of a tree that both gradients change as a whole (JAX), and all that it
    trains."""
    analysis = view.analysis
    heads: set[Place] = set()
    trained: set[Place] = set()
    for other in analysis.every_view if view.sink.applied else ():
        fitted = fitted_critic(other)[0] or _judge_of(other) if other is not view and other.sink.applied else 0
        if fitted:
            heads |= {place for _, place in places(analysis, fitted)}
            trained |= {place for _, place in places(analysis, other.live(other.sink.loss))}
    mine = list(places(analysis, view.live(view.sink.loss) & (view.own or 0))) if heads else []
    critic, before = (analysis.mask(leaf for leaf, place in mine if place in known) for known in (heads, trained))
    return critic, before


def _judge_of(view: View) -> int:
    """The heads of networks whose answers the loss lowers: what they say of a fake."""
    found = 0
    for one in judged(view):
        found |= view.live(one.node) & weights(view, one.node) if one.sign > 0 else 0
    return found


def fitted_critic(view: View) -> tuple[int, int, set[Node]]:
    """The heads that a regression on constants trains, all that it trains before them, and where it applies them."""
    critic, before = 0, 0
    fitted: set[Node] = set()
    for meeting in discrepancies(view):
        if meeting.entropy or len(meeting.sides) != 2:
            continue
        for prediction, target in (meeting.sides, meeting.sides[::-1]):
            if not prediction.passes or target.passes and view.live(target.source):
                continue
            for atom in expand(view.analysis, prediction.source).network():
                if atom.node.op in LAYERS and view.reaches(atom.node):
                    critic |= view.live(atom.node) & weights(view, atom.node)
                    before |= view.live(atom.node)
                    fitted |= view.backward(atom.node)
    return critic & (view.own or 0), before, fitted


def acts_on(view: View, maker: Node, known: int) -> int:
    """What else the loss trains that enters it: an action of a policy."""
    return view.live(maker) & (view.own or 0) & ~known


def is_raised(view: View, maker: Node, ways: Set[str] = LINEAR) -> bool:
    """Is there a way of sums, means and constant factors to the loss, with a minus? Where `ways` go through layers and
    their like, a minus after the last of them."""
    seen, waiting = {(maker, 1)}, [(maker, 1)]
    while waiting:
        node, sign = waiting.pop()
        if node is view.sink.loss and sign < 0:
            return True
        for user, edge in view.consumers(node):
            data = [each for each in user.inputs if each.kind == DATA]
            if user.op not in ways or user.op == "mul" and _is_product(view, data):
                continue
            turned = user.op == "neg" or user.op == "sub" and edge is data[-1]
            kept = sign if user.op in LINEAR else 1
            item = (user, -kept if turned else kept)
            if item not in seen:
                seen.add(item)
                waiting.append(item)
    return False


def _is_product(view: View, data: list[Edge]) -> bool:
    return sum(edge.passes and bool(view.live(edge.source)) for edge in data) > 1
