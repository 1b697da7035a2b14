"""K5: gradient through a value that is older than the last step of the parameters it depends on.

In PyTorch this is never right: the graph is gone, or a parameter was written since, or the gradient is that of an older
network. It is how rollout log-probabilities, values and recurrent states leak into an update. Needs no names: it reads
the order of making, stepping and differentiating, over loops and storage.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.ownership import step_group, steps_of
from gradaudit.rules.criteria.discrepancy import LOSSES
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.score import THROUGH, is_score
from gradaudit.rules.criteria.sites import Site, frames, made_at, takers
from gradaudit.rules.criteria.statistic import tracked_statistics
from gradaudit.tape import DATA, PARAMETER, Edge, Event, Location, Node, join_guards

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

STATE = "state"
ADVANTAGE = "advantage"
TARGET = "target"
OLD = "old"
CONTAINERS = frozenset({"store", "append", "pack", "stack", "cat"})


class Stale(NamedTuple):
    """The call at `site` made a value before a step; `uses`: what the loss takes it for, and the node that does."""

    view: View
    makers: tuple[Node, ...]
    site: Site
    leaves: int
    uses: dict[str, Node]

    @property
    def maker(self) -> Node:
        return self.makers[0]

    @property
    def location(self) -> Location:
        return self.site.location


def stale_values(analysis: Analysis) -> list[Stale]:
    """Every stale call of a tape that a loss differentiates, once."""
    known = analysis.cache.get("stale")
    if known is None:
        found: dict[tuple[str, int, int], Stale] = {}
        for view in analysis.views:
            for entry in stale_of(view):
                where = entry.location
                found.setdefault((where.path, where.line, where.column), entry)
        known = analysis.cache["stale"] = list(found.values())
    assert isinstance(known, list)
    return known


def stale_of(view: View) -> list[Stale]:
    """The stale calls that the loss of one sink differentiates."""
    known = view.analysis.cache.get(("stale", view))
    if known is None:
        known = _of_view(view) if _has_history(view) else []
        statistics = {tracked.node.location for tracked in tracked_statistics(view.analysis)}
        if statistics:  # what is old by way of a running statistic is GA505's
            known = [e for e in known if not any(n.location in statistics for n in view.forward([e.maker]))]
        view.analysis.cache["stale", view] = known
    assert isinstance(known, list)
    return known


def _has_history(view: View) -> bool:
    """Do its values keep a graph from one update to the next? Those of jax are constants outside of the loss."""
    kind = view.sink.kind
    return kind != "library" and (kind != "grad" or view.analysis.tape.framework == "torch")


def _of_view(view: View) -> list[Stale]:
    analysis = view.analysis
    stale: dict[Node, int] = {}
    fresh: list[Node] = []
    timeline: list[Event] = []
    steppers = {step.optimizer for step in step_group(analysis.tape, view.sink)}
    for leaf in analysis.leaves(view.trained or view.live(view.sink.loss)):
        # A step of someone else's optimizer between making and loss is the order of updates, not an old value.
        steps = [step for step in _steps(analysis, leaf) if step.optimizer is None or step.optimizer in steppers]
        steps = steps or _fetched(view, leaf) or _by_whoever(view, leaf)
        for maker in takers(view, analysis.bit(leaf), view.down) if steps else ():
            if _is_stale(view, maker, steps):
                stale[maker] = stale.get(maker, 0) | analysis.bit(leaf)
                timeline += [step for step in steps if step not in timeline]
            else:
                fresh.append(maker)
    groups: dict[Location, tuple[Site, list[Node]]] = {}
    for maker, site in zip(stale, made_at(view, stale, view.sink.loss), strict=True):
        groups.setdefault(site.location, (site, []))[1].append(maker)
    renewed = {site.location for site in made_at(view, fresh, view.sink.loss)} if groups else set()
    found = []
    for location, (site, makers) in groups.items():
        uses = _uses(view, makers, timeline)
        if all(step.kind == "copy" for step in timeline):
            uses = {kind: user for kind, user in uses.items() if kind == STATE}
        if uses and (location not in renewed or STATE in uses):
            leaves = 0
            for maker in makers:
                leaves |= stale[maker]
            found.append(Stale(view, tuple(makers), site, leaves, uses))
    return found


def _steps(analysis: Analysis, leaf: Node) -> list[Event]:
    cache = analysis.cache.setdefault("steps", {})
    assert isinstance(cache, dict)
    if leaf not in cache:
        cache[leaf] = steps_of(analysis.tape, leaf)
    return cache[leaf]


def _fetched(view: View, leaf: Node) -> list[Event]:
    """Copies that stand for steps: a worker fetches what is stepped in its place, and steps nothing of its own."""
    analysis = view.analysis
    reached = view.live(view.sink.loss)
    if (view.own or 0) & reached or any(_steps(analysis, each) for each in analysis.leaves(reached)):
        return []
    loops = set(view.sink.loops)
    return [
        event
        for event in analysis.tape.events
        if event.kind == "copy" and leaf in event.leaves and _in_turn(loops, event)
    ]


def _by_whoever(view: View, leaf: Node) -> list[Event]:
    """Steps that take this loss's gradient, by optimizers of which nothing is known: where the loss reaches a single
    network that nobody else holds, that is what they step.
    """
    analysis = view.analysis
    if view.own is not None or leaf in roles(analysis).held:
        return []
    owners = {one.leaf.owner for one in analysis.leaves(view.live(view.sink.loss)) if one.leaf is not None}
    if None in owners or len({owner.outermost() for owner in owners if owner is not None}) != 1:
        return []
    steps = step_group(analysis.tape, view.sink)
    known = any(step.optimizer is None or step.optimizer.complete or step.optimizer.leaves for step in steps)
    return [] if known else steps


def _in_turn(loops: set[int], event: Event) -> bool:
    """Whether the event comes in the rounds of the loss: in its loop, or in order where a run has none."""
    return bool(loops.intersection(event.loops)) or not (loops or event.loops)


def _is_stale(view: View, maker: Node, steps: list[Event]) -> bool:
    """Is there a step between the making and the loss, on some gradient path between them?"""
    sink = view.sink
    steps = [step for step in steps if join_guards(step.guard, sink.guard) is not None]
    between = [step for step in steps if _between(maker, step, view)]
    if maker.time < sink.time and between and _reaches(view, maker, between):
        return True
    around = [step for step in steps if _between_rounds(maker, step, view)]
    return bool(around) and _reaches_around(view, maker, around)


def _between(maker: Node, step: Event, view: View) -> bool:
    sink = view.sink
    if maker.time < step.time < sink.time:
        return True
    return any(loop in sink.loops and loop not in maker.loops for loop in step.loops)


def _between_rounds(maker: Node, step: Event, view: View) -> bool:
    return any(loop in maker.loops and loop in view.sink.loops for loop in step.loops)


def _reaches(view: View, maker: Node, steps: list[Event]) -> bool:
    """Is there a path to the loss along which time only moves on?"""
    seen = {maker}
    waiting = [maker]
    while waiting:
        node = waiting.pop()
        if node is view.sink.loss:
            return True
        for user, edge in view.consumers(node):
            if user.time >= node.time and user not in seen and not _without_step(view, user, edge, steps):
                seen.add(user)
                waiting.append(user)
    return False


def _reaches_around(view: View, maker: Node, steps: list[Event]) -> bool:
    """Does the value go round a loop that also holds a step: from a later place to the loop's head?"""
    loops = {loop for step in steps for loop in step.loops if loop in view.sink.loops and loop in maker.loops}
    for node in sorted(_carried(view, maker, steps), key=attrgetter("time")):
        for user, _ in view.consumers(node):
            if user.time < node.time and user.op == "phi" and user.loops and user.loops[-1] in loops:
                # A container that goes round may have been emptied on the way, which is not seen here.
                return node.op not in CONTAINERS and view.sink.loss in _carried(view, user, steps)
    return False


