"""K10: a running statistic that autograd records: `new = old + k * (x - old)`, x live, carried into the next update;
a target's parameters that are written so; and in JAX a tree that is averaged inside of the loss, out of the very
parameters that this is differentiated by, and used there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import meetings_at
from gradaudit.rules.criteria.roles import parameters
from gradaudit.tape import Event, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

SHAPES = frozenset({"reshape", "getitem", "phi", "store", "clone", "cast", "pack"})
FORMS = frozenset({"add", "sub", "lerp"})


class Tracked(NamedTuple):
    """`node` updates a statistic with gradient; an earlier update's result is in it, a backward lies between."""

    view: View
    node: Node
    leaves: int


class Written(NamedTuple):
    """An update of frozen parameters that autograd records; is their network used where gradient is on?"""

    event: Event
    used: bool


def tracked_writes(analysis: Analysis) -> Iterator[Written]:
    """Every such update, once for a place in the text."""
    told = set()
    for event in analysis.tape.events:
        if event.tracked and event.location not in told:
            told.add(event.location)
            yield Written(event, any(_is_used(analysis, leaf) for leaf in event.leaves))


def _is_used(analysis: Analysis, leaf: Node) -> bool:
    graph = analysis.graph
    position = graph.index.get(leaf)
    return position is not None and any(graph.nodes[user].grad_mode for user in graph.users[position])


def recorded_averages(analysis: Analysis) -> list[Tracked]:
    """Every tree that a loss averages with gradient and computes with, once for a place in the text."""
    known = analysis.cache.get("recorded averages")
    if not isinstance(known, list):
        found: dict[Location, Tracked] = {}
        for view in analysis.views if "lerp" in analysis.graph.ops else ():
            for node in view.slice:
                if node.op == "lerp" and node.detail == "tree":
                    found.setdefault(node.location, Tracked(view, node, view.live(node)))
        known = analysis.cache["recorded averages"] = list(found.values())
    return known


def tracked_statistics(analysis: Analysis) -> Iterator[Tracked]:
    """Every such update, once for a place in the text."""
    told: set[Location] = set()
    for view in analysis.views:
        if view.sink.kind == "library":
            yield from _of_layer(view, told)
            continue
        for node in view.slice:
            if node.op not in FORMS or node.location in told or not view.live(node):
                continue
            if _is_carried(view, node):
                told.add(node.location)
                yield Tracked(view, node, view.live(node))


def growing_statistics(analysis: Analysis) -> Iterator[Tracked]:
    """Updates of statistics that keep the graph of every update before, although the losses that depend on them take
    no gradient through them: the codebook of an average, read behind a stop."""
    views = analysis.views if analysis.tape.framework == "torch" else ()
    repeated = [view for view in views if view.sink.kind != "library" and view.sink.loops]
    told = {node.location for view in views for node in view.slice} if repeated else set()
    for view in repeated:
        for node in analysis.graph.nodes:
            if node.op in FORMS and node.grad_mode and node.location not in told and analysis.alive(node):
                if _is_carried(view, node):
                    told.add(node.location)
                    yield Tracked(view, node, analysis.alive(node) & view.mask)


def _of_layer(view: View, told: set[Location]) -> Iterator[Tracked]:
    """In a layer that others train: what it mixes into a statistic of its own is live in what it gives as well."""
    analysis = view.analysis
    if not parameters(analysis) and not any(meetings_at(analysis, node) for node in view.slice):
        return  # it scales what it is given and trains nothing: observations, as a rule
    for node, old, earlier in _carried(analysis):
        if node.location not in told and analysis.alive(earlier) and _mixes(view, node, old):
            told.add(node.location)
            yield Tracked(view, earlier, analysis.alive(earlier) & view.mask)


def _carried(analysis: Analysis) -> list[tuple[Node, Node, Node]]:
    """Updates in a torch layer: (the sum, the operand with the statistic, the sum's result of an earlier call)."""
    known = analysis.cache.get("carried")
    if known is None:
        known = analysis.cache["carried"] = [
            (node, edge.source, earlier)
            for node in (analysis.tape.nodes if analysis.tape.framework == "torch" else ())
            if node.op in FORMS and node.grad_mode
            for edge in node.inputs
            if edge.passes and _decays(analysis, node, edge.source)
            for earlier in [_left_by(node, edge.source)]
            if earlier is not None
        ]
    assert isinstance(known, list)
    return known


