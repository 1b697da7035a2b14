"""Samples that a loss looks through and gradient cannot: `sample()` where the objective goes through the draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.foreign import covered
from gradaudit.rules.criteria.sites import frames
from gradaudit.rules.criteria.weight import is_probability
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

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
    """Draws from a continuous distribution of what a loss trains, that enter a network which the loss goes through."""
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
        if area is None or _is_scored(view, node, dist):
            continue
        targets = covered(view) if targets is None else targets
        if not area & targets:
            yield view, node, leaves


def _forward(view: View, sample: Node) -> set[Node] | None:
    """What the draw flows into without a stop, if that is a network and the loss; None otherwise."""
    graph = view.analysis.graph
    home = set(frames(sample))
    seen, waiting, enters, ends = {sample}, [sample], False, False
    while waiting:
        node = waiting.pop()
        ends = ends or node is view.sink.loss
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            if user in seen or not any(
                edge.passes and edge.source is node and edge.kind == DATA for edge in user.inputs
            ):
                continue
            seen.add(user)
            waiting.append(user)
            enters = enters or (user.op == "module_call" and bool(set(frames(user)) - home))
    return seen if enters and ends else None


def _is_scored(view: View, sample: Node, dist: Node) -> bool:
    """Whether the loss has the log-probability of the draw: then it is a score function's draw."""
    return any(
        node.op == "log_prob"
        and (node.inputs[0].source is dist or any(_from(edge.source, sample) for edge in node.inputs))
        for node in view.slice
    )


def _from(node: Node, origin: Node) -> bool:
    for _ in range(8):
        if node is origin:
            return True
        if not node.inputs:
            return False
        node = node.inputs[0].source
    return False
