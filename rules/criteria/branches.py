"""K11: two branches of one loss, one of which must not learn: a network and its copy, a predictor and its projection,
a student and its teacher.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.bootstrap import is_bootstrap
from gradaudit.rules.criteria.discrepancy import LOSSES, discrepancies
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.foreign import MEETINGS, Foreign, copied_from
from gradaudit.rules.criteria.marks import SHAPES, marks
from gradaudit.rules.criteria.roles import Roles, parameters, roles
from gradaudit.rules.criteria.selfcancel import measured
from gradaudit.rules.criteria.units import direction
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

NEGATIVES = frozenset({"logsumexp", "softmax", "log_softmax", "cross_entropy", "matmul", "einsum"})


def is_branch(flow: Foreign) -> bool:
    """The flow's leaves are a copy of what the loss trains, in a program that learns from no reward."""
    analysis = flow.view.analysis
    if flow.held or reinforcement(analysis):
        return False
    reached = flow.view.live(flow.view.sink.loss)
    facts = roles(analysis)
    return all(
        copied_from(analysis, leaf, reached) or facts.named(leaf, "ema") for leaf in analysis.leaves(flow.leaves)
    )


def is_teacher(flow: Foreign) -> bool:
    """The leaves belong to a network that nobody steps and whose output another network's is compared with."""
    analysis = flow.view.analysis
    if flow.held or reinforcement(analysis) or is_branch(flow):
        return False
    leaves = analysis.leaves(flow.leaves)
    if any(leaf.leaf is None or leaf.leaf.owner is None for leaf in leaves):
        return False
    facts = roles(analysis)
    if all(_lags_behind(flow.view, leaf) for leaf in leaves):
        return False
    if not all(facts.stated(leaf) for leaf in leaves) and _judges(flow.view, flow.leaves):
        return False
    return all(_teaches(facts, leaf) for leaf in leaves) and flow.joint.op in MEETINGS


def _judges(view: View, leaves: int) -> bool:
    """Is the network also given what others make with gradient? Then it compares their outputs (a perceptual loss)."""
    others = parameters(view.analysis) & ~leaves
    users = (user for leaf in view.analysis.leaves(leaves) for user, _ in view.consumers(leaf))
    return any(view.live(source) & others for user in users for source in user.arguments())


def _teaches(facts: Roles, leaf: Node) -> bool:
    """Fixed while others learn; a copy that follows its original is a target network."""
    if facts.stated(leaf) == "frozen" or facts.named(leaf, "teacher") or leaf in facts.evaluated:
        return True
    return facts.is_copy(leaf) and leaf not in facts.updated


def _lags_behind(view: View, leaf: Node) -> bool:
    """A copy of what another loss trains: its target network."""
    facts = roles(view.analysis)
    originals = facts.originals(leaf) & facts.held
    others = bool(originals) and view.own is not None and not view.analysis.mask(originals) & view.own
    return others and leaf not in facts.evaluated


def reinforcement(analysis: Analysis) -> bool:
    """Does the program learn from rewards: what the environment returned, or a bootstrap target anywhere?"""
    known = analysis.cache.get("reinforcement")
    if known is None:
        known = _rewarded(analysis, analysis.graph.nodes)
        known = known or any(_bootstraps(view) for view in analysis.views)
        analysis.cache["reinforcement"] = known
    return bool(known)


def by_reward(view: View) -> bool:
    """The same of one loss: what else a class computes that nobody trains in its text says nothing of this one."""
    if view.sink.kind != "library":
        return reinforcement(view.analysis)
    return _rewarded(view.analysis, view.slice) or _bootstraps(view)


def _rewarded(analysis: Analysis, nodes: Iterable[Node]) -> bool:
    facts = marks(analysis)
    return any("reward" in node.marks or facts.reward(node) for node in nodes)


def _bootstraps(view: View) -> bool:
    for meeting in discrepancies(view):
        if len(meeting.sides) != 2:
            continue
        for edge, other in (meeting.sides, meeting.sides[::-1]):
            total, against = expand(view.analysis, edge.source), expand(view.analysis, other.source)
            if is_bootstrap(view, total, against, meeting.of_distributions):
                return True
    return False


PART = re.compile(r"(\w+)\.(\d+)")


class Twin(NamedTuple):
    """`value`, the projection that the predictor's output `other` is compared with at `node`, is live."""

    view: View
    node: Node
    value: Node
    leaves: int


def twins(analysis: Analysis) -> Iterator[Twin]:
    """Live projections in a symmetric pair of comparisons with a predictor on one side of each (SimSiam, BYOL)."""
    for view in () if reinforcement(analysis) else analysis.views:
        if any(node.op in NEGATIVES for node in view.slice):
            continue
        pairs = [pair for node in view.slice for pair in _pairs(view, node)]
        yield from _crossed(view, pairs)
        for pair in pairs:
            mirrors = [other for other in pairs if other is not pair and _swapped(view, pair, other)]
            mirrors = [other for other in mirrors if marks(view.analysis).network(other.value)]
            if pair.passes and any(_predictor(view, pair, mirror) for mirror in mirrors):
                leaves = view.live(pair.operand) & _trained(view)
                if leaves and not leaves & ~view.live(pair.other):
                    yield Twin(view, pair.node, pair.value, leaves)


