"""Samples that a loss looks through and gradient cannot: `sample()` where the objective goes through the draw, or where
the draw is what is regressed on data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import meetings_at
from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.foreign import covered
from gradaudit.rules.criteria.marks import SUMS
from gradaudit.rules.criteria.roles import parameters
from gradaudit.rules.criteria.sites import frames
from gradaudit.rules.criteria.weight import is_probability
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

ENDS = frozenset("stop compare argmax argmin argsort sample cast shape one_hot round floor ceil sign".split())
"""Operations that no gradient passes, or (a cast) that may be such."""


DISCRETE = (
    "categorical",
    "bernoulli",
    "onehot",
    "binomial",
    "poisson",
    "multinomial",
    "geometric",
    "epsilon",
    "greedy",
)


def dead_samples(analysis: Analysis) -> list[tuple[View, Node, int]]:
    """Draws from a continuous distribution of what a loss trains, that enter a network which the loss goes through, or
    are themselves compared with data."""
    known = analysis.cache.get("dead samples")
    if not isinstance(known, list):
        known = analysis.cache["dead samples"] = [found for view in analysis.views for found in _in_view(view)]
    return known


def _in_view(view: View) -> Iterator[tuple[View, Node, int]]:
    own = view.own
    if not own or view.sink.kind == "library":
        return
    analysis = view.analysis
    targets: set[Node] | None = None
    for node in analysis.graph.nodes:
        if node.op != "sample" or not node.inputs or not node.grad_mode or node.time > view.sink.time:
            continue
        dist = node.inputs[0].source
        leaves = analysis.alive(dist) & own
        discrete = is_probability(dist) or any(word in dist.detail.lower() for word in DISCRETE)
        if not leaves or discrete or analysis.alive(node):
            continue
        area = _forward(view, node)
        if area is None:
            continue
        scores = _scores(view, node, dist)
        if scores and not (all(_is_summand(view, one) for one in scores) and _enters(node, _worth(view, area))):
            continue
        if not _enters(node, area):
            leaves &= ~_fed(analysis)  # a draw that is regressed: another loss may be there to train its maker
            if not leaves or not compared_with_data(analysis, area):
                continue
        targets = covered(view) if targets is None else targets
        if not area & targets:
            yield view, node, leaves


def _enters(sample: Node, area: set[Node]) -> bool:
    """Whether the draw flows into a network that did not make it."""
    home = set(frames(sample))
    return any(node.op == "module_call" and set(frames(node)) - home for node in area)


def _fed(analysis: Analysis) -> int:
    """Everything that some loss trains."""
    mask = 0
    for view in analysis.every_view:
        mask |= view.live(view.sink.loss)
    return mask


def compared_with_data(analysis: Analysis, area: set[Node]) -> bool:
    """Whether one of these values is the prediction of a regression on data that no parameter has made."""
    trained = parameters(analysis)
    for node in area:
        for meeting in meetings_at(analysis, node):
            if len(meeting.sides) != 2 or meeting.entropy:
                continue
            for mine, other in (meeting.sides, meeting.sides[::-1]):
                if mine.source in area and not analysis.dep(other.source) & trained and constant(other.source) is None:
                    return True
    return False


def _forward(view: View, sample: Node) -> set[Node] | None:
    """What the draw flows into without a stop, if the loss is among that; None otherwise."""
    graph = view.analysis.graph
    seen, waiting, ends = {sample}, [sample], False
    while waiting:
        node = waiting.pop()
        ends = ends or node is view.sink.loss
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            if user in seen or not any(edge.source is node and _carries(view, user, edge) for edge in user.inputs):
                continue
            seen.add(user)
            waiting.append(user)
    return seen if ends else None


def _carries(view: View, user: Node, edge: Edge) -> bool:
    """Whether gradient would pass here if the value had any: a run shows none where there is none to pass."""
    if edge.kind != DATA or edge.passes:
        return edge.passes and edge.kind == DATA
    return user.grad_mode and user.op not in ENDS and not view.analysis.alive(edge.source)


def _scores(view: View, sample: Node, dist: Node) -> list[Node]:
    """The log-probabilities of the draw in the loss. Weighed with something, they make it a score function's draw; one
    that is only added, as an entropy is, follows nothing that the draw is worth."""
    return [
        node
        for node in view.slice
        if node.op == "log_prob"
        and (node.inputs[0].source is dist or any(_from(edge.source, sample) for edge in node.inputs))
    ]


def _worth(view: View, area: set[Node]) -> set[Node]:
    """What is made of the draw and reaches the loss past its log-probability."""
    seen, waiting = {view.sink.loss}, [view.sink.loss]
    while waiting:
        node = waiting.pop()
        for edge in node.inputs:
            if edge.source in area and edge.source not in seen and edge.source.op != "log_prob":
                if _carries(view, node, edge):
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return seen


def _is_summand(view: View, node: Node) -> bool:
    """Whether all ways of this value to the loss are sums, means and constant factors."""
    seen, waiting = {node}, [node]
    while waiting:
        for user, edge in view.consumers(waiting.pop()):
            others = [each.source for each in user.inputs if each is not edge]
            if user.op not in SUMS and not (user.op in ("mul", "div") and all(map(_is_setting, others))):
                return False
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return True


def _is_setting(node: Node) -> bool:
    """A number, or a free scalar: a temperature and what is made of it."""
    while node.op in ("exp", "stop", "softplus", "neg", "clamp", "getitem", "reshape") and node.inputs:
        node = node.inputs[0].source
    scalar = node.leaf is not None and node.leaf.kind == "param" and node.leaf.scalar
    return constant(node) is not None or scalar


def _from(node: Node, origin: Node) -> bool:
    for _ in range(8):
        if node is origin:
            return True
        if not node.inputs:
            return False
        node = node.inputs[0].source
    return False
