"""K9: a shared encoder that the wrong loss trains. What the program itself says elsewhere is the proof.

sibling   one head on one encoder is the prediction of two regressions of one optimizer; before one of them the encoder
          is stopped, before the other it is not
path      an actor's objective that goes through the critic and the critic's own regression both step one encoder; in
          one tree of parameters: the actor's term, or loss, applies the critic with a copy that is not differentiated
phase     a value trains the policy's trunk in the policy's own loss, although another loss is there to distil it
head      the critic's own regression does not train the encoder before its head; an actor's objective that goes through
          this head does, by what the critic sees and not by the action
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.applied import is_followed
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.followed import followed_encoders
from gradaudit.rules.criteria.foreign import through_makers
from gradaudit.rules.criteria.phasic import live_values
from gradaudit.rules.criteria.sites import frames, made_at, sites, takers
from gradaudit.tape import PARAMETER, Frame, Location, Network, Node, join_guards

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Shared(NamedTuple):
    """The loss of `view` trains the encoder `leaves` by way of `node`; the stop belongs at `location`."""

    view: View
    leaves: int
    node: Node
    location: Location
    kind: str


class _Prediction(NamedTuple):
    view: View
    node: Node
    live: int
    behind: int


def shared_encoders(analysis: Analysis) -> Iterator[Shared]:
    yield from _siblings(analysis)
    for fit, leaves in live_values(analysis):
        trunk = takers(fit.view, leaves, fit.view.backward(fit.node))
        where = sites(analysis).outside(fit.node, trunk[-1] if trunk else None).location
        yield Shared(fit.view, leaves, fit.node, where, "phase")
    yield from _paths(analysis)
    yield from _joint_paths(analysis)
    yield from _apart(analysis)
    yield from _heads(analysis)


def _siblings(analysis: Analysis) -> Iterator[Shared]:
    heads: dict[int, list[_Prediction]] = {}
    for view in analysis.every_view:
        if view.own:
            for prediction, head in _predictions(view):
                heads.setdefault(head, []).append(prediction)
    for found in heads.values():
        stopped = {entry.behind: entry for entry in found if entry.behind and not entry.live & entry.behind}
        for entry in (one for one in found if one.view.sink in analysis.tape.sinks):
            other = stopped.get(entry.behind)
            trained = entry.live & entry.behind
            if other is None or _chosen(entry, other):
                continue
            if trained and other.view.own == entry.view.own and _in_one_run(entry, other):
                where = sites(analysis).beside(entry.node, analysis.leaves(entry.behind)).location
                yield Shared(entry.view, trained, entry.node, where, "sibling")


def _chosen(entry: _Prediction, other: _Prediction) -> bool:
    """Is it one line that predicts with the stop and without it, as its caller wishes (the phases of PPG)?"""
    return entry.node.location == other.node.location and any(
        edge.source.op in ("stop", "phi") and edge.source.location.function == other.node.location.function
        for edge in other.node.inputs
    )


def _in_one_run(entry: _Prediction, other: _Prediction) -> bool:
    """Can both be predictions of one configuration? What a setting keeps apart proves nothing about each other."""
    guards = entry.view.guards(entry.node, entry.behind)
    others = other.view.down[other.node]
    return any(join_guards(mine, guard) is not None for mine in guards for guard in others)


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
            for other in analysis.every_view:
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


def _joint_paths(analysis: Analysis) -> Iterator[Shared]:
    """One tree: a term goes through a frozen copy of a network whose regression trains the encoder before it."""
    for view in analysis.views:
        if view.sink.kind not in ("grad", "backward") or not view.own:
            continue
        told = set()
        for frozen, trained in _applications(view).values():
            before = [argument for frame in trained for argument in frame.arguments]
            actions = [node for frame in frozen for node in frame.arguments if view.reaches(node) and view.live(node)]
            encoder = view.live_in(before)
            both = encoder & view.live_in(actions) & view.own
            node = _branching(view, actions, encoder) if both else None
            where = (_of_actor_alone(view, actions, both, node) or node.location) if node is not None else None
            if node is not None and where is not None and where not in told:
                told.add(where)
                yield Shared(view, both, node, where, "path")


def _of_actor_alone(view: View, actions: list[Node], encoder: int, actor: Node) -> Location | None:
    """torch: where the encoder is called for the actor, if it is called for nothing else there."""
    if view.sink.kind != "backward":
        return None
    area = {node for action in actions for node in view.backward(action, encoder) if node.leaf is None}
    makers = takers(view, encoder, area)
    sides = [edge.source for meeting in discrepancies(view) for edge in meeting.sides]
    if not makers or any(not area.isdisjoint(view.backward(side)) for side in sides):
        return None
    return sites(view.analysis).outside(makers[-1], actor).location


def _apart(analysis: Analysis) -> Iterator[Shared]:
    """The same of two losses of one tree."""
    told = set()
    for view, leaves, origin in followed_encoders(analysis):
        spots = made_at(view, origin, view.sink.loss)
        if spots and spots[-1].location not in told:
            told.add(spots[-1].location)
            yield Shared(view, leaves, origin[-1], spots[-1].location, "path")


def _applications(view: View) -> dict[Network, tuple[list[Frame], list[Frame]]]:
    """The networks that are applied with constant parameters to values that the loss trains, and whose regression
    trains their own: the calls of both kinds."""
    predicting = {
        node
        for meeting in discrepancies(view)
        for edge in meeting.sides
        if edge.passes
        for node in view.backward(edge.source)
    }
    trained: dict[Frame, bool] = {}
    regressed: set[Frame] = set()
    for node in view.analysis.graph.nodes:
        weights = [edge for edge in node.inputs if edge.kind == PARAMETER]
        if node.op == "module_call" and weights:
            live = any(edge.passes and view.live(edge.source) for edge in weights)
            if not live and view.sink.kind == "backward" and not (view.reaches(node) and is_followed(view, node)):
                continue  # computed without gradient, or a reference: nothing that is raised
            for frame in frames(node):
                trained[frame] = trained.get(frame, False) or live
                if live and node in predicting:
                    regressed.add(frame)
    found: dict[Network, tuple[list[Frame], list[Frame]]] = {}
    for frame, live in trained.items():
        if not live or frame in regressed:
            found.setdefault(frame.network, ([], []))[live].append(frame)
    return {network: uses for network, uses in found.items() if uses[0] and uses[1]}


def _branching(view: View, actions: list[Node], encoder: int) -> Node | None:
    """Where the actor's own part begins: the first operation that adds parameters of its own to the encoder's."""
    area = {node for action in actions for node in view.backward(action)}
    for node in sorted(area, key=lambda node: node.time):
        if view.live(node) & ~encoder and any(
            edge.passes
            and edge.source in area
            and edge.source.leaf is None
            and view.live(edge.source) & encoder
            and not view.live(edge.source) & ~encoder
            for edge in node.inputs
        ):
            return node
    return None


def _heads(analysis: Analysis) -> Iterator[Shared]:
    """An actor's loss that trains the actor's encoder through a critic whose own regression stops this encoder."""
    stopped = _stopped_before(analysis)
    for view in analysis.views if stopped else ():
        if not view.own or view.sink.kind != "backward":
            continue
        for _, makers in through_makers(view):
            for maker in makers:
                encoder = _weights(analysis, maker, stopped) & view.own & view.live(maker)
                origin = _beside_action(view, maker, encoder) if encoder else None
                if origin is not None:
                    where = sites(analysis).outside(origin, maker).seen_from(maker.call)
                    yield Shared(view, encoder, origin, where, "head")
                    break


def _stopped_before(analysis: Analysis) -> dict[Node, int]:
    """Of each parameter of a head that a regression steps: the leaves behind it that the regression does not train."""
    found: dict[Node, int] = {}
    for view in analysis.views:
        if not view.own or not discrepancies(view):
            continue
        for maker in takers(view, view.own, view.down):
            dead = analysis.dep(maker) & ~view.live(view.sink.loss)
            for edge in maker.inputs:
                if edge.source.leaf is not None and analysis.bit(edge.source) & view.own:
                    found[edge.source] = found.get(edge.source, dead) & dead
    return {leaf: dead for leaf, dead in found.items() if dead}


def _weights(analysis: Analysis, maker: Node, stopped: dict[Node, int]) -> int:
    mask = 0
    for edge in maker.inputs:
        mask |= stopped.get(edge.source, 0)
    return mask


def _beside_action(view: View, maker: Node, encoder: int) -> Node | None:
    """The use of the encoder from which gradient comes to `maker` past everything else that this loss trains.

    There has to be such a way and the other one, by the actor's head: a whole actor is no encoder.
    """
    others = set(takers(view, (view.own or 0) & ~encoder, view.backward(maker)))
    if not any(view.live(other) & encoder for other in others):
        return None
    mine = set(takers(view, encoder, view.down))
    seen, waiting = {maker}, [maker]
    while waiting:
        node = waiting.pop()
        if node in mine:
            return node
        for edge in node.inputs:
            if edge.passes and edge.source in view.down and edge.source not in seen and edge.source not in others:
                seen.add(edge.source)
                waiting.append(edge.source)
    return None
