"""Two phases of one network (phasic policy gradient): the policy learns in one, in the other one values are distilled
into the trunk that it stands on, by an auxiliary head, while a divergence keeps the policy.

What tells the auxiliary phase: a loss that follows no score of actions, learns the policy's head, and fits two heads to
one label. That the value's own head trains the trunk in the policy phase as well makes the other phase idle; that the
auxiliary head is given the trunk's features as constants makes it distil nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import LAYERS, expand
from gradaudit.rules.criteria.marks import bare
from gradaudit.rules.criteria.score import is_score
from gradaudit.rules.criteria.starved import Starved, events_of
from gradaudit.rules.criteria.trees import Place, place_of, places_of
from gradaudit.tape import Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 60


class Fit(NamedTuple):
    """A head that a loss fits to a label: its own weights, what it trains before them, and what it is made of."""

    view: View
    node: Node
    head: frozenset[Place]
    trains: frozenset[Place]
    behind: frozenset[Place]


class Phase(NamedTuple):
    """An auxiliary phase: the pairs of heads that are fitted to one label, and all that it trains."""

    pairs: tuple[tuple[Fit, Fit], ...]
    trains: frozenset[Place]


def live_values(analysis: Analysis) -> Iterator[tuple[Fit, int]]:
    """Values that train the policy's trunk in its own phase, although a phase of distillation does, whose head has no
    other use: (the fit, the trunk's leaves)."""
    views, phases = _phases(analysis)
    for view in views if phases else ():
        scored = _scored(view)
        fits = _fits(view) if scored else []
        for fit in fits:
            for phase in phases:
                trunk = _shared_trunk(fit, phase, [one.head for one in fits]) & scored
                if trunk and scored <= phase.trains:
                    yield fit, _leaves(analysis, view.live(fit.node), trunk)
                    break


def _shared_trunk(fit: Fit, phase: Phase, used: list[frozenset[Place]]) -> frozenset[Place]:
    """What this value trains of the trunk that it and the auxiliary head stand on in the other phase."""
    for mine, other in (two for pair in phase.pairs for two in permutations(pair)):
        if mine.head == fit.head and other.trains <= mine.trains and other.head not in used:
            return fit.trains & other.trains
    return frozenset()


def undistilled(analysis: Analysis) -> Iterator[Starved]:
    """Auxiliary heads that are given the features of the policy's trunk as constants."""
    views, phases = _phases(analysis)
    acting = [places for view in views if (places := _scored(view))] if phases else []
    for phase in phases:
        used = [fit.head for view in views for fit in _fits(view)]
        for fit, other in (two for pair in phase.pairs for two in permutations(pair)):
            trunk = (fit.behind & phase.trains) - fit.trains - other.behind
            if not trunk or used.count(fit.head) > 1 or not any(trunk <= mine for mine in acting):
                continue
            leaves = _leaves(analysis, analysis.dep(fit.node), trunk)
            for event in events_of(analysis, Edge(fit.node), leaves):
                yield Starved(fit.view, fit.node, event, leaves, partly=True)


def _phases(analysis: Analysis) -> tuple[list[View], list[Phase]]:
    """The losses, and the auxiliary phases among them; two rules ask."""
    known = analysis.cache.get("phases")
    if not isinstance(known, tuple):
        views = _views(analysis)
        known = analysis.cache["phases"] = views, [found for view in views if (found := _phase(view)) is not None]
    return known


def _views(analysis: Analysis) -> list[View]:
    """The losses of the program, each once: a loop has its body twice."""
    found: dict[object, View] = {}
    for view in analysis.views:
        if view.own and view.sink.kind in ("backward", "grad", "minimize", "return"):
            found.setdefault((view.sink.location, view.sink.loss.location), view)
    return list(found.values()) if len(found) > 1 else []


def _phase(view: View) -> Phase | None:
    """Whether a loss is one of an auxiliary phase."""
    if _scored(view):
        return None
    fits: dict[int, list[Fit]] = {}
    for fit, label in _labelled(view):
        fits.setdefault(label, []).append(fit)
    pairs = [(one, two) for same in fits.values() for one in same for two in same if _come_apart(one, two)]
    everything = frozenset(places_of(view.analysis, view.live(view.sink.loss) & (view.own or 0)))
    rest = everything.difference(*(fit.head | fit.behind for same in fits.values() for fit in same))
    return Phase(tuple(pairs), everything) if pairs and rest else None


def _come_apart(one: Fit, two: Fit) -> bool:
    return one.node.time < two.node.time and not one.head & two.head


def _labelled(view: View) -> Iterator[tuple[Fit, int]]:
    number = view.analysis.algebra.vn
    for meeting in discrepancies(view):
        for prediction, label in permutations(meeting.sides, 2) if not meeting.of_distributions else ():
            if prediction.passes and not (label.passes and view.live(label.source)):
                for atom in expand(view.analysis, prediction.source).network():
                    fit = _fit(view, atom.node)
                    if fit is not None:
                        yield fit, number(bare(label.source))


def _fits(view: View) -> list[Fit]:
    return [fit for fit, _ in _labelled(view)]


def _fit(view: View, node: Node) -> Fit | None:
    analysis = view.analysis
    weights = analysis.mask(edge.source for edge in node.inputs if edge.source.leaf is not None) & (view.own or 0)
    if node.op != "module_call" or not view.reaches(node) or not weights:
        return None
    live, behind = view.live(node) & ~weights, analysis.dep(node) & (view.own or 0) & ~weights
    head, trains, all_of_it = (frozenset(places_of(analysis, mask)) for mask in (weights, live, behind))
    return Fit(view, node, head, trains, all_of_it)


def _scored(view: View) -> frozenset[Place]:
    """What a loss trains by the log-probabilities, or ratios, that it weighs with constants."""
    found = 0
    for node in view.slice:
        sides = node.arguments()
        for score, weight in permutations(sides, 2) if node.op == "mul" and len(sides) == 2 else ():
            if view.live(score) and not view.live(weight) and is_score(score) and _is_of_choices(score):
                found |= view.live(score)
    return frozenset(places_of(view.analysis, found & (view.own or 0)))


def _is_of_choices(score: Node) -> bool:
    """Of chosen actions, and not of a whole distribution, as a divergence that is written out."""
    seen, waiting = {score}, [score]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node.op in ("log_prob", "gather") or node.op == "getitem" and len(node.inputs) > 1:
            return True
        fresh = [one for one in node.arguments() if one not in seen] if node.op not in LAYERS else []
        seen.update(fresh)
        waiting += fresh
    return False


def _leaves(analysis: Analysis, among: int, wanted: frozenset[Place]) -> int:
    return analysis.mask(leaf for leaf in analysis.leaves(among) if place_of(analysis, leaf) in wanted)
