"""Where gradient goes on a tape: what is live, what reaches a loss, which nodes every leaking path shares.

`Analysis` is computed once per tape. Liveness is one fixpoint over the whole tape on bitmasks of leaves (it does not
depend on the loss); a `View` narrows it to one sink: its slice, its differentiated leaves, its consumers. Loops and
storage make cycles, so everything here is a worklist and nothing recurses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING

from gradaudit.tape import ALWAYS, INDEX, Edge, Guard, Node, Sink, Tape, join_guards

if TYPE_CHECKING:
    from gradaudit.algebra import Algebra

MOST_GUARDS = 8
"""Different guards that are kept apart at one node; beyond that they are merged into what they have in common."""

Guarded = dict[Guard, int]


def merge(into: Guarded, guard: Guard, mask: int) -> bool:
    """Adds `mask` under `guard`; True if that was news. A weaker guard absorbs a stronger one."""
    for known, leaves in into.items():
        if known <= guard:
            mask &= ~leaves
    if not mask:
        return False
    if guard not in into and len(into) >= MOST_GUARDS:
        nearest = max(into, key=lambda known: (len(known & guard), sorted(known)))
        common = nearest & guard
        mask |= into.pop(nearest)
        into[common] = into.get(common, 0) | mask
        return True
    into[guard] = into.get(guard, 0) | mask
    return True


class Graph:
    """The part of a tape that its sinks depend on, in order of time, with liveness of every node."""

    def __init__(self, tape: Tape) -> None:
        self.forbidden = tape.forbidden
        self.nodes = _ancestors(sink.loss for sink in (*tape.sinks, *tape.others))
        self.index = {node: position for position, node in enumerate(self.nodes)}
        self.leaves = [node for node in self.nodes if node.leaf is not None]
        self.bit = {node: 1 << position for position, node in enumerate(self.leaves)}
        self.users: list[list[int]] = [[] for _ in self.nodes]
        self._fill_users()
        self.live: list[Guarded] = self._liveness()

    def together(self, first: Guard, second: Guard) -> Guard | None:
        """Both guards at once, or None where they contradict each other, or where the program refuses both."""
        both = join_guards(first, second)
        if both is not None and self.forbidden and any(map(both.issuperset, self.forbidden)):
            return None
        return both

    def _fill_users(self) -> None:
        index, users = self.index, self.users
        for position, node in enumerate(self.nodes):
            for edge in node.inputs:
                users[index[edge.source]].append(position)

    def earlier(self, position: int) -> Sequence[int]:
        """The users of a node that come before it (it goes round a loop, or into storage), or are itself."""
        users = self.users[position]  # ascending
        return [user for user in users if user <= position] if users and users[0] <= position else ()

    def _liveness(self) -> list[Guarded]:
        live: list[Guarded] = [{} for _ in self.nodes]
        for node, bit in self.bit.items():
            if node.leaf is not None and node.leaf.kind in ("param", "arg"):
                live[self.index[node]] = {ALWAYS: bit}
        again = [position for position in range(len(self.nodes)) if self._absorb(position, live)]
        # One pass in order of time settles everything but loops: what changed wakes its earlier users.
        waiting = {user for position in again for user in self.earlier(position)}
        while waiting:
            position = waiting.pop()
            if self._absorb(position, live):
                waiting.update(self.users[position])
        return live

    def _absorb(self, position: int, live: list[Guarded]) -> bool:
        node, mine, news = self.nodes[position], live[position], False
        if node.leaf is not None:
            return False
        index = self.index
        for source, passes, _, guard in node.inputs:
            if not passes:
                continue
            for known, mask in live[index[source]].items():
                if not guard and not known:
                    before = mine.get(ALWAYS, 0)
                    if mask & ~before:
                        mine[ALWAYS] = before | mask
                        news = True
                    continue
                both = self.together(known, guard)
                if both is not None and merge(mine, both, mask):
                    news = True
        return news

    @cached_property
    def ops(self) -> frozenset[str]:
        """What is done on this tape."""
        return frozenset([node.op for node in self.nodes])

    @cached_property
    def marks(self) -> frozenset[str]:
        """The marks that some value has."""
        return frozenset().union(*{node.marks for node in self.nodes})

    @cached_property
    def depends(self) -> list[int]:
        """Leaves of every kind that each node's value depends on, stops ignored (positions and conditions left out)."""
        depends = [self.bit.get(node, 0) for node in self.nodes]
        waiting: set[int] = set()
        for position, node in enumerate(self.nodes):
            if self._gather(position, node, depends):
                waiting.update(self.earlier(position))
        while waiting:
            position = waiting.pop()
            if self._gather(position, self.nodes[position], depends):
                waiting.update(self.users[position])
        return depends

    def _gather(self, position: int, node: Node, depends: list[int]) -> bool:
        mask = depends[position]
        index = self.index
        for source, _, kind, _ in node.inputs:
            if kind != INDEX:
                mask |= depends[index[source]]
        if mask == depends[position]:
            return False
        depends[position] = mask
        return True


