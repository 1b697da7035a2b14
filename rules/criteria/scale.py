"""Coefficients that gradient reaches (K7): what is known of each, and those that are a scale of the term that they
multiply.

A *norm* is a scalar made of a value over the whole batch that multiplies a term made of the same value: live, it
cancels what it scales. A *balance* brings a term to the size of another value, and trains that to change its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import LOSSES
from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.tape import DATA, Edge, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import View

REDUCTIONS = frozenset({"mean", "sum", "norm", "std", "var", "max", "min", "logsumexp"})
SHAPED = SHAPES | {"neg", "clamp", "abs", "sqrt", "add", "sub", "mul", "div", "maximum", "phi", "pow", "square", "mean"}
PEELED = SHAPES | {"clamp", "where", "minimum", "maximum", "phi", "mul", "div", "neg", "activation", "stack", "cat"}
ADVANTAGE, IMPORTANCE, NORM, BALANCE = "advantage", "importance", "norm", "balance"
AXIS = re.compile("dim=|axis=")
ENTRY = re.compile(r"""\[(['"].*|-?\d+\]$)""")


class Weight(NamedTuple):
    """`weight` multiplies `term` at `node`, and gradient reaches `leaves` through it."""

    view: View
    node: Node
    weight: Node
    term: Node
    kind: str
    leaves: int


def norms(view: View, node: Node, edges: list[Edge]) -> Iterator[Weight]:
    """The scale that a product or quotient holds, if gradient reaches it."""
    for factor, term in (edges, edges[::-1]):
        if node.op == "div" and factor is not edges[1]:
            continue
        scale = _reduced(factor.source, inverted=node.op == "div")
        size = _magnitude(factor.source)
        value = scale or size
        if value is None or not is_reduced_term(view, node, term.source):
            continue
        if view.sink.kind == "library" and not _is_reduction(term.source):
            continue  # what a function returns is normalised, not scaled
        leaves = view.live(value)
        if _is_correction(view, factor.source, term.source):
            continue
        if node.op == "div" and _bare(term.source).op in ("exp", "softmax"):
            continue  # exp(x) / exp(x).sum(): shares of a whole
        if view.sink.kind == "library" and view.live(term.source) & ~leaves:
            continue  # a mask that is counted is no size of what it masks
        # (x - mean) / std is a standardised value, no term and its scale
        balances = size is not None and _is_reduction(term.source) and view.live(term.source) & leaves
        if leaves and scale is not None and _contains(view, term.source, value, sums=node.op != "div"):
            yield Weight(view, node, factor.source, term.source, NORM, leaves)
            return
        if balances:
            yield Weight(view, node, factor.source, term.source, BALANCE, leaves)
            return


def _is_correction(view: View, divisor: Node, term: Node) -> bool:
    """`n / (n - 1)`: a count by itself, but for a number."""
    algebra = view.analysis.algebra
    over, under = algebra.lin(term), algebra.lin(divisor)
    return over.constant != under.constant and over.forward() == under.forward()


def _reduced(node: Node, inverted: bool) -> Node | None:
    """The value that a scalar scale is made of: `constant / mean(|q|)`, or the divisor `mean(|q|)` itself."""
    for _ in range(10):
        data = [edge for edge in node.inputs if edge.kind == DATA]
        if not data:
            return None
        if node.op == "div" and len(data) == 2 and data[1].passes:
            node, inverted = data[1].source, True
        elif node.op == "pow" and len(data) == 2:
            node, inverted = data[0].source, True
        elif node.op in REDUCTIONS and len(data) == 1 and _is_full(node):
            return _bare(data[0].source) if inverted else None
        elif node.op == "quantile" and not re.search(r"(dim|axis)=(?!None)|, *-?\d", node.detail):
            return _bare(data[0].source) if inverted else None
        elif _is_entry(node):
            if data[0].source.op != "quantile":  # one of several percentiles is one
                return None
            node = data[0].source
        elif node.op in SHAPED:
            live = [edge for edge in data if edge.passes and edge.source.leaf is None and edge.source.op != "const"]
            if not live:
                return None
            node = live[0].source
        else:
            return None
    return None


def _magnitude(node: Node) -> Node | None:
    """The value whose mean of absolute values this is made of: how large it is, a size to bring another term to."""
    for _ in range(10):
        data = [edge.source for edge in node.inputs if edge.kind == DATA]
        if node.op in REDUCTIONS and len(data) == 1:
            inner = data[0]
            while inner.op in SHAPES and inner.inputs:
                inner = inner.inputs[0].source
            return _bare(inner) if inner.op == "abs" and _is_full(node) else None
        if node.op not in SHAPED | {"div", "pow"} or not data:
            return None
        made = [source for source in data if source.leaf is None and constant(source) is None]
        node = (made or data)[0]
    return None


def scale_of(weight: Weight) -> Location:
    """Where the scale of a norm is made. What it is made of, the term needs with its gradient."""
    node = weight.weight
    while node.op in SHAPES | {"neg"} and node.inputs:
        node = node.inputs[0].source
    return node.location


def _is_reduction(node: Node) -> bool:
    """A term of a loss: something reduced, or a library's regression loss."""
    for _ in range(8):
        if node.op in ("mean", "sum") or node.op in LOSSES:
            return True
        if node.op not in PEELED or not node.inputs:
            return False
        node = (
            node.inputs[0].source
            if len(node.inputs) == 1
            else next((source for source in node.arguments() if constant(source) is None), node.inputs[0].source)
        )
    return False


def _is_full(node: Node) -> bool:
    """A reduction over everything: no axis is named."""
    return not re.search(
        AXIS.pattern + r"|\d", node.detail.replace("ord=1", "").replace("ord=2", "").replace("p=1", "")
    )


def _is_entry(node: Node) -> bool:
    return node.op == "getitem" and ENTRY.match(node.detail) is not None


def _bare(node: Node) -> Node:
    """The value behind shapes; an entry that was asked for by its name or number is a value of its own."""
    for _ in range(10):
        if node.op not in SHAPES | {"abs", "square", "neg"} or not node.inputs or _is_entry(node):
            break
        node = node.inputs[0].source
    return node


def _contains(view: View, term: Node, value: Node, sums: bool) -> bool:
    """Whether the term is the value, or an equal one, by sums, shapes and means: not a weighted mean of something."""
    number = view.analysis.algebra.vn(value)
    whole = view.analysis.algebra.vn(value.inputs[0].source) if _is_entry(value) else number
    seen, waiting, entered = {term}, [term], False
    while waiting and len(seen) < 60:
        node = waiting.pop()
        if view.analysis.algebra.vn(node) == number:
            return True
        if view.analysis.algebra.vn(node) == whole and not entered:
            return True  # its first member gives all of an ensemble its scale
        entered = entered or _is_entry(node)
        if (node.op in ("mul", "div") and not is_scaled(node)) or (node.op in ("add", "sub") and not sums):
            continue
        if node.op in SHAPED | REDUCTIONS | {"minimum", "where", "stack", "cat"}:
            for edge in node.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False


def is_reduced_term(view: View, node: Node, term: Node) -> bool:
    """Whether the product is a term of the loss: it reaches it by sums, means and constant factors alone."""
    linear = {"add", "sub", "neg", "mean", "sum", "mul", "div", "phi", "reshape", "cast", "stack", "getitem", "pack"}
    return all(step.op in linear for step in view.way_to_loss(node)[1:])


def is_scaled(node: Node) -> bool:
    """A product with a constant."""
    return any(constant(source) is not None for source in node.arguments())
