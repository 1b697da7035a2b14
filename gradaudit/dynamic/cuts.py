"""Where a stop belongs: the fewest source lines that every leaking path crosses, as late as possible.

F are the leaves that should get nothing, T those that should. A value is *pure* if gradient goes on from it to F and
not to T; only a pure value can be stopped without harm. Values on one source line count as one, because a stop is
written on a line; a line that holds trained values as well is dear, and where lines lie in a helper that both sides
share, the lines of its callers are tried.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from gradaudit.paths import View
from gradaudit.tape import Location, Node

SHARED = 50
ENDLESS = 10**6
LEVELS = 3
"""How many callers from the outside in are tried beside the innermost line."""

Key = tuple[object, ...]
Place = Callable[[Node], Location]


@dataclass(frozen=True, slots=True)
class Spot:
    """One line of a cut: where a stop is written, and the values it stops."""

    location: Location
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class LineCut:
    spots: tuple[Spot, ...]
    cost: int

    @property
    def nodes(self) -> frozenset[Node]:
        return frozenset(node for spot in self.spots for node in spot.nodes)


class Purity:
    """The slice of a loss divided by what gradient reaches from each value."""

    def __init__(self, view: View, frozen: int, trained: int) -> None:
        self.view = view
        self.frozen = frozen
        self.trained = trained
        self.reaching = {node for node in view.slice if view.live(node) & frozen}
        self.mixed = {node for node in self.reaching if view.live(node) & trained}
        self.pure = {node for node in self.reaching - self.mixed if node.leaf is None}

    def frontier(self) -> list[Node]:
        """Pure values that something mixed (or the end) takes: the latest cut, value by value."""
        return [node for node in self.view.slice if node in self.pure and self._leaves_purity(node)]

    def _leaves_purity(self, node: Node) -> bool:
        users = self.view.consumers(node)
        return not users or any(user not in self.pure for user, _ in users)

    def separates(self, cut: frozenset[Node]) -> bool:
        """Whether no gradient path to F is left without the values of the cut."""
        loss = self.view.sink.loss
        if loss not in self.reaching or loss in cut:
            return True
        seen, waiting = {loss}, [loss]
        while waiting:
            node = waiting.pop()
            if node.leaf is not None:
                return False
            for edge in node.inputs:
                source = edge.source
                if edge.passes and source in self.reaching and source not in seen and source not in cut:
                    seen.add(source)
                    waiting.append(source)
        return True


def line_cut(purity: Purity) -> LineCut | None:
    """The cheapest cut over the levels of lines; None where no value can be stopped (the frozen side is used mixed)."""
    best: LineCut | None = None
    for place in _places(purity):
        found = _cut_at(purity, place)
        if found is not None and (best is None or found.cost < best.cost):
            best = found
            if best.cost < SHARED and len(best.spots) == 1:
                break
    return best if best is not None else _frontier_cut(purity)


def _places(purity: Purity) -> list[Place]:
    deepest = max((len(chain(node)) for node in purity.pure), default=0)
    outer = [_nth_from_outside(index) for index in range(min(deepest - 1, LEVELS))]
    return [lambda node: node.location, *outer]


def _nth_from_outside(index: int) -> Place:
    def place(node: Node) -> Location:
        lines = chain(node)
        return lines[max(len(lines) - 1 - index, 0)]

    return place


def chain(node: Node) -> list[Location]:
    """The user's lines around a node, innermost first."""
    lines = [node.location]
    call = node.call
    while call is not None:
        lines.append(call.location)
        call = call.parent
    return lines


