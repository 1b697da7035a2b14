"""K1: where a prediction meets its target.

A library's regression or cross-entropy loss, a difference that is squared (or made absolute, or put into huber by
hand), a cross-entropy by hand (`target * log p`, summed), and, in a library function without a caller, a difference
that is returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

LOSSES = frozenset({
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "cross_entropy", "nll_loss", "binary_cross_entropy",
    "kl_div", "kl_divergence", "cosine_similarity", "squared_error", "l2_loss",
    "binary_cross_entropy_with_logits", "gaussian_nll_loss", "poisson_nll_loss", "pairwise_distance",
    "soft_margin_loss", "cosine_embedding_loss", "unknown_loss",
})  # fmt: skip
DIVERGENCES = frozenset({"kl_div", "kl_divergence"})
ENTROPIES = frozenset({
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div",
})  # fmt: skip
SQUARES = frozenset({"square", "abs", "norm", "huber", "cosh", "logcosh", "log_cosh"})
LOGS = frozenset({"log", "log_softmax", "logsigmoid"})
MEETS = LOSSES | SQUARES | {"pow", "log", "mul"}
MOST_RESULTS = 3
"""A function that returns more than these hands out parts, no error whose square is the caller's loss."""
SCALES = SHAPES | {"neg", "clamp", "nan_to_num", "mean", "sum", "maximum", "relu"}


class Discrepancy(NamedTuple):
    """`sides` are the two operands that meet at `node`; one side only where the difference is no difference of two."""

    node: Node
    sides: tuple[Edge, ...]
    entropy: bool = False

    @property
    def of_distributions(self) -> bool:
        """Whether probabilities are compared: a target may be a distribution over returns."""
        return self.entropy or self.node.op in DIVERGENCES

    @property
    def labelled(self) -> tuple[Edge, ...]:
        """(the label, the prediction) of a cross-entropy: a library's loss is given the prediction first."""
        return self.sides if self.node.op in ("mul", "log") else self.sides[::-1]


def discrepancies(view: View) -> list[Discrepancy]:
    """Every discrepancy in the slice of one sink, in order of time."""
    found: dict[Node, Discrepancy] = {}
    for node in [node for node in first_order(view) if node.op in MEETS]:
        for entry in meetings_at(view.analysis, node):
            found.setdefault(entry.node, entry)
    if view.sink.kind == "library" and len(view.analysis.tape.sinks) <= MOST_RESULTS:
        for part in _returned(view.sink.loss):
            found.setdefault(part.node, part)
    return list(found.values())


def first_order(view: View) -> list[Node]:
    """The slice without what is reached only through a gradient that is part of the loss (an inner update's loss)."""
    known = view.analysis.cache.get(("first order", view))
    if known is None:
        seen = {view.sink.loss}
        waiting = [view.sink.loss]
        while waiting:
            node = waiting.pop()
            if node.op == "gradient":
                continue
            for edge in node.inputs:
                if edge.passes and edge.source not in seen and view.reaches(edge.source):
                    seen.add(edge.source)
                    waiting.append(edge.source)
        known = view.analysis.cache["first order", view] = [node for node in view.slice if node in seen]
    assert isinstance(known, list)
    return known


def meetings_at(analysis: Analysis, node: Node) -> list[Discrepancy]:
    """The discrepancies that one operation makes, live or not."""
    return _at(analysis, node) if node.op in MEETS else []


def _at(analysis: Analysis, node: Node) -> list[Discrepancy]:
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op in LOSSES and len(data) >= 2:
        if node.op in DIVERGENCES and len(data) % 2 == 0:  # a run has each parameter of both distributions
            data = [data[0], data[len(data) // 2]]
        for one, other in ((data[0], data[1]), (data[1], data[0])):
            if constant(_bare(other.source)) is not None or other.source.op == "alloc":
                return _difference(one.source)
        return [Discrepancy(node, (data[0], data[1]), node.op in ENTROPIES)]
    if node.op in SQUARES and data:
        return _difference(data[0].source)
    if node.op == "pow" and len(data) >= 1 and (len(data) == 1 or not _is_root(constant(data[1].source))):
        return _difference(data[0].source)
    if node.op == "log" and data and data[0].source.op == "pow":  # log(p ** -t): a cross-entropy, too
        power = [edge for edge in data[0].source.inputs if edge.kind == DATA]
        if len(power) == 2 and constant(power[1].source) is None:
            return [Discrepancy(node, (power[1], power[0]), True)]
    if node.op == "mul" and len(data) == 2:
        if data[0].source is data[1].source:
            return _difference(data[0].source)
        for one, other in ((data[0], data[1]), (data[1], data[0])):
            if _is_log(other.source) and not _is_log(one.source):
                return [Discrepancy(node, (one, other), True)]
    return []


def _is_root(exponent: float | None) -> bool:
    """No square: the value itself, its root, or the inverse of either."""
    return exponent is not None and abs(exponent) in (1.0, 0.5)


def _difference(value: Node, weighted: bool = True) -> list[Discrepancy]:
    """The difference behind a squared value, through shapes, scales and (if `weighted`) products."""
    found = []
    seen = {value}
    waiting = [value]
    while waiting and len(seen) < 40:
        node = waiting.pop()
        data = [edge for edge in node.inputs if edge.kind == DATA]
        sources = [edge.source for edge in data]
        if node.op == "sub" and len(data) == 2 and not _is_zero(data[1].source):
            found.append(Discrepancy(node, (data[0], data[1])))
            continue
        if node.op == "add" and len(data) == 2:
            found.append(Discrepancy(node, (Edge(node),)))
            continue
        if node.op in SCALES or node.op in ("div", "pow", "sub"):
            sources = sources[:1]
        elif node.op not in ("mul", "phi", "where", "store", "stack", "cat") or (node.op == "mul" and not weighted):
            continue
        for source in sources:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return found


def _is_zero(node: Node) -> bool:
    """The target of a library's `loss(error)`: nothing meets here, the error is what is squared."""
    bare = _bare(node)
    return constant(bare) == 0.0 or bare.op == "alloc"


def _returned(loss: Node) -> list[Discrepancy]:
    if _accumulates(loss):
        return []
    return _difference(loss, weighted=False)  # a weighted difference that is returned is an advantage


def _accumulates(value: Node) -> bool:
    """An array that is filled in a loop with sums of what it already holds: advantages, or returns, over time."""
    writes, seen, waiting = [], {value}, [value]
    while waiting and len(seen) < 40:
        node = waiting.pop()
        if node.op in SHAPES | {"store", "phi"}:
            writes += [node] if node.op == "store" else []
            fresh = [edge.source for edge in node.inputs[:2] if edge.source not in seen]
            seen.update(fresh)
            waiting += fresh
    return any(_holds(part.source, write) for write in writes for part in write.inputs[1:])


def _holds(value: Node, container: Node) -> bool:
    """Is the value made of the container, as an earlier round of the loop left it?"""
    seen, waiting = {value}, [value]
    while waiting and len(seen) < 60:
        for edge in waiting.pop().inputs:
            if edge.source is container:
                return True
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _bare(node: Node) -> Node:
    for _ in range(6):
        if node.op not in SHAPES or not node.inputs:
            break
        node = node.inputs[0].source
    return node


def _is_log(node: Node) -> bool:
    for _ in range(6):
        if node.op in LOGS:
            return True
        if node.op not in SHAPES | {"clamp"} or not node.inputs:
            return False
        node = node.inputs[0].source
    return False
