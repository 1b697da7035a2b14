"""Two terms over one pair of values, each of which is to train one side: a codebook's and a commitment's, the two sides
of a balanced divergence between a posterior and a prior.

`D(stop(a), b) + c * D(a, stop(b))` trains b at one rate and a at another. Where one of the two terms stops a side and
the other none, the one without has lost its stop: its weight is no longer the rate of one side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.tape import Node, join_guards

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Mutual(NamedTuple):
    """`node` compares a pair with both sides live; `counterpart` compares the same pair with one side stopped."""

    view: View
    node: Node
    counterpart: Node
    leaves: int


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
    return found


def _stops_one(term: _Term, other: _Term) -> bool:
    """Does the other term compare the same two values and train exactly one of them?"""
    live = other.live if other.sides == term.sides else other.live[::-1]
    if other.sides not in (term.sides, term.sides[::-1]) or bool(live[0]) == bool(live[1]):
        return False
    return not (term.live[0] & ~live[0] and term.live[1] & ~live[1])


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
