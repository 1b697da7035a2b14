"""K11: soft labels that the loss itself trains: a cross-entropy whose labels are the trained network's own answer.

`labels = softmax(f(weak))`, `loss = cross_entropy(f(strong), labels)`: both sides reach f, and each has an input of its
own. Without a stop the loss moves its labels to where they are easy to predict. Not meant: entropies (both sides are
one answer), labels of another network (a teacher's, finished by the caller), and pairs of terms in which each side
labels the other (a symmetric consistency).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.branches import by_reward
from gradaudit.rules.criteria.discrepancy import Discrepancy, discrepancies
from gradaudit.rules.criteria.marks import SHAPES, behind
from gradaudit.rules.criteria.roles import parameters
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 600
MOST_ROWS = 60
NORMALISED = frozenset({"softmax", "sigmoid"})
RATES = frozenset({"div", "mul", "pow", "reciprocal"})
MIXES = frozenset({"matmul", "einsum"})
ON_THE_WAY = SHAPES | {"store", "neg", "div", "mul", "pow", "sum", "clamp", "phi", "where", "mean", "sub", "add", "cat"}


class OwnLabel(NamedTuple):
    """`label` is what `prediction` is compared with at `node`; gradient reaches `leaves` through it."""

    view: View
    node: Node
    label: Node
    prediction: Node
    leaves: int


def own_labels(analysis: Analysis) -> Iterator[OwnLabel]:
    """Every live label of that kind, in programs that learn from no reward."""
    if not (NORMALISED | {"exp"}) & analysis.graph.ops:
        return
    for view in analysis.views:
        if by_reward(view):
            continue
        found = [each for meeting in discrepancies(view) for each in _label(view, meeting)]
        for label in found:
            if not any(_mirrors(view, label, other) for other in found if other is not label):
                yield label


def _label(view: View, meeting: Discrepancy) -> Iterator[OwnLabel]:
    if not meeting.entropy or len(meeting.sides) != 2:
        return
    label, prediction = meeting.labelled
    if not label.passes or not prediction.passes or not is_answer(view.analysis, label):
        return
    mine, its = view.live(label.source), view.live(prediction.source)
    shared = view.analysis.leaves(mine & its)
    apart = _own_inputs(view, label.source, prediction.source) or _of_a_teacher(view, label.source, prediction.source)
    if apart and any(not _is_rate(view, leaf) for leaf in shared):
        yield OwnLabel(view, meeting.node, label.source, prediction.source, mine)


def _is_rate(view: View, leaf: Node) -> bool:
    """An argument that only scales others: the temperature of both sides."""
    given = leaf.leaf is not None and leaf.leaf.kind == "arg" and view.sink.kind == "library"
    return given and all(user.op in RATES for user, _ in view.consumers(leaf))


def is_answer(analysis: Analysis, label: Edge) -> bool:
    """A distribution made by a softmax (or balanced by Sinkhorn's rounds of divisions by sums), maybe sharpened or
    balanced afterwards, or the mean of constants that it weighs: the labels of soft nearest neighbours.
    """
    shares = False
    seen, waiting = {label.source}, [label.source]
    while waiting and len(seen) < 60:
        node = waiting.pop()
        shares = shares or _is_share(node)
        if node.op in NORMALISED or node.op == "exp" and shares:
            return True
        if node.op in ON_THE_WAY or node.op in MIXES and sum(map(bool, map(analysis.alive, node.arguments()))) == 1:
            for edge in node.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False


def _is_share(node: Node) -> bool:
    """`q / q.sum()`"""
    if node.op != "div" or len(node.inputs) != 2:
        return False
    return behind(node.inputs[1].source, SHAPES | {"clamp", "add"}, 3).op == "sum"


def _own_inputs(view: View, label: Node, prediction: Node) -> bool:
    """Has each side something of its own that it is computed from: another view of the data?"""
    mine, its = _sources(view, label), _sources(view, prediction)
    return bool(mine - its) and bool(its - mine) or _other_rows(label, prediction)


def _other_rows(label: Node, prediction: Node) -> bool:
    """Are they other rows of one answer? Several views went through the network as one batch."""
    mine, its = _rows_of(label), _rows_of(prediction)
    return any(mine[whole].isdisjoint(its[whole]) for whole in mine.keys() & its.keys())


def _rows_of(node: Node) -> dict[Node, set[str]]:
    """What a value is taken out of, along the first axis, and which rows of it."""
    found: dict[Node, set[str]] = {}
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST_ROWS:
        current = waiting.pop()
        if _takes_rows(current):
            found.setdefault(current.inputs[0].source, set()).add(current.detail)
        elif current.op not in ON_THE_WAY | NORMALISED | {"log_softmax"}:
            continue
        sources = [edge.source for edge in current.inputs if edge.kind == DATA and edge.source not in seen]
        seen.update(sources)
        waiting += sources
    return found


def _takes_rows(node: Node) -> bool:
    """A slice of the first axis, or one of the parts that an array is cut into along it."""
    if node.op != "getitem" or not node.inputs or node.detail.startswith("[("):
        return False
    whole = node.inputs[0].source
    cut = whole.op == "reshape" and "sections" in whole.detail and "axis" not in whole.detail
    return cut or "slice" in node.detail or ":" in node.detail


def _of_a_teacher(view: View, label: Node, prediction: Node) -> bool:
    """Are the labels those of a network that this loss does not train, and the prediction one's that it does? What
    gradient passes through the teacher is to change what it is asked about."""
    analysis = view.analysis
    mine, its = analysis.dep(label), analysis.dep(prediction)
    weights = parameters(analysis)
    return bool(mine & ~its & weights & ~view.live(label)) and bool(view.live(prediction) & ~mine & weights)


def _sources(view: View, node: Node) -> set[Node]:
    """The inputs and the random draws that a value is computed from; what a loss is differentiated for is no data."""
    kinds = ("input", "arg") if view.sink.kind == "library" else ("input",)
    found: set[Node] = set()
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST:
        current = waiting.pop()
        if current.op == "random" or current.leaf is not None and current.leaf.kind in kinds:
            found.add(current)
        for edge in current.inputs:
            if edge.kind == DATA and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found


def _mirrors(view: View, label: OwnLabel, other: OwnLabel) -> bool:
    """Does the other term label the other way round?"""
    return _sources(view, label.label) == _sources(view, other.prediction) and _sources(
        view, label.prediction
    ) == _sources(view, other.label)