def _carried(view: View, maker: Node, steps: list[Event]) -> set[Node]:
    """What the value flows into with gradient, but for what only gets there in rounds without a step."""
    seen, waiting = {maker}, [maker]
    while waiting:
        node = waiting.pop()
        for user, edge in view.consumers(node):
            if user not in seen and not _without_step(view, user, edge, steps):
                seen.add(user)
                waiting.append(user)
    return seen


def _without_step(view: View, join: Node, edge: Edge, steps: list[Event]) -> bool:
    """Does the value get through this join of branches only where no step is taken, or never? It left before the step,
    or the one arm steps and begins with another state, or a stop stands under one condition and the step under another
    (before a chunk, and after it).
    """
    if _is_switched_off(view, edge):
        return True
    arms = view.analysis.tape.arms.get(join)
    if arms is None or not steps or not all(_follows(view, step) for step in steps):
        return False
    where, numbers = arms
    mine = {number for number, one in zip(numbers, join.inputs, strict=True) if one is edge}
    if all(number < 0 and all(-number < step.time for step in steps) for number in mine):
        return True
    if not all(step.conditional for step in steps):
        return False
    if all(any(place == where and arm not in mine for place, arm in step.branches) for step in steps):
        return True
    return any(one.source.op == "stop" and edge.source in one.source.arguments() for one in join.inputs)


