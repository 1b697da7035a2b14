"""Products of a policy-gradient loss: a score (log-probability or probability ratio) and what it is weighted with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import first_order
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.marks import SHAPES, behind, marks
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import View

LOG_PROBABILITIES = frozenset({
    "log_prob", "log_softmax", "cross_entropy", "nll_loss", "binary_cross_entropy",
    "categorical_importance_sampling_ratios",
})  # fmt: skip
OPAQUE = frozenset({"call", "getitem", "module_call", "gather", "reshape"})
NAMED = re.compile(r"log_?p(rob|i)?(s|$|_)|logp", re.IGNORECASE)
LIVE_SHAPES = SHAPES - {"stop"}
THROUGH = SHAPES | {"neg", "clamp", "sum", "mean", "minimum", "maximum", "min", "max", "where", "phi", "cat", "stack"}


class Product(NamedTuple):
    node: Node
    score: Node
    weight: Node


def products(view: View) -> Iterator[Product]:
    """Every product of a live score and a live weight in the slice."""
    for node in first_order(view):
        if node.op != "mul":
            continue
        data = [edge for edge in node.inputs if edge.kind == DATA and edge.passes and view.live(edge.source)]
        if len(data) != 2 or data[0].source is data[1].source:
            continue
        for one, other in ((data[0], data[1]), (data[1], data[0])):
            if is_score(one.source) and (
                not is_score(other.source) or (_has_data(view, other.source) and not _has_data(view, one.source))
            ):
                yield Product(node, one.source, other.source)
                break


def swapped_products(view: View) -> Iterator[tuple[Node, Node]]:
    """Every product of a stopped log-probability and a live advantage, a return less a value: the stop is on the wrong
    factor. The product, and the stop."""
    facts = marks(view.analysis)
    for node in first_order(view):
        data = [edge.source for edge in node.inputs if edge.kind == DATA]
        if node.op != "mul" or len(data) != 2:
            continue
        for stopped, weight in (data, data[::-1]):
            stop = behind(stopped, LIVE_SHAPES)
            if stop.op != "stop" or not stop.inputs or not view.analysis.alive(stop.inputs[0].source):
                continue
            score = behind(stop.inputs[0].source, LIVE_SHAPES)
            if is_score(weight):
                continue  # a log-probability weighed by one less a value: what is stopped is the weight
            if is_log_probability(score) and any(
                _has_data(view, arm) and facts.network(arm) for arm in _alternatives(weight)
            ):
                yield node, stop


def _alternatives(node: Node) -> list[Node]:
    """What a switch chooses from (a temperature that is learnt, or a number), or the value itself."""
    arms = [edge for edge in node.inputs if edge.kind == DATA] if node.op == "phi" else []
    return [edge.source for edge in arms] if arms and all(edge.guard for edge in arms) else [node]


def _has_data(view: View, node: Node) -> bool:
    """Is a reward among its summands, or what may be one: data that nothing is multiplied with?"""
    facts = marks(view.analysis)
    atoms = expand(view.analysis, node).atoms
    return any(atom.raw and (not atom.factor or facts.reward(atom.node)) for atom in atoms)


def is_score(node: Node) -> bool:
    """A log-probability, or a ratio of probabilities, behind shapes, clips and joins."""
    seen = {node}
    waiting = [node]
    while waiting and len(seen) < 60:
        current = waiting.pop()
        if current.op in LOG_PROBABILITIES or _is_ratio(current) or _is_log_of_probability(current):
            return True
        if current.op == "stop":
            continue  # a constant weight, whatever it is called
        if current.op == "call" and NAMED.search(current.detail.split(".")[-1]):
            return True
        if current.op in OPAQUE and current.name and NAMED.search(current.name):
            return True
        if current.op in THROUGH:
            sources = [edge.source for edge in current.inputs if edge.kind == DATA]
        elif current.op in ("mul", "add", "sub"):
            sources = [edge.source for edge in current.inputs if edge.kind == DATA]
            if current.op == "mul" and len(sources) == 2:
                sources = [source for source in sources if source.op in THROUGH | LOG_PROBABILITIES | {"exp", "log"}]
        else:
            continue
        for source in sources:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _is_log_of_probability(node: Node) -> bool:
    """`log(pi.gather(1, a))` of a softmax output."""
    if node.op != "log" or not node.inputs:
        return False
    inner = node.inputs[0].source
    for _ in range(8):
        if inner.op in ("softmax", "sigmoid"):
            return True
        if inner.op not in SHAPES | {"clamp", "add", "sum", "phi"} or not inner.inputs:
            return False
        inner = inner.inputs[0].source
    return False


def _is_ratio(node: Node) -> bool:
    if node.op != "exp" or not node.inputs:
        return False
    inner = node.inputs[0].source
    for _ in range(8):
        if inner.op == "sub":
            return any(is_log_probability(source) for source in inner.arguments())
        if inner.op not in THROUGH or not inner.inputs:
            return False
        inner = inner.inputs[0].source
    return False


def is_log_probability(node: Node) -> bool:
    seen = {node}
    waiting = [node]
    while waiting and len(seen) < 40:
        current = waiting.pop()
        if current.op in LOG_PROBABILITIES or _is_log_of_probability(current):
            return True
        callee = current.detail.split(".")[-1] if current.op == "call" else ""
        if NAMED.search(callee) or NAMED.search(current.name):
            return True
        if current.op in THROUGH or current.op in ("add", "sub", "mul", "store", "pack"):
            for edge in current.inputs:
                if edge.kind == DATA and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False