def _trained(view: View) -> int:
    """What a loss may train: all leaves, of a library function only parameters (its caller may stop what he gives)."""
    return view.mask & parameters(view.analysis) if view.sink.kind == "library" else view.mask


def _crossed(view: View, pairs: list[_Pair]) -> Iterator[Twin]:
    """`D(p0, z1) + D(p1, z0)` of two arguments, or two calls of one network, that each give (z, p): the comparison of a
    predictor with a projection. Whoever compared two views alike would take the same part of both.
    """
    entries = [(pair, _entry(pair.operand), _entry(pair.against)) for pair in pairs if pair.node.op in LOSSES]
    for pair, mine, its in entries:
        if mine is None or its is None or not pair.passes or mine[0] == its[0] or mine[1] == its[1]:
            continue
        if any(theirs == (its[0], mine[1]) and other == (mine[0], its[1]) for _, theirs, other in entries):
            if mine[1] < its[1]:  # the projection comes first: (z, p)
                yield Twin(view, pair.node, pair.value, view.live(pair.operand))


def _entry(node: Node) -> tuple[Node | str, str] | None:
    """Which part of which argument, or of which network's output, the value is."""
    if (part := PART.fullmatch(node.leaf.path if node.leaf is not None else node.name)) is not None:
        return part[1], part[2]  # of an argument of a run
    if node.op != "getitem" or not node.inputs:
        return None
    source = node.inputs[0].source
    given = source.leaf is not None and source.leaf.kind == "arg"
    return (source, node.detail) if given or source.op == "module_call" else None


class _Pair(NamedTuple):
    """What is behind the two sides are value numbers: one projection may be computed twice."""

    node: Node
    operand: Node
    value: Node
    number: int
    passes: bool
    behind_value: frozenset[int]
    other: Node
    against: Node
    before_other: frozenset[Node]
    behind_other: frozenset[int]


def _pairs(view: View, node: Node) -> list[_Pair]:
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if len(data) < 2 or not (node.op in LOSSES or node.op == "mul" or node.op == "sub"):
        return []
    one, other = data[0], data[1]
    if one.source is other.source or (node.op == "sub" and not measured(view, node)):
        return []
    if node.op == "mul" and not _summed(view, node):
        return []  # a gate of a layer
    if not all(view.analysis.dep(edge.source) for edge in (one, other)):
        return []  # against a number
    return [_pair(view, node, one, other), _pair(view, node, other, one)]


def _summed(view: View, node: Node) -> bool:
    """A dot product of two values."""
    return any(user.op in ("sum", "mean") for user, _ in view.consumers(node))


def _pair(view: View, node: Node, value: Edge, other: Edge) -> _Pair:
    number = view.analysis.algebra.vn
    core, before = _core(value.source), _behind(other.source)
    return _Pair(
        node,
        value.source,
        core,
        number(core),
        value.passes,
        frozenset(map(number, _behind(value.source))),
        _core(other.source),
        other.source,
        before,
        frozenset(map(number, before)),
    )


def _core(node: Node) -> Node:
    """The value behind normalisation and shapes."""
    for _ in range(12):
        vector = direction(node)
        if not node.inputs or vector is None and node.op not in SHAPES and node.op not in ("normalize", "div"):
            break
        node = vector or node.inputs[0].source
    return node


def _behind(node: Node, most: int = 400) -> frozenset[Node]:
    seen = {node}
    waiting = [node]
    while waiting and len(seen) < most:
        for edge in waiting.pop().inputs:
            if edge.kind == DATA and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return frozenset(seen)


def _swapped(view: View, pair: _Pair, mirror: _Pair) -> bool:
    """The other comparison predicts this one's projection partner: z1 is behind p1, and z2 behind p2."""
    number = view.analysis.algebra.vn
    return (
        pair.node is not mirror.node
        and pair.value.leaf is None
        and mirror.value.leaf is None  # a reconstruction of the data is no second view
        and pair.number in mirror.behind_other
        and mirror.number in pair.behind_other
        and pair.number != mirror.number
        and pair.number not in pair.behind_other
        and number(mirror.node) not in pair.behind_value | pair.behind_other
        and number(pair.node) not in mirror.behind_value | mirror.behind_other
    )


def _predictor(view: View, pair: _Pair, mirror: _Pair) -> bool:
    """Are there trained layers between the mirror's projection and what this side is compared with?"""
    live, number = view.live(pair.other), view.analysis.algebra.vn
    return any(
        view.analysis.bit(edge.source) & live
        for node in pair.before_other
        if number(node) not in mirror.behind_value
        for edge in node.inputs
    )