def _is_switched_off(view: View, edge: Edge) -> bool:
    """A way that an attribute of the program's own opens, which is off from the start: a cache for generation."""
    for key, value in edge.guard:
        symbol = view.analysis.tape.symbols.get(key)
        if symbol is not None and not symbol.parameter and isinstance(symbol.default, bool):
            if symbol.default is not value:
                return True
    return False


def _follows(view: View, step: Event) -> bool:
    """Does the step come after the loss in its round? (A loop may be recorded twice.)"""
    sinks = (sink for sink in view.analysis.tape.sinks if sink.location == view.sink.location)
    return any(sink.time < step.time for sink in sinks)


def _uses(view: View, makers: list[Node], steps: list[Event]) -> dict[str, Node]:
    """What the loss takes the stale values for: told by the operations after the step, on their ways to the loss."""
    uses: dict[str, Node] = {}
    here = [step for step in steps if set(step.loops) & set(view.sink.loops)]
    waiting = [(maker, False) for maker in makers]
    seen = set(waiting)
    while waiting:
        node, crossed = waiting.pop()
        for user, edge in view.consumers(node):
            if _without_step(view, user, edge, here):
                continue
            later = crossed or user.time <= node.time or not any(_between(user, step, view) for step in steps)
            kind = _use(node, user, edge.kind) if later else ""
            if kind:
                uses.setdefault(kind, user)
                if kind in (STATE, OLD):
                    continue
            if (user, later) not in seen:
                seen.add((user, later))
                waiting.append((user, later))
    return uses


def _use(node: Node, user: Node, kind: str) -> str:
    if kind != PARAMETER and not set(frames(user)) <= set(frames(node)):
        return STATE
    data = [edge.source for edge in user.inputs if edge.kind == DATA]
    if user.op in ("kl_divergence", "kl_div") or (user.op in ("exp", "clamp") and data and _is_difference(data[0])):
        return OLD
    if user.op == "mul" and len(data) == 2:
        other = data[1] if data[0] is node else data[0]
        if _is_divergence(node, other) or _is_divergence(other, node):
            return OLD
        return ADVANTAGE if is_score(other) and not is_score(node) else ""
    return TARGET if user.op in LOSSES or user.op in ("square", "abs") else ""


def _is_divergence(weight: Node, gap: Node) -> bool:
    """`p * (log p - log q)`: probabilities of all classes weigh a difference of log-probabilities."""
    return weight.op == "softmax" and gap.op == "sub" and all(map(is_log_softmax, gap.arguments()))


def is_log_softmax(node: Node) -> bool:
    """The logarithm of a softmax, or by hand: logits without the logarithm of the sum of their exponentials."""
    if node.op == "log_softmax":
        return True
    data = node.arguments()
    return node.op == "sub" and len(data) == 2 and data[1].op == "logsumexp" and data[0] in data[1].arguments()


def _is_difference(node: Node) -> bool:
    for _ in range(8):
        if node.op == "sub":
            return True
        if node.op not in THROUGH or not node.inputs:
            return False
        node = node.inputs[0].source
    return False