def _decays(analysis: Analysis, node: Node, old: Node) -> bool:
    """`momentum * old + ...`, `old + momentum * (x - old)`: no accumulator, and no gate, which is computed."""
    if old.op == "mul":
        return not all(edge.passes and analysis.alive(edge.source) for edge in old.inputs)
    if node.op == "lerp":
        return True
    parts = [source for edge in node.inputs if edge.source.op == "mul" for source in edge.source.arguments()]
    return any(part.op == "sub" and any(source is old for source in part.arguments()) for part in parts)


def _left_by(node: Node, old: Node) -> Node | None:
    """The result of this very line, from an earlier call, that is in `old` with its graph."""
    seen, waiting = {old}, [old]
    while waiting and len(seen) < 60:
        current = waiting.pop()
        if current.location == node.location and current.op == node.op and current.time < node.time:
            return current
        if current is old or current.op in SHAPES or current.op == "mul":
            for edge in current.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return None


def _mixes(view: View, node: Node, old: Node) -> bool:
    """Is something mixed in that the layer also uses with gradient, other than by way of the statistic?"""
    seen = {edge.source for edge in node.inputs if edge.passes and edge.source is not old}
    waiting = list(seen)
    while waiting and len(seen) < 20:
        current = waiting.pop()
        if current.op in ("mul", "sub", "neg", "div", "reshape"):
            inner = [edge.source for edge in current.inputs if edge.passes and edge.source not in seen]
            seen.update(inner)
            waiting += inner
        elif view.live(current) and _reaches_loss(view, current, node):
            return True
    return False


def _reaches_loss(view: View, start: Node, without: Node) -> bool:
    seen, waiting = {start, without}, [start]
    while waiting:
        for user, _ in view.consumers(waiting.pop()):
            if user is view.sink.loss:
                return True
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _is_carried(view: View, node: Node) -> bool:
    """Whether the sum's own earlier result is one of its operands, from before a backward."""
    events = [event.time for event in view.analysis.tape.events if event.kind == "backward"]
    for edge in node.inputs:
        earlier = _source(edge.source) if edge.passes else None
        if earlier is None and edge.passes and _is_left_behind(view, node, edge.source):
            earlier = edge.source
        if earlier is None:
            continue
        if earlier.location == node.location and earlier.op == node.op and earlier.time < node.time:
            if any(earlier.time < time < node.time for time in events):
                return True
        if earlier.op == "phi" and any(_ends_as(inner.source, node) for inner in earlier.inputs):
            if earlier.detail == "loop" and earlier.loops and earlier.loops[-1] in view.sink.loops:
                return True
    return False


def _is_left_behind(view: View, node: Node, old: Node) -> bool:
    """`old + rate * (new - old)`: is the same old value taken away in what is added to it?"""
    for other in node.arguments():
        parts = other.arguments() if other.op == "mul" else [other]
        for part in parts if other is not old else ():
            sides = part.arguments() if part.op == "sub" else []
            if len(sides) == 2 and view.analysis.algebra.same(sides[1], old):
                return True
    return False


def _ends_as(kept: Node, node: Node) -> bool:
    """Is what is kept the sum itself, at least under some setting (`if self.training:`)?"""
    seen, waiting = {kept}, [kept]
    while waiting and len(seen) < 12:
        current = waiting.pop()
        if current is node:
            return True
        if current.op == "phi" and current.detail != "loop" or current.op in ("clone", "identity"):
            fresh = [edge.source for edge in current.inputs if edge.passes and edge.source not in seen]
            seen.update(fresh)
            waiting += fresh
    return False


def _is_computed(node: Node) -> bool:
    return node.leaf is None and node.op != "const"


def _source(node: Node) -> Node | None:
    """What is behind a factor: `momentum * old`. Without one it is an accumulator, of a loss maybe."""
    decays = False
    for _ in range(8):
        if node.op == "mul" and len(node.inputs) == 2:
            live = [edge.source for edge in node.inputs if edge.passes and _is_computed(edge.source)]
            if len(live) != 1:
                return None
            node, decays = live[0], True
        elif node.op in SHAPES and node.op != "phi" and node.inputs:
            node = node.inputs[0].source
        else:
            return node if decays else None
    return None
