"""K10: a running estimate that the same loss uses as a factor, with gradient.

`new = momentum * old + (1 - momentum) * f(x)`, old from an earlier call, and then a term `x @ new`: the estimate is to
be a constant to x. A loss that only measures the estimate (a decorrelation penalty) has no other way to x and is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.expand import constant
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

PRODUCTS = frozenset({"mul", "div", "matmul", "einsum", "dot", "bmm"})
ROWS = frozenset({"getitem", "gather", "reshape", "cast", "clone", "index_select"})
CARRIED = frozenset({"stop", "phi", "reshape", "cast", "clone", "getitem", "store", "pack", "copy", "where"})


class Estimate(NamedTuple):
    """`node` mixes what an earlier call left with the live `value`; `use` multiplies it with what it is made of."""

    view: View
    node: Node
    value: Node
    use: Node
    leaves: int


def live_estimates(analysis: Analysis) -> Iterator[Estimate]:
    """Every such estimate, once for a place in the text."""
    told = set()
    for view in analysis.views:
        for node in view.slice:
            if node.location in told:
                continue
            value = _mixed(view, node)
            leaves = view.live(value) if value is not None else 0
            use = _factor(view, node, leaves) if leaves else None
            if value is not None and use is not None:
                told.add(node.location)
                yield Estimate(view, node, value, use, leaves)


def _mixed(view: View, node: Node) -> Node | None:
    """The live summand of a convex combination whose other summand is an earlier result of the same line."""
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op == "lerp" and len(data) >= 2:
        pairs = [(data[0], data[1])]
    elif node.op == "add" and len(data) == 2 and _convex(view, data[0].source, data[1].source):
        pairs = [(data[0], data[1]), (data[1], data[0])]
    else:
        return None
    for old, new in pairs:
        if new.passes and view.live(new.source) and not view.live(old.source) and _is_earlier(node, old.source):
            return new.source
    return None


class Averaged(NamedTuple):
    """`leaf`, a parameter that gradient reaches, is what `node` averages and what the program then writes."""

    view: View
    node: Node
    leaf: Node


def averaged_parameters(analysis: Analysis) -> Iterator[Averaged]:
    """Prototypes that follow by averaging and still require gradient, once each."""
    written = {
        leaf
        for event in analysis.tape.events
        if event.kind in ("copy", "soft_update") and not any(_is_parameter(source) for source in event.sources)
        for leaf in event.leaves
        if event.location.line and not (leaf.leaf is not None and leaf.leaf.copied_from)
    }
    told = set()
    for view in analysis.views if written else ():
        for node in view.slice:
            leaf = _averages(view, node)
            if leaf is not None and leaf in written and leaf not in told:
                told.add(leaf)
                yield Averaged(view, node, leaf)


def _is_parameter(node: Node) -> bool:
    return node.leaf is not None and node.leaf.kind == "param"


def _averages(view: View, node: Node) -> Node | None:
    """The parameter itself, or rows of it, that a convex combination with something else decays."""
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op != "add" or len(data) != 2 or not _convex(view, data[0].source, data[1].source):
        return None
    for edge in data:
        for factor in _factors(edge.source):
            bare = factor.source
            while bare.leaf is None and bare.op in ROWS and bare.inputs:
                bare = bare.inputs[0].source
            if _is_parameter(bare) and view.live(factor.source):
                return bare
    return None


def _convex(view: View, one: Node, other: Node) -> bool:
    """Two products whose factors add up to one."""
    return any(_complement(view, first.source, second.source) for first in _factors(one) for second in _factors(other))


def _factors(node: Node) -> list[Edge]:
    for _ in range(4):
        if node.op not in ("div", "neg", "reshape") or not node.inputs:
            break
        node = node.inputs[0].source
    return [edge for edge in node.inputs if edge.kind == DATA] if node.op == "mul" else []


def _complement(view: View, one: Node, other: Node) -> bool:
    first, second = constant(one), constant(other)
    if first is not None and second is not None:
        return abs(first + second - 1.0) < 1e-6
    number = view.analysis.algebra.vn
    for rest, part in ((one, other), (other, one)):
        sources = rest.arguments()
        if rest.op == "sub" and len(sources) == 2 and constant(sources[0]) == 1.0:
            if number(sources[1]) == number(part):
                return True
    return False


def _is_earlier(node: Node, old: Node) -> bool:
    """Is an earlier result of this very line in `old`, kept by whatever storage, stopped or not?"""
    seen, waiting = {old}, [old]
    while waiting and len(seen) < 60:
        current = waiting.pop()
        if current.location == node.location and current.op == node.op and current.time < node.time:
            return True
        if current is old or current.op in CARRIED or current.op == "mul":
            for edge in current.inputs:
                if edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False


def _factor(view: View, node: Node, leaves: int) -> Node | None:
    """Where the estimate meets, as a factor, a value that gradient goes through to the same leaves."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 80:
        current = waiting.pop()
        for user, edge in view.consumers(current):
            if user in seen:
                continue
            seen.add(user)
            others = [each.source for each in user.inputs if each is not edge and each.passes and each.kind == DATA]
            if user.op in PRODUCTS and any(view.live(other) & leaves for other in others if other not in seen):
                return user
            waiting.append(user)
    return None