def _cut_at(purity: Purity, place: Place) -> LineCut | None:
    view, loss = purity.view, purity.view.sink.loss
    if loss not in purity.reaching:
        return None
    places = {node: place(node) for node in view.slice if node.leaf is None}
    busy = {(at.path, at.line) for node, at in places.items() if view.live(node) & purity.trained}

    def key(node: Node) -> Key:
        at = places.get(node)
        if node in purity.pure and at is not None and at.line:
            return ("line", at.path, at.line)
        return ("node", id(node))

    flow = _Flow()
    for node in purity.reaching:
        mine = key(node)
        cost = ENDLESS if mine[0] == "node" else (SHARED if mine[1:] in busy else 1)
        flow.add((mine, 0), (mine, 1), cost)
        for edge in node.inputs:
            if edge.passes and edge.source in purity.reaching and key(edge.source) != mine:
                flow.add((key(edge.source), 1), (mine, 0), ENDLESS)
        if node.leaf is not None:
            flow.add("source", (mine, 0), ENDLESS)
    cost = flow.run("source", (key(loss), 1))
    if cost >= ENDLESS:
        return None
    chosen = {one for one in flow.latest((key(loss), 1)) if one[0] == "line"}
    nodes = [node for node in view.slice if node in purity.pure and key(node) in chosen]
    kept = [node for node in nodes if _leaves_line(purity, node, key)]
    if not kept or not purity.separates(frozenset(kept)):
        return None
    return LineCut(_spots(kept, places), cost)


def _leaves_line(purity: Purity, node: Node, key: Callable[[Node], Key]) -> bool:
    users = [user for user, _ in purity.view.consumers(node)]
    return not users or any(key(user) != key(node) for user in users)


def _frontier_cut(purity: Purity) -> LineCut | None:
    nodes = purity.frontier()
    if not nodes or not purity.separates(frozenset(nodes)):
        return None
    spots = _spots(nodes, {node: node.location for node in nodes})
    return LineCut(spots, ENDLESS)


def _spots(nodes: list[Node], places: dict[Node, Location]) -> tuple[Spot, ...]:
    by_line: dict[tuple[str, int], list[Node]] = defaultdict(list)
    for node in nodes:
        by_line[places[node].path, places[node].line].append(node)
    spots = [Spot(places[group[-1]], tuple(group)) for group in by_line.values()]
    return tuple(sorted(spots, key=lambda spot: (spot.location.path, spot.location.line)))


class _Flow:
    """Maximum flow by shortest augmenting paths; the graphs are small and the flows smaller."""

    def __init__(self) -> None:
        self.left: dict[object, dict[object, int]] = defaultdict(dict)

    def add(self, start: object, end: object, capacity: int) -> None:
        self.left[start][end] = max(self.left[start].get(end, 0), capacity)
        self.left[end].setdefault(start, 0)

    def run(self, source: object, end: object) -> int:
        total = 0
        while total < ENDLESS:
            came = self._search(source, end)
            if end not in came:
                return total
            path = _unwind(came, end)
            amount = min(self.left[one][two] for one, two in path)
            for one, two in path:
                self.left[one][two] -= amount
                self.left[two][one] += amount
            total += amount
        return total

    def _search(self, source: object, end: object) -> dict[object, object]:
        came: dict[object, object] = {source: None}
        queue = deque([source])
        while queue:
            one = queue.popleft()
            if one == end:
                break
            for two, capacity in self.left[one].items():
                if capacity > 0 and two not in came:
                    came[two] = one
                    queue.append(two)
        return came

    def latest(self, end: object) -> list[Key]:
        """The saturated keys nearest to the end."""
        back: dict[object, list[object]] = defaultdict(list)
        for one, row in self.left.items():
            for two, capacity in row.items():
                if capacity > 0:
                    back[two].append(one)
        seen, queue = {end}, deque([end])
        while queue:
            for one in back[queue.popleft()]:
                if one not in seen:
                    seen.add(one)
                    queue.append(one)
        keys = {one[0] for one in self.left if isinstance(one, tuple)}
        return [key for key in keys if (key, 1) in seen and (key, 0) not in seen]


def _unwind(came: dict[object, object], end: object) -> list[tuple[object, object]]:
    path = []
    while came[end] is not None:
        path.append((came[end], end))
        end = came[end]
    return path
