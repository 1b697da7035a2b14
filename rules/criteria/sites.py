"""Where in the user's text a value is complete: call sites of networks, and the activation that builds a value."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.place import activations, below, common, private, same_call
from gradaudit.tape import Call, Frame, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

ALIASES = frozenset({"phi", "pack", "identity"})


class Site(NamedTuple):
    """A place in the text, and the activation of the user function that it is in (None: the outermost)."""

    location: Location
    call: Call | None

    def seen_from(self, activation: Call | None) -> Location:
        """The line of `activation` on which this comes into being; its own line if it is not made from there."""
        if activation is not None and not any(same_call(step, activation) for step in activations(self.call)):
            return self.location
        helper = below(activation, self.call)
        return self.location if helper is None else helper.location


class Sites:
    """The call sites of one tape's module calls."""

    def __init__(self, analysis: Analysis) -> None:
        self._sites: dict[Frame, Site] = {}
        self._inside: dict[Call | None, set[Frame]] = {}
        first: dict[Frame, Node] = {}
        depth: dict[Call | None, int] = {None: 0}
        seen: set[tuple[Call | None, Frame | None]] = set()
        for node in analysis.graph.nodes:
            if node.leaf is not None:
                continue  # an input that is first asked for inside of a module belongs to no module
            call = node.call
            if (call, node.frame) in seen:
                continue
            seen.add((call, node.frame))
            if call not in depth:
                depth[call] = len(activations(call))
            mine = frames(node)
            self._note(call, mine)
            for frame in mine:
                held = first.get(frame)
                if held is None or depth[call] < depth[held.call]:
                    first[frame] = node
        for frame, node in first.items():
            self._sites[frame] = self._site(node, frame)

    def _note(self, call: Call | None, mine: list[Frame]) -> None:
        """What happens in a call happens in all the calls around it."""
        for step in (*activations(call), None):
            known = self._inside.get(step)
            if known is None:
                self._inside[step] = set(mine)
            else:
                known.intersection_update(mine)

    def _site(self, node: Node, frame: Frame) -> Site:
        """The call by which a module is entered: the outermost one that is in its frame altogether."""
        if frame.location is not None:
            return Site(frame.location, frame.call)
        call = node.call
        if call is None or not call.location.line or not self._is_in(call, frame) or not self._entered(node, frame):
            return Site(node.location, call)
        while call.parent is not None and call.parent.location.line and self._is_in(call.parent, frame):
            call = call.parent
        return Site(call.location, call.parent)

    def _is_in(self, call: Call, frame: Frame) -> bool:
        return frame in self._inside[call]

    def _entered(self, node: Node, frame: Frame) -> bool:
        """Was the module's own code entered (a user's forward), or is this the call of a ready-made layer?"""
        return not (node.op == "module_call" and node.frame is frame)

    def outside(self, node: Node, consumer: Node | None) -> Site:
        """Where `node` comes into being as its consumer sees it: the outermost module call that only it is in."""
        shared = {frame.network for frame in frames(consumer)} if consumer is not None else set()
        site = Site(node.location, node.call)
        for frame in frames(node):
            if frame.network in shared:  # an earlier call of the same code, too
                break
            site = self._sites.get(frame, site)
        return site

    def beside(self, node: Node, leaves: list[Node]) -> Site:
        """Where the outermost module call is made that `node` is in and none of these parameters belong to."""
        owners = {network for leaf in leaves if leaf.leaf and leaf.leaf.owner for network in leaf.leaf.owner.chain()}
        site = Site(node.location, node.call)
        for frame in frames(node):
            if frame.network in owners:
                break
            site = self._sites.get(frame, site)
        return site


def sites(analysis: Analysis) -> Sites:
    known = analysis.cache.get("sites")
    if not isinstance(known, Sites):
        known = analysis.cache["sites"] = Sites(analysis)
    return known


def frames(node: Node) -> list[Frame]:
    """The module calls that a node is in, innermost first."""
    found: list[Frame] = []
    frame = node.frame
    while frame is not None and len(found) < 32:
        found.append(frame)
        frame = frame.parent
    return found


def nearest(call: Call | None, made: list[Site]) -> Call | None:
    """The innermost activation around `call` that also makes one of these values; `call` where there are none.

    What comes out of storage was made elsewhere and says nothing of where the value belongs.
    """
    shared = [common([call, site.call]) for site in made]
    return max(shared, key=lambda step: len(activations(step))) if shared else call


