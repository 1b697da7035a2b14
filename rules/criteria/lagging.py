"""Networks that follow another one: who writes whom, when, with which weight, and what is bootstrapped from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.bootstrap import is_bootstrap
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.marks import names
from gradaudit.rules.criteria.report import names_of_leaves
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import INDEX, PARAMETER, Event, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

UPDATES = ("copy", "soft_update")
SCRIPT = "<script>"
"""The entry of a tape on which a file ran from its top to its end."""


class Lagging:
    """The updates of one tape."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.facts = roles(analysis)
        tape = analysis.tape
        self.held = set(self.facts.held)
        for event in tape.events:
            if event.kind == "backward":  # what is differentiated by name is trained by somebody
                self.held.update(event.sources)
        self.updates = [event for event in tape.events if event.kind in UPDATES]
        self.offers = [event for event in tape.events if event.kind == "offer"]
        self.offered = {leaf for event in self.offers for leaf in event.leaves}
        self._sinks = [sink for sink in tape.sinks if sink.kind != "library"]
        self._first = min((sink.time for sink in self._sinks), default=0)
        self._loops = {loop for sink in self._sinks for loop in sink.loops}
        self._later = {(event.location, event.leaves) for event in self.updates if event.time > self._first}

    def initial(self, event: Event) -> bool:
        """Does it happen before training only: where the copy is made?"""
        if event.time > self._first or self._loops & set(event.loops):
            return False
        later = {location for location, _ in self._later}
        return event.location not in later

    @cached_property
    def going_on(self) -> list[Event]:
        """The updates that training repeats."""
        return [event for event in self.updates if not self.initial(event)]

    def renewal(self, event: Event) -> Event | None:
        """The new copy that takes this one's place while training goes on: of the same network, under the same name."""
        analysis, sources = self.analysis, set(event.sources)
        name = called(analysis, event.leaves)
        again = (one for one in self.going_on if sources & set(one.sources) and called(analysis, one.leaves) == name)
        return next(again, None)

    def uncalled(self, copy: Event) -> Event | None:
        """The update that an object offers for this copy of a network, where a script that trains the original itself
        never calls it. What a class trains in its own methods, whoever uses it may update when he likes."""
        tape = self.analysis.tape
        if tape.entry != SCRIPT or not self.in_a_loss(set(copy.leaves)):
            return None
        if not any(sink.own and set(copy.sources) & sink.own and not sink.location.function for sink in tape.sinks):
            return None
        mine, theirs = set(copy.leaves), set(copy.sources)
        offers = (one for one in self.offers if one.sources and mine & set(one.leaves) and theirs & set(one.sources))
        return next(offers, None)

    @cached_property
    def bootstrapped(self) -> set[Node]:
        """The copies that some loss takes the value of the next state from, to train what they are copies of."""
        found: set[Node] = set()
        for view in self.analysis.views:
            for meeting in discrepancies(view):
                if len(meeting.sides) != 2:
                    continue
                for mine, other in (meeting.sides, meeting.sides[::-1]):
                    found |= self._bootstrapped(view, mine.source, other.source, meeting.entropy)
        return found

    def _bootstrapped(self, view: View, mine: Node, other: Node, entropy: bool) -> set[Node]:
        analysis = view.analysis
        total, against = expand(analysis, mine), expand(analysis, other)
        if not total.network() or not against.network() or entropy and not total.affine:
            return set()  # a score and its weight
        if not is_bootstrap(view, total, against, entropy):
            return set()
        trained = {leaf for atom in against.network() for leaf in _heads(atom.node)}
        values = {leaf for atom in total.network() for leaf in _heads(atom.node)}
        found = {leaf for leaf in values - trained if self.originals[leaf] & trained}
        versions = self.facts.versions  # entries of what jax differentiates as a whole, which follow one another
        entries = {leaf for leaf in values - trained if leaf in versions and self.facts.originals(leaf) & trained}
        return found | {versions[leaf] for leaf in entries}

    @cached_property
    def originals(self) -> dict[Node, set[Node]]:
        """Leaf -> what it was copied from, parameter by parameter where the two sides match."""
        found: dict[Node, set[Node]] = defaultdict(set)
        for event in self.updates:
            leaves = sorted(event.leaves, key=lambda leaf: leaf.time)
            sources = sorted(event.sources, key=lambda leaf: leaf.time)
            for position, leaf in enumerate(leaves):
                found[leaf].update((sources[position],) if len(leaves) == len(sources) else sources)
        return found

    @cached_property
    def repeated(self) -> bool:
        """Is there a training loop, or a step that is taken more than once?"""
        trained: dict[object, int] = {}
        for view in self.analysis.views:
            if view.sink.kind == "library":
                continue
            reached = view.trained
            if view.sink.loops or reached & trained.get(view.sink.location, 0):
                return True
            trained[view.sink.location] = reached | trained.get(view.sink.location, 0)
        return False

    def bootstraps(self, leaves: Iterable[Node]) -> bool:
        return bool((self.bootstrapped | self.backed_up).intersection(leaves))

    @cached_property
    def backed_up(self) -> set[Node]:
        """JAX: the trees that are constants of a loss and that data is added to before they meet the prediction."""
        trees = {leaf for event in self.updates for leaf in (*event.leaves, *event.sources)}
        found: set[Node] = set()
        if self.analysis.tape.framework != "jax" or not trees:
            return found
        for view in self.analysis.views:
            for meeting in discrepancies(view):
                for side in meeting.sides:
                    if not (side.passes and view.live(side.source)):
                        found |= _added_to(side.source, trees)
        return found

    def reversed(self, event: Event) -> bool:
        """Does it write the network that is trained from one that nothing else writes?"""
        held = self.held
        if not self.facts.complete or not set(event.leaves) <= held or held & set(event.sources):
            return False
        if names("functions", "reset").search(event.location.function.rsplit(".", 1)[-1].lower()):
            return False
        sources = set(event.sources)
        if any(sources & set(other.leaves) for other in self.going_on):
            return False  # it follows: what comes back is an average, a snapshot, slow weights
        if self.analysis.tape.framework == "jax":
            return bool(sources & self.backed_up) or event.kind == "soft_update" and self.in_a_loss(sources)
        if self.bootstraps(sources):
            return True
        return self._copied(sources) and (event.kind == "soft_update" or self._within_training(event))

    def _within_training(self, event: Event) -> bool:
        """Does it follow, turn by turn, a loss that trains what it writes against the answers of what it reads?

        A restart from initial weights stands outside of the loop that trains.
        """
        written, read = self.analysis.mask(set(event.leaves)), self.analysis.mask(set(event.sources))
        return bool(read) and any(
            view.sink.kind != "library"
            and view.sink.time < event.time
            and set(view.sink.loops) <= set(event.loops)
            and view.trained & written
            and read & ~self.analysis.dep(view.sink.loss) == 0
            for view in self.analysis.views
        )

    def in_a_loss(self, leaves: set[Node]) -> bool:
        """Is a loss made of all of them? Initial weights that parameters are drawn back to are in none."""
        mask = self.analysis.mask(leaves)
        return any(mask & ~self.analysis.dep(view.sink.loss) == 0 for view in self.analysis.views)

    def _copied(self, leaves: set[Node]) -> bool:
        return all(self.facts.is_copy(leaf) for leaf in leaves)

    def with_each_step(self, event: Event) -> bool:
        """Does it stand in no branch (`if step > warmup`) but those in which what it follows is trained, too?"""
        sources = set(event.sources)
        return bool(event.branches) and any(
            event.branches <= other.branches and sources.intersection(_stepped(other))
            for other in self.analysis.tape.events
            if other.kind == "step" or other.kind == "backward" and self.analysis.tape.framework == "jax"
        )

    def follows(self, event: Event) -> bool:
        """Does a network that nobody steps follow one that is trained?"""
        held = self.held
        return not held & set(event.leaves) and bool(held & set(event.sources))