def _ancestors(roots: Iterable[Node]) -> list[Node]:
    seen: dict[Node, None] = dict.fromkeys(roots)
    waiting = list(seen)
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.source not in seen:
                seen[edge.source] = None
                waiting.append(edge.source)
    return sorted(seen, key=attrgetter("time"))


class Analysis:
    """A tape with everything that rules ask of it, computed when it is first asked for."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.cache: dict[object, object] = {}
        """For criteria: whatever they compute once per tape."""

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.tape)

    @cached_property
    def views(self) -> list[View]:
        return [View(self, sink) for sink in self.tape.sinks]

    @cached_property
    def every_view(self) -> list[View]:
        """The views, and those of losses that are judged elsewhere."""
        return [*self.views, *(View(self, sink) for sink in self.tape.others)]

    @cached_property
    def algebra(self) -> Algebra:
        from gradaudit.algebra import Algebra

        return Algebra(self)

    def dep(self, node: Node) -> int:
        """Bitmask of the leaves that the value of `node` depends on, stops ignored."""
        position = self.graph.index.get(node)
        return 0 if position is None else self.graph.depends[position]

    def alive(self, node: Node) -> int:
        """Bitmask of the trainable leaves that gradient reaches from `node`, whatever the loss and the guards."""
        position = self.graph.index.get(node)
        mask = 0
        if position is not None:
            for leaves in self.graph.live[position].values():
                mask |= leaves
        return mask

    def bit(self, leaf: Node) -> int:
        return self.graph.bit.get(leaf, 0)

    def mask(self, leaves: Iterable[Node]) -> int:
        bits = self.graph.bit
        mask = 0
        for leaf in leaves:
            mask |= bits.get(leaf, 0)
        return mask

    def leaves(self, mask: int) -> list[Node]:
        """The leaf nodes of a bitmask, in order of time."""
        found, leaves = [], self.graph.leaves
        while mask:
            low = mask & -mask
            found.append(leaves[low.bit_length() - 1])
            mask ^= low
        return found


class View:
    """One sink: which nodes carry gradient from its loss, to which leaves, and who uses them."""

    def __init__(self, analysis: Analysis, sink: Sink) -> None:
        self.analysis = analysis
        self.sink = sink
        self._live: dict[Node, int] = {}

    @cached_property
    def mask(self) -> int:
        """The leaves that this sink differentiates."""
        wanted = self.sink.differentiated
        graph = self.analysis.graph
        if wanted is not None:
            return self.analysis.mask(wanted)
        kinds = ("param", "arg") if self.sink.kind == "library" else ("param",)
        return self.analysis.mask(node for node in graph.leaves if node.leaf is not None and node.leaf.kind in kinds)

    def differentiable(self, leaf: Node) -> bool:
        return bool(self.analysis.bit(leaf) & self.mask)

    @cached_property
    def down(self) -> dict[Node, list[Guard]]:
        """The slice: every node between the loss and a differentiated leaf, and the guards of the way from the loss."""
        start = self.sink.loss
        down: dict[Node, list[Guard]] = {start: [self.sink.guard]}
        together = self.analysis.graph.together
        waiting: list[tuple[Node, Guard]] = [(start, self.sink.guard)]
        while waiting:
            node, guard = waiting.pop()
            for edge in node.inputs:
                if not edge.passes:
                    continue
                both = together(guard, edge.guard)
                if both is None or not self._carries(edge.source, both):
                    continue
                known = down.get(edge.source)
                if known is None:
                    down[edge.source] = [both]
                elif both in known or len(known) >= MOST_GUARDS or any(map(both.issuperset, known)):
                    continue
                else:
                    known.append(both)
                waiting.append((edge.source, both))
        return down

    def _carries(self, node: Node, guard: Guard) -> bool:
        graph = self.analysis.graph
        lives = graph.live[graph.index[node]]
        if lives.get(ALWAYS, 0) & self.mask:
            return True
        for known, mask in lives.items():
            if mask & self.mask and graph.together(known, guard) is not None:
                return True
        return False

    @cached_property
    def slice(self) -> list[Node]:
        """The nodes with a gradient path to the loss and a differentiated leaf behind them, in order of time."""
        return sorted(self.down, key=attrgetter("time"))

    @cached_property
    def _consumers(self) -> dict[Node, list[tuple[Node, Edge]]]:
        found: dict[Node, list[tuple[Node, Edge]]] = {}
        for node in self.slice:
            for edge in node.inputs:
                if edge.passes and edge.source in self.down:
                    found.setdefault(edge.source, []).append((node, edge))
        return found

    def consumers(self, node: Node) -> list[tuple[Node, Edge]]:
        """Who takes `node` with gradient, inside the slice."""
        return self._consumers.get(node, [])

    def reaches(self, node: Node) -> bool:
        """Does gradient of the loss reach this node (and go on to a leaf)?"""
        return node in self.down

    def live(self, node: Node) -> int:
        """Differentiated leaves that gradient reaches from `node`; inside the slice under guards that fit the loss."""
        known = self._live.get(node)
        if known is None:
            known = self._live[node] = self._find_live(node)
        return known

    def _find_live(self, node: Node) -> int:
        position = self.analysis.graph.index.get(node)
        if position is None:
            return 0
        guards = self.down.get(node)
        mask, together = 0, self.analysis.graph.together
        for known, leaves in self.analysis.graph.live[position].items():
            if not known or guards is None or any(together(known, guard) is not None for guard in guards):
                mask |= leaves
        return mask & self.mask

    def guards(self, node: Node, leaves: int) -> list[Guard]:
        """The guards under which gradient goes from the loss through `node` to one of `leaves`; [ALWAYS] if none."""
        position = self.analysis.graph.index.get(node)
        found: list[Guard] = []
        if position is None:
            return found
        for known, mask in self.analysis.graph.live[position].items():
            if mask & leaves & self.mask:
                for guard in self.down.get(node, [ALWAYS]):
                    both = self.analysis.graph.together(known, guard)
                    if both is not None:
                        found.append(both)
        return [ALWAYS] if ALWAYS in found else found

    def live_in(self, nodes: Iterable[Node]) -> int:
        """The leaves that any of these values has."""
        mask = 0
        for node in nodes:
            mask |= self.live(node)
        return mask

    @cached_property
    def own(self) -> int | None:
        """The leaves stepped with this gradient; None where that is not known."""
        return None if self.sink.own is None else self.analysis.mask(self.sink.own)

    @cached_property
    def trained(self) -> int:
        """Every leaf that this loss trains: its own ones, or all it reaches where that is not known."""
        reached = self.live(self.sink.loss)
        return reached if self.own is None else reached & self.own

    def forward(self, starts: Iterable[Node]) -> set[Node]:
        """The nodes of the slice that `starts` flow into, with gradient."""
        seen = {node for node in starts if node in self.down}
        waiting = list(seen)
        while waiting:
            for user, _ in self.consumers(waiting.pop()):
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
        return seen

    def backward(self, end: Node, leaves: int | None = None) -> set[Node]:
        """The nodes that gradient visits from `end` on its way to `leaves` (all of the sink's, by default)."""
        wanted = self.mask if leaves is None else leaves & self.mask
        if not self.live(end) & wanted:
            return set()
        seen = {end}
        waiting = [end]
        while waiting:
            for edge in waiting.pop().inputs:
                source = edge.source
                if edge.passes and source not in seen and self.live(source) & wanted:
                    seen.add(source)
                    waiting.append(source)
        return seen

    def dominators(self, end: Node, leaves: int, within: set[Node] | None = None) -> list[Node]:
        """The nodes that every gradient path from `end` to `leaves` passes, from `end` towards the leaves."""
        area = self.backward(end, leaves) if within is None else within
        path = self.path(end, leaves, area)
        return [node for node in path if node.leaf is None and not self._avoids(end, leaves, node, area)]

    def _avoids(self, end: Node, leaves: int, without: Node, area: set[Node]) -> bool:
        if end is without:
            return False
        seen = {end, without}
        waiting = [end]
        while waiting:
            node = waiting.pop()
            if self.analysis.bit(node) & leaves:
                return True
            for edge in node.inputs:
                if edge.passes and edge.source in area and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
        return False

    def path(self, end: Node, leaves: int, area: set[Node] | None = None) -> list[Node]:
        """A shortest gradient path from `end` to one of `leaves`, both included; [] if there is none."""
        came: dict[Node, Node | None] = {end: None}
        queue = [end]
        for node in queue:
            if self.analysis.bit(node) & leaves:
                return list(_walk_back(node, came))[::-1]
            for edge in node.inputs:
                source = edge.source
                if edge.passes and source not in came and (area is None or source in area):
                    if self.live(source) & leaves:
                        came[source] = node
                        queue.append(source)
        return []

    def way_to_loss(self, start: Node) -> list[Node]:
        """A shortest way from `start` to the loss through the slice, both included; [] if there is none."""
        came: dict[Node, Node | None] = {start: None}
        queue = [start]
        for node in queue:
            if node is self.sink.loss:
                return list(_walk_back(node, came))[::-1]
            for user, _ in self.consumers(node):
                if user not in came:
                    came[user] = node
                    queue.append(user)
        return []


def _walk_back(node: Node, came: dict[Node, Node | None]) -> Iterator[Node]:
    step: Node | None = node
    while step is not None:
        yield step
        step = came[step]