def takers(view: View, leaves: int, area: Container[Node]) -> list[Node]:
    """The nodes of `area` that compute with one of `leaves` (a layer's call, an expression over a parameter)."""
    return [node for node in _makers(view, leaves) if node in area]


def _makers(view: View, leaves: int) -> list[Node]:
    """The first operations on these leaves. A join of parameters is still a parameter."""
    found: dict[Node, None] = {}
    waiting = view.analysis.leaves(leaves & view.mask)
    seen: set[Node] = set(waiting)
    while waiting:
        for user, _ in view.consumers(waiting.pop()):
            if user.op not in ALIASES:
                found[user] = None
            elif user not in seen:
                seen.add(user)
                waiting.append(user)
    return list(found)


def made_at(
    view: View, makers: Iterable[Node], consumer: Node | None, wrong: frozenset[Node] = frozenset()
) -> list[Site]:
    """Where each of these values is made: the innermost call that makes nothing else that gradient rightly reaches.

    A line of a helper that other losses (or the prediction) also run through is not where a stop can stand. `wrong`:
    what leaks as well, and so claims nothing.
    """
    makers = list(makers)
    if not makers:
        return []
    known = sites(view.analysis)
    ways = {maker: _levels(known.outside(maker, consumer)) for maker in makers}
    mine = set(ways.values())
    others: dict[Spot, set[tuple[Spot, ...]]] = {}
    for way, users in _all_ways(view.analysis).items():
        if way not in mine and not users <= wrong:
            for depth, spot in enumerate(way):
                others.setdefault(spot, set()).add(way[depth:])
    found = []
    for maker in makers:
        site = known.outside(maker, consumer)
        levels = [site, *(Site(call.location, call.parent) for call in activations(site.call))]
        free = (
            level
            for depth, level in enumerate(levels)
            if not others.get(_spot(level.location), set()) - {ways[maker][depth:]}
        )
        found.append(next(free, site))
    return found


def same_code(view: View, one: int, other: int) -> bool:
    """Are parameters of both used on one line of a function: one network's code, applied with two sets of them?"""
    first = {_spot(maker.location) for maker in _makers(view, one) if maker.call is not None}
    return any(maker.call is not None and _spot(maker.location) in first for maker in _makers(view, other))


Spot = tuple[str, int, int]


def _spot(location: Location) -> Spot:
    return location.path, location.line, location.column


def _levels(site: Site) -> tuple[Spot, ...]:
    return (_spot(site.location), *(_spot(call.location) for call in activations(site.call)))


def _all_ways(analysis: Analysis) -> dict[tuple[Spot, ...], set[Node]]:
    """The lines, innermost first, on which each parameter of the tape is used with gradient, and by what."""
    known = analysis.cache.get("ways")
    if known is None:
        spots = sites(analysis)
        ways: dict[tuple[Spot, ...], set[Node]] = {}
        told = {view.sink.loss.location for view in analysis.every_view if view.own is not None}
        for view in analysis.every_view:
            if view.own is None and view.sink.loss.location in told:
                continue  # a round whose gradient is thrown away: the same loss with a step speaks for it
            for maker in _makers(view, view.live(view.sink.loss)):
                ways.setdefault(_levels(spots.outside(maker, view.sink.loss)), set()).add(maker)
        known = analysis.cache["ways"] = ways
    assert isinstance(known, dict)
    return known


def complete_at(
    view: View, node: Node, leaves: int, use: Node | None = None, wrong: frozenset[Node] = frozenset()
) -> Location:
    """Where `node` stands for the reader: in the innermost activation that also calls the networks it is made of.

    `use` is the operation that must not have its gradient: a helper that holds both is not left.
    """
    known = sites(view.analysis)
    user = _user(view, node, use)
    mine = known.outside(node, user)
    makers = takers(view, leaves, view.backward(node, leaves))
    activation = nearest(mine.call, made_at(view, makers, user, wrong))
    helper = below(activation, mine.call)
    if helper is None or not _makes_others(view, helper, makers):
        if use is not None and helper is not None and helper in activations(use.call):
            activation = common([mine.call, use.call])
        return mine.seen_from(activation)
    return _handed_over(view, node, leaves, activation, helper, makers) or mine.seen_from(activation)