def _stepped(event: Event) -> Iterable[Node]:
    if event.kind == "backward":
        return event.sources  # JAX: what is differentiated by name
    return event.leaves or (event.optimizer.leaves if event.optimizer is not None else ())


def _heads(node: Node) -> set[Node]:
    """The parameters of the last layers that made a value."""
    found: set[Node] = set()
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 300:
        current = waiting.pop()
        parameters = [edge.source for edge in current.inputs if edge.kind == PARAMETER]
        if current.leaf is not None and current.leaf.kind in ("param", "arg"):
            found.add(current)
        found.update(parameters)
        for edge in current.inputs if not parameters else ():
            if edge.source not in seen and edge.kind != INDEX:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found


def _added_to(value: Node, trees: set[Node]) -> set[Node]:
    """The trees in a sum that something else is a summand of as well."""
    found: set[Node] = set()
    seen, waiting = {value}, [value]
    while waiting and len(seen) < 200:
        node = waiting.pop()
        parts = [edge.source for edge in node.inputs if edge.kind != INDEX]
        if node.op == "add" and len(parts) == 2:
            behind = [_behind(part, trees) for part in parts]
            if bool(behind[0]) != bool(behind[1]):
                found |= behind[0] | behind[1]
        for part in parts:
            if part not in seen:
                seen.add(part)
                waiting.append(part)
    return found


def _behind(value: Node, trees: set[Node]) -> set[Node]:
    found: set[Node] = set()
    seen, waiting = {value}, [value]
    while waiting and len(seen) < 2000:
        node = waiting.pop()
        if node in trees:
            found.add(node)
            continue
        for edge in node.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found


def lagging(analysis: Analysis) -> Lagging:
    known = analysis.cache.get("lagging")
    if not isinstance(known, Lagging):
        known = analysis.cache["lagging"] = Lagging(analysis)
    return known


def called(analysis: Analysis, leaves: Iterable[Node]) -> str:
    """What a reader calls the networks of these leaves; of a network with other parts, the part: `agent.critic`."""
    return names_of_leaves(analysis, sorted(leaves, key=lambda leaf: leaf.time))
