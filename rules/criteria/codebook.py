"""Vector quantisation: which side each of its two terms trains.

A codebook term moves the looked-up vectors q towards the encoder's z, a commitment term z towards q. Each is a
discrepancy of the pair (z, q) with the other side stopped. q is known by what it is: a look-up in trained vectors at a
place that is chosen from z.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import DIVERGENCES, ENTROPIES, LOSSES
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.surrogate import view_of
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

SAME, JOINT, NEITHER, HALF, AVERAGED = "same side", "joint", "neither", "half", "averaged"
MEETS = LOSSES - ENTROPIES - DIVERGENCES | {"sub"}
CHOICES = frozenset({"argmin", "argmax", "one_hot", "topk", "sort", "round"})
MEASURES = frozenset({"square", "pow", "abs", "norm", "mean", "sum"})


class Term(NamedTuple):
    """A discrepancy of a pair: does gradient go into the encoder's side, into the codebook's?"""

    node: Node
    soft: Node
    hard: Node
    soft_live: bool
    hard_live: bool


class Codebook(NamedTuple):
    """The terms of one pair, and what is wrong with them; `term` is where."""

    view: View
    term: Term
    kind: str
    leaves: int


def broken_codebooks(analysis: Analysis) -> Iterator[Codebook]:
    """Pairs whose terms stop the same side, both, or neither."""
    pairs: dict[tuple[int, int], list[Term]] = {}
    for node in analysis.graph.nodes if CHOICES & analysis.graph.ops else ():
        term = _term(analysis, node) if node.op in MEETS else None
        if term is not None:
            algebra = analysis.algebra
            pairs.setdefault((algebra.vn(term.soft), algebra.vn(term.hard)), []).append(term)
    for terms in pairs.values():
        yield from _judge(analysis, terms)


def _judge(analysis: Analysis, terms: list[Term]) -> Iterator[Codebook]:
    view = view_of(analysis, terms[-1].node)
    if view is None:
        return
    stops = {(term.soft_live, term.hard_live) for term in terms}
    dead = next((term for term in terms if not term.soft_live and not term.hard_live), None)
    both = next((term for term in terms if term.soft_live and term.hard_live), None)
    kind = ""
    trained = next((term for term in terms if term.hard_live and _is_averaged(view, term)), None)
    if trained is not None:
        yield Codebook(view, trained, AVERAGED, analysis.alive(trained.hard) & view.mask)
        return
    if dead is not None and len(stops) > 1:
        kind = NEITHER
    elif len(terms) > 1 and len(stops) == 1:
        kind = JOINT if stops == {(True, True)} else SAME
    elif both is not None and len(stops) > 1:
        kind = HALF
    if kind:
        term = dead or (both if kind == HALF else None) or terms[-1]
        leaves = (analysis.alive(term.soft) | analysis.alive(term.hard)) & view.mask
        yield Codebook(view, term, kind, leaves)


def _is_averaged(view: View, term: Term) -> bool:
    """Does the codebook also follow by averaging, and does a step train it all the same?"""
    analysis = view.analysis
    facts = roles(analysis)
    leaves = analysis.leaves(analysis.alive(term.hard) & (view.own or 0)) if facts.statistics else ()
    return any(leaf in facts.statistics or facts.versions.get(leaf) in facts.statistics for leaf in leaves)


def _term(analysis: Analysis, node: Node) -> Term | None:
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if len(data) < 2 or (node.op == "sub" and not _measured(analysis, node)):
        return None
    first, second = _bare(data[0]), _bare(data[1])
    for soft, hard, soft_edge, hard_edge in ((first, second, data[0], data[1]), (second, first, data[1], data[0])):
        leaves = analysis.alive(soft)
        if leaves and _is_lookup(analysis, hard, leaves):
            return Term(node, soft, hard, _live(analysis, soft_edge, leaves), _live(analysis, hard_edge, ~leaves))
    return None


def _live(analysis: Analysis, edge: Edge, leaves: int) -> bool:
    return edge.passes and bool(analysis.alive(edge.source) & leaves)


def _measured(analysis: Analysis, node: Node) -> bool:
    """A difference whose size is taken: the other form of a discrepancy."""
    graph = analysis.graph
    for position in graph.users[graph.index[node]]:
        user = graph.nodes[position]
        if user.op in MEASURES or (user.op == "mul" and user.inputs[0].source is user.inputs[-1].source):
            return True
    return False


def _bare(edge: Edge) -> Node:
    """The value behind stops and shapes."""
    node = edge.source
    for _ in range(12):
        if node.op not in SHAPES or not node.inputs or node.op in ("gather", "getitem", "index_select"):
            break
        node = node.inputs[0].source
    return node


def _is_lookup(analysis: Analysis, node: Node, leaves: int) -> bool:
    """A value of trained leaves at a place that depends on `leaves` through a choice."""
    own = analysis.alive(node)
    if not own or own & leaves:
        return False
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 400:
        for edge in waiting.pop().inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    if not any(each.op in CHOICES for each in seen):
        return False
    return all(leaf in seen for leaf in analysis.leaves(leaves))