def _user(view: View, node: Node, use: Node | None) -> Node:
    """Who sees the value: the loss, or the use of it in a method of the very module (an agent) that makes it."""
    if use is None:
        return view.sink.loss
    mine = {frame.network for frame in frames(node)}
    return use if any(frame.network in mine for frame in frames(use)) else view.sink.loss


def _makes_others(view: View, helper: Call, makers: list[Node]) -> bool:
    """Does a call also run networks that the loss rightly trains? Then the value is complete before it gets there."""
    mine = set(makers)
    everyone = _makers(view, view.live(view.sink.loss))
    return any(maker not in mine and helper in activations(maker.call) for maker in everyone)


def _handed_over(
    view: View, node: Node, leaves: int, activation: Call | None, helper: Call, makers: list[Node]
) -> Location | None:
    """Where the value comes to be that is given to `helper`: in the function that makes all of it, if there is one."""
    for value in view.dominators(node, leaves):
        if value.leaf is not None or helper in activations(value.call):
            continue
        source = below(activation, value.call)
        if source is None:
            return value.location
        if all(source in activations(maker.call) for maker in makers):
            return Site(value.location, value.call).seen_from(source)
        return source.location
    return None


def stop_at(
    view: View,
    consumer: Node,
    operand: Node,
    leaves: int,
    wrong: frozenset[Node] = frozenset(),
    others: frozenset[Node] = frozenset(),
) -> Location:
    """Where to stop what `consumer` takes from `operand`: the latest expression before it that is made for it alone.

    A value that other losses rightly use with gradient must be stopped where this one takes it; one that is made for
    this use only, and for `others` that should not have its gradient either, may be made without gradient.
    """
    uses = {consumer, *others}
    known = sites(view.analysis)
    makers = takers(view, leaves, view.backward(operand, leaves))
    activation = nearest(known.outside(consumer, operand).call, made_at(view, makers, consumer, wrong))
    use = known.outside(consumer, operand).seen_from(activation)
    dedicated = all(private(view, maker, uses) for maker in makers)
    for node in view.dominators(operand, leaves):
        if not private(view, node, uses) or stopped_beside(view, node):
            break
        site = known.outside(node, consumer)
        if not dedicated and (below(activation, site.call) is not None or node in makers):
            continue  # the call that makes it also makes what others rightly use
        there = site.seen_from(activation)
        if node.op not in SHAPES and not same_line(there, use):
            return there
    return use


def stopped_beside(view: View, node: Node) -> bool:
    """Does another loss take this value through a stop? Then the program stops it where it is used."""
    graph = view.analysis.graph
    waiting, seen = [node], {node}
    while waiting:
        for position in graph.users[graph.index[waiting.pop()]]:
            user = graph.nodes[position]
            if user.op == "stop":
                return True
            if user.op in SHAPES and user not in seen and len(seen) < 12:
                seen.add(user)
                waiting.append(user)
    return False


def cut_at(view: View, node: Node, leaves: int, uses: set[Node], wrong: frozenset[Node] = frozenset()) -> Location:
    """Where to stop a value that is made for several uses, none of which may have its gradient."""
    known = sites(view.analysis)
    makers = takers(view, leaves, view.backward(node, leaves))
    if not all(private(view, maker, {node}) for maker in makers) and node not in makers:
        return node.location
    spots = made_at(view, makers, node, wrong)
    activation = common([*(known.outside(use, node).call for use in uses), *(spot.call for spot in spots)])
    lines = [known.outside(use, node).seen_from(activation) for use in uses]
    for value in view.dominators(node, leaves):
        there = known.outside(value, min(uses, key=lambda use: use.time)).seen_from(activation)
        if value.op not in SHAPES and not any(same_line(there, line) for line in lines):
            return there
    return complete_at(view, node, leaves, None, wrong)


def one_call(
    view: View, leaves: int, uses: set[Node], values: Iterable[Node], wrong: frozenset[Node] = frozenset()
) -> Location | None:
    """The one call that makes all of these values, if it makes nothing else that any loss uses."""
    area = {node for value in values for node in view.backward(value, leaves)}
    makers = takers(view, leaves, area)
    if not makers or not all(private(view, maker, uses) for maker in makers):
        return None
    found = {site.location for site in made_at(view, makers, min(uses, key=lambda use: use.time), wrong)}
    return found.pop() if len(found) == 1 else None


def same_line(one: Location, other: Location) -> bool:
    """Whether the first begins within the second's lines."""
    return one.path == other.path and other.line <= one.line <= max(other.end_line, other.line)
