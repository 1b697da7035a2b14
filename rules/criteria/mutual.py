"""Two terms over one pair of values, each of which is to train one side: a codebook's and a commitment's, the two sides
of a balanced divergence between a posterior and a prior.

`D(stop(a), b) + c * D(a, stop(b))` trains b at one rate and a at another. Where one of the two terms stops a side and
the other none, the one without has lost its stop: its weight is no longer the rate of one side. Where both stop the
same side they are one term, written twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import LOSSES, discrepancies, first_order
from gradaudit.rules.criteria.place import seen_from
from gradaudit.rules.criteria.starved import held_with, is_test
from gradaudit.rules.criteria.terms import summands_of
from gradaudit.tape import Location, Node, join_guards

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

CALLS = frozenset({"module_call", "call", "custom"})
SOFT = frozenset({"softmax", "log_softmax", "sigmoid", "logsigmoid"})


class Mutual(NamedTuple):
    """`node` compares a pair with both sides live; `counterpart` compares the same pair with one side stopped."""

    view: View
    node: Node
    counterpart: Node
    leaves: int

    @property
    def lines(self) -> tuple[Location, Location]:
        """Where the function that makes both makes this term, and its counterpart."""
        return seen_from(self.node, self.counterpart), seen_from(self.counterpart, self.node)


class Repeated(NamedTuple):
    """`node` is `first` once more, in value and in gradient; `leaves`: what is behind the side that both stop."""

    view: View
    node: Node
    first: Node
    leaves: int

    @property
    def lines(self) -> tuple[Location, Location]:
        """Where the function that makes both makes the first one, and this one."""
        return seen_from(self.first, self.node), seen_from(self.node, self.first)


class _Term(NamedTuple):
    node: Node
    sides: tuple[int, int]
    live: tuple[int, int]


def unbalanced_terms(analysis: Analysis) -> Iterator[Mutual]:
    """Every term that trains both sides of a pair of which its counterpart trains one."""
    told: set[Node] = set()
    for view in analysis.views:
        terms = _terms(view)
        for term in terms:
            if not all(term.live) or term.node in told:
                continue
            for other in terms:
                if other is not term and _stops_one(term, other) and _together(view, term.node, other.node):
                    told.add(term.node)
                    yield Mutual(view, term.node, other.node, term.live[0] | term.live[1])
                    break


def unbalanced_peers(analysis: Analysis) -> Iterator[Mutual]:
    """Of two networks that make soft labels for each other, the term with live labels, if the other stops its own."""
    told: set[Node] = set()
    for view in analysis.views if SOFT & analysis.graph.ops else ():
        terms = [*_soft_terms(view)]
        for term, other in permutations(terms, 2):
            swapped = other.sides == term.sides[::-1] and all(term.live) and bool(other.live[0]) and not other.live[1]
            if swapped and term.node not in told and _together(view, term.node, other.node):
                told.add(term.node)
                yield Mutual(view, term.node, other.node, term.live[1] & ~term.live[0])


def _soft_terms(view: View) -> Iterator[_Term]:
    """Predictions and labels by the logits that they are made of."""
    number = view.analysis.algebra.vn
    for meeting in discrepancies(view):
        if len(meeting.sides) == 2 and _logits(meeting.labelled[0].source) is not meeting.labelled[0].source:
            label, guess = meeting.labelled
            live = (view.live(guess.source) if guess.passes else 0), (view.live(label.source) if label.passes else 0)
            yield _Term(meeting.node, (number(_logits(guess.source)), number(_logits(label.source))), live)


def _logits(node: Node) -> Node:
    below = node
    while below.op == "stop" and below.arguments():
        below = below.arguments()[0]
    return below.arguments()[0] if below.op in SOFT and below.arguments() else node


def _terms(view: View) -> list[_Term]:
    algebra = view.analysis.algebra
    found = []
    for meeting in discrepancies(view):
        if len(meeting.sides) == 2:
            one, other = meeting.sides
            numbers = algebra.vn(one.source), algebra.vn(other.source)
            live = (view.live(one.source) if one.passes else 0), (view.live(other.source) if other.passes else 0)
            if numbers[0] != numbers[1]:
                found.append(_Term(meeting.node, numbers, live))
    return found + [term for node in first_order(view) if node.op == "mul" for term in _written_out(view, node)]


def _written_out(view: View, node: Node) -> Iterator[_Term]:
    """`p * (log p - log q)`: a divergence by hand."""
    data = node.arguments()
    for weight, gap in (data, data[::-1]) if len(data) == 2 else ():
        parts = gap.arguments() if gap.op == "sub" else []
        if len(parts) == 2 and weight.op in ("softmax", "exp") and all(part.op == "log_softmax" for part in parts):
            values = [part.arguments()[0] for part in parts]
            number = view.analysis.algebra.vn
            of = weight.arguments()[0]
            if number(of) in (number(parts[0]), number(values[0])) and number(values[0]) != number(values[1]):
                live = view.live(parts[0]) | view.live(weight), view.live(parts[1])
                yield _Term(node, (number(values[0]), number(values[1])), live)


def _stops_one(term: _Term, other: _Term) -> bool:
    """Does the other term compare the same two values and train exactly one of them?"""
    live = other.live if other.sides == term.sides else other.live[::-1]
    if other.sides not in (term.sides, term.sides[::-1]) or bool(live[0]) == bool(live[1]):
        return False
    return not (term.live[0] & ~live[0] and term.live[1] & ~live[1])


def doubled_terms(analysis: Analysis) -> Iterator[Mutual]:
    """Every term that stops nothing and is written a second time, in the same function: each was to stop a side."""
    told: set[Location] = set()
    for view in analysis.views:
        terms = [term for term in _terms(view) if all(term.live) and term.node.op in LOSSES]
        for number, term in enumerate(terms):
            for first in terms[:number]:
                if term.node.location not in told and _is_doubled(view, first, term):
                    told.add(term.node.location)
                    yield Mutual(view, term.node, first.node, term.live[0] | term.live[1])


def _is_doubled(view: View, first: _Term, term: _Term) -> bool:
    one, other = first.node, term.node
    if one.op != other.op or (first.sides, first.live) != (term.sides, term.live) or one.detail != other.detail:
        return False
    apart = one.location != other.location and one.call is other.call
    return apart and _together(view, one, other)


def repeated_terms(analysis: Analysis) -> Iterator[Repeated]:
    """Summands of a loss that are computed twice, each time with a stop of its own: it was to be on the other side."""
    told: set[Node] = set()
    for view in () if "stop" not in analysis.graph.ops else analysis.views:
        by_value: dict[int, list[Node]] = {}
        for term in () if is_test(view) else summands_of(analysis, view.sink.loss):
            earlier = by_value.setdefault(analysis.algebra.vn(term), [])
            for other in () if term in told or term in earlier else earlier:
                first, second = sorted((term, other), key=lambda node: node.time)
                leaves = _stopped_alike(view, first, second)
                found = Repeated(view, second, first, leaves)
                if leaves and found.lines[0] != found.lines[1]:  # one line that a loop goes over is written once
                    told |= upstream(first) | upstream(second)  # the outermost of what is written twice is told
                    yield found
                    break
            earlier.append(term)


def _stopped_alike(view: View, one: Node, other: Node) -> int:
    """What two terms of one value and one gradient both stop, each by itself, though the loss is to train it.

    Both measure what was computed before: of two calls of something that is not understood, nobody knows that they
    give one value.
    """
    mine, its = upstream(one), upstream(other)
    alone = mine - its, its - mine
    if one in its or other in mine or any(node.op in CALLS for nodes in alone for node in nodes):
        return 0
    if not view.analysis.algebra.alike(one, other):
        return 0
    trained = view.own if view.own is not None else held_with(view)
    return _stopped(view, alone[0]) & _stopped(view, alone[1]) & trained


def _stopped(view: View, nodes: set[Node]) -> int:
    """The leaves that the stops among these nodes cut off."""
    mask = 0
    for node in nodes:
        if node.op == "stop" and node.grad_mode:
            for edge in node.inputs:
                mask |= view.analysis.alive(edge.source)
    return mask


def upstream(node: Node) -> set[Node]:
    """All that a value is made of, with gradient or without."""
    seen, waiting = {node}, [node]
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def _together(view: View, one: Node, other: Node) -> bool:
    """Do the two meet in the loss, other than as the arms of a choice?"""
    first, second = view.down.get(one, ()), view.down.get(other, ())
    if not any(join_guards(a, b) is not None for a in first for b in second):
        return False
    ones, others = view.forward([one]), view.forward([other])
    for node in ones & others:
        if node.op == "phi" and node.detail != "loop":
            continue
        mine = {edge.source for edge in node.inputs if edge.source in ones}
        its = {edge.source for edge in node.inputs if edge.source in others}
        if mine and its and (len(mine | its) > 1 or not mine <= its):
            return True
    return False
