"""K11: teachers that a loss trains by mistake.

One is in evaluation mode for good: it makes the labels of a comparison, whose predictions are made by a network that is
trained in training mode. Another one is known by this alone: all gradient that its network gets comes by way of the
soft labels it makes for another network's answer. Whoever is trained by nothing else learns to be easy to predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.branches import reinforcement
from gradaudit.rules.criteria.discrepancy import discrepancies, meetings_at
from gradaudit.rules.criteria.labels import is_answer
from gradaudit.rules.criteria.roles import is_made_here, parameters, roles
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


class Teacher(NamedTuple):
    """`labels` are made with `leaves`, evaluated and stepped; `node` compares them with another network's output."""

    view: View
    node: Node
    labels: Node
    leaves: int


def trained_teachers(analysis: Analysis) -> Iterator[Teacher]:
    """Every such teacher, once for a loss."""
    evaluated = analysis.mask(roles(analysis).evaluated)
    if not evaluated or reinforcement(analysis):
        return
    for view in analysis.views:
        teacher = _in_view(view, evaluated & (view.own or 0))
        if teacher is not None:
            yield teacher


def _in_view(view: View, evaluated: int) -> Teacher | None:
    for meeting in discrepancies(view) if evaluated else ():
        if len(meeting.sides) != 2:
            continue
        for labels, prediction in (meeting.sides, meeting.sides[::-1]):
            theirs, ours = view.live(labels.source), view.live(prediction.source)
            if labels.passes and prediction.passes and theirs and not theirs & ~evaluated and ours & ~evaluated:
                return Teacher(view, meeting.node, labels.source, theirs)
    return None


class Beside(NamedTuple):
    """The call of a fixed network at `node`, on the very input of one that learns: gradient reaches its `leaves`."""

    view: View
    node: Node
    leaves: int


def fixed_beside_learners(analysis: Analysis) -> Iterator[Beside]:
    """Networks that are kept in evaluation mode and that nobody holds, called on the input of another network that
    is not, with gradient: teachers, whatever their output is compared with.
    """
    facts = roles(analysis)
    evaluated = analysis.mask(facts.evaluated - facts.held)
    if not evaluated or reinforcement(analysis):
        return
    told: set[Node] = set()
    for view in analysis.views:
        calls = [node for node in view.slice if node.op == "module_call" and node not in told]
        for node in calls:
            mine = _own_leaves(view, node)
            if not mine or mine & ~evaluated or any(_goes_through(view, one, mine) for one in calls):
                continue
            if any(_learns_on(view, node, one, evaluated) for one in calls):
                told.add(node)
                yield Beside(view, node, mine)


def random_answers(analysis: Analysis) -> Iterator[Beside]:
    """What a learner is compared with (RND): the answer to the same input of networks that every optimizer leaves
    out, and that are no copies of anything."""
    tape, facts = analysis.tape, roles(analysis)
    if not tape.optimizers or not all(optimizer.complete for optimizer in tape.optimizers):
        return
    held, kinds = analysis.mask(facts.held), parameters(analysis)
    told = 0
    for view in analysis.views:
        for meeting in discrepancies(view) if view.own is not None else ():
            if len(meeting.sides) != 2 or meeting.of_distributions or not all(side.passes for side in meeting.sides):
                continue  # who agrees on a distribution may be a peer, with an optimizer elsewhere
            for answer, prediction in (meeting.sides, meeting.sides[::-1]):
                theirs, ours = view.live(answer.source), view.live(prediction.source)
                if not theirs or theirs & (held | ours | ~kinds | told) or not ours or ours & ~(view.own or 0):
                    continue
                leaves = analysis.leaves(theirs)
                if any(facts.is_copy(leaf) or leaf in facts.evaluated or not is_made_here(leaf) for leaf in leaves):
                    continue
                if _given(view, answer.source) & _given(view, prediction.source):
                    told |= theirs
                    yield Beside(view, answer.source, theirs)


def _given(view: View, value: Node) -> set[object]:
    """The data that the networks behind a value are given."""
    calls = (node for node in view.backward(value) if node.op == "module_call")
    data = (source for node in calls for source in node.arguments() if not view.live(source))
    return {view.analysis.algebra.vn(source) for source in data}


def _own_leaves(view: View, node: Node) -> int:
    """The parameters that the call itself takes; none where something that learns is in its input."""
    kinds = parameters(view.analysis)
    given = any(view.live(source) & kinds for source in node.arguments())
    return 0 if given else view.live(node) & kinds


def _goes_through(view: View, node: Node, leaves: int) -> bool:
    """Is the network also given what others make with gradient? Then it judges their outputs (a perceptual loss)."""
    takes = any(view.analysis.bit(edge.source) & leaves for edge in node.inputs)
    return takes and not _own_leaves(view, node)


def _learns_on(view: View, node: Node, other: Node, evaluated: int) -> bool:
    number = view.analysis.algebra.vn
    if not _own_leaves(view, other) & ~evaluated:
        return False
    return [number(source) for source in node.arguments()] == [number(source) for source in other.arguments()]


KEPT = frozenset({"div", "mul", "sub", "log_softmax", "log", "clamp", "cast", "where", "neg", "reshape", "identity"})
"""What a whole distribution goes through; a gather or an index takes one class of it."""


def trained_labels(analysis: Analysis) -> Iterator[Teacher]:
    """Networks that get gradient as the makers of soft labels and in no other way."""
    if reinforcement(analysis):
        return
    held = analysis.mask(leaf for one in analysis.tape.optimizers for leaf in one.leaves)
    for view in analysis.views:
        for node in view.slice if view.sink.kind != "library" else ():
            for label, prediction in _soft_labels(analysis, node):
                theirs, ours = view.live(label.source), view.live(prediction.source)
                if (
                    theirs
                    and ours
                    and not theirs & (ours | held)
                    and is_answer(analysis, label)
                    and only_here(view, node, theirs)
                ):
                    yield Teacher(view, node, label.source, theirs)


def _soft_labels(analysis: Analysis, node: Node) -> Iterator[tuple[Edge, Edge]]:
    """(labels, log-probabilities) of all classes that meet in a cross-entropy or a divergence."""
    for meeting in meetings_at(analysis, node):
        if meeting.entropy and meeting.node is node and len(meeting.sides) == 2:
            label, prediction = meeting.labelled
            if label.passes and prediction.passes and (node.op != "mul" or _whole(prediction.source)):
                yield label, prediction
    data = [edge for edge in node.inputs if edge.kind == DATA and edge.passes]
    if node.op == "mul" and len(data) == 2:  # p * (log p - log q)
        for label, gap in (data, data[::-1]):
            parts = [edge for edge in gap.source.inputs if edge.kind == DATA and edge.passes]
            if gap.source.op == "sub" and len(parts) == 2 and _whole(parts[1].source):
                yield label, parts[1]


def _whole(node: Node) -> bool:
    """Whether it is the log-probability of every class."""
    for _ in range(10):
        if node.op == "log_softmax":
            return True
        if node.op not in KEPT or not node.inputs:
            return False
        node = node.inputs[0].source
    return False


def only_here(view: View, node: Node, leaves: int) -> bool:
    """Whether what is made of these leaves alone meets others on this line, and nowhere else."""
    for one in view.slice:
        mine = view.live(one)
        if not mine & leaves or not mine & ~leaves:
            continue
        taken = (edge.source for edge in one.inputs if edge.passes)
        joins = any(view.live(source) and not view.live(source) & ~leaves for source in taken)
        if joins and (one.location.path, one.location.line) != (node.location.path, node.location.line):
            return False
    return True
