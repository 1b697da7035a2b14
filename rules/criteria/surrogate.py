"""Estimators that have one value and another gradient, told by the sum that they are written as.

`z + stop(q - z)` has the value of q and the gradient of z; `g * s + stop(g) * (1 - s)` has the value of g and a part
of its gradient. Without the stop the sum is only what it says; with the stop on the wrong term it is the soft value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.bootstrap import REGRESSION, leaks
from gradaudit.rules.criteria.selfcancel import Cancellation, cancellations, is_hard, older_side
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MISSING, WRONG_TERM, DOUBLED, REVERSED, WHOLE = "missing", "wrong term", "doubled", "reversed", "whole"
BOUNDS = frozenset({"clamp", "minimum", "maximum", "fake_quantize"})


class Surrogate(NamedTuple):
    """`node` is the sum; `side` is what should have been stopped; `leaves` lose their gradient."""

    view: View
    node: Node
    side: Node
    kind: str
    leaves: int


def broken_surrogates(analysis: Analysis) -> Iterator[Surrogate]:
    """Every sum that was to be an estimator and is none."""
    told = set()
    for found in cancellations(analysis):
        if found.surrogate and found.node not in told and not _is_error(found):
            told.add(found.node)
            yield Surrogate(found.view, found.node, older_side(found), MISSING, found.leaves)
    for node in analysis.graph.nodes:
        if node.op == "add" and node not in told:
            yield from _wrong_term(analysis, node)
            yield from _reversed(analysis, node)
            yield from _doubled(analysis, node)
            yield from _scaled(analysis, node)
        elif node.op == "stop":
            yield from _whole(analysis, node)


def _is_error(found: Cancellation) -> bool:
    """`(value - (advantage + value)) ** 2`: the error of a prediction whose own target contains it, no estimator."""
    if found.node.op != "sub":
        return False
    targets = (leak.uses for leak in leaks(found.view.analysis) if REGRESSION in leak.kinds)
    return any(use.value in found.node.arguments() for uses in targets for use in uses)


def _wrong_term(analysis: Analysis, node: Node) -> Iterator[Surrogate]:
    """`q + stop(z - q)`: the value is z's, and the gradient that z should have had is gone."""
    form = analysis.algebra.lin(node)
    forward = form.forward()
    if len(forward) != 1 or len(form.terms) != 3:
        return
    soft = next(term for term in form.terms if term.vn in forward)
    leaves = analysis.alive(soft.node)
    if soft.passes or not leaves or soft.node.leaf is not None:  # rows of a table are what is looked up
        return
    for plus, minus in form.cancelled():
        if (
            plus.passes != minus.passes
            and is_hard(analysis, plus.node, leaves)
            and _of_one_origin(analysis, plus.node, soft.node, leaves)
        ):
            view = view_of(analysis, node)
            if view is not None and view.mask & leaves:
                yield Surrogate(view, node, node, WRONG_TERM, leaves & view.mask)


def _of_one_origin(analysis: Analysis, hard: Node, soft: Node, leaves: int) -> bool:
    """Is the one made of a value that the other one has its gradient through? What an earlier layer has made of the
    same leaves is no version of this layer's value.
    """
    live = {node for node in _before(soft, True) if node.leaf is None and analysis.alive(node) & leaves}
    return not live.isdisjoint(_before(hard, False))


def _before(node: Node, with_gradient: bool) -> set[Node]:
    """What a value is made of, in order of time: not what comes round a loop."""
    seen, waiting = {node}, [node]
    while waiting:
        current = waiting.pop()
        for edge in current.inputs:
            if edge.source.time < current.time and edge.source not in seen and (edge.passes or not with_gradient):
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def _reversed(analysis: Analysis, node: Node) -> Iterator[Surrogate]:
    """`q - z + stop(z)`: the value is q's, and z gets the gradient with the wrong sign."""
    form = analysis.algebra.lin(node)
    forward = form.forward()
    if len(forward) != 1 or len(form.terms) != 3:
        return
    hard = next(term for term in form.terms if term.vn in forward)
    for plus, minus in form.cancelled():
        leaves = analysis.alive(minus.node)
        if minus.passes and not plus.passes and leaves and is_hard(analysis, hard.node, leaves):
            view = view_of(analysis, node)
            if view is not None and view.live(minus.node):
                yield Surrogate(view, node, node, REVERSED, view.live(minus.node))


def _whole(analysis: Analysis, node: Node) -> Iterator[Surrogate]:
    """`stop(z + q - z)`: the difference alone was to be stopped."""
    inner = node.inputs[0].source if node.inputs else node
    if inner.op not in ("add", "sub"):
        return
    form = analysis.algebra.lin(inner)
    pairs = form.cancelled()  # several where z is a sum itself: a product and its bias
    if len(form.forward()) != 1 or not pairs or len(form.terms) != 2 * len(pairs) + 1:
        return
    view = view_of(analysis, node) if all(plus.passes and minus.passes for plus, minus in pairs) else None
    if view is None:
        return
    leaves = 0
    for plus, _ in pairs:
        leaves |= analysis.alive(plus.node) & view.mask
    if leaves:
        yield Surrogate(view, node, node, WHOLE, leaves)


def _doubled(analysis: Analysis, node: Node) -> Iterator[Surrogate]:
    """`x - stop(x) + clamp(x)`: the value is the clamped one, and x gets gradient from both."""
    algebra = analysis.algebra
    form = algebra.lin(node)
    forward, pairs = form.forward(), form.cancelled()
    if len(forward) != 1 or not pairs or len(form.terms) != 2 * len(pairs) + 1:
        return
    kept = next(term for term in form.terms if term.vn in forward)
    if not kept.passes or kept.node.op not in BOUNDS or any(b.passes for _, b in pairs):
        return
    if not all(a.passes or not analysis.alive(a.node) for a, _ in pairs):
        return
    soft = {plus.vn: plus.coefficient for plus, _ in pairs}
    bounded = [edge.source for edge in kept.node.inputs if edge.passes and algebra.lin(edge.source).forward() == soft]
    view = view_of(analysis, node)
    if view is not None and bounded and view.live(bounded[0]):
        yield Surrogate(view, node, kept.node, DOUBLED, view.live(bounded[0]))


def _scaled(analysis: Analysis, node: Node) -> Iterator[Surrogate]:
    """`g * s + g * (1 - s)`, both live: a complicated way to write g."""
    form = analysis.algebra.lin(node)
    if len(form.terms) < 2 or form.constant or len({term.node for term in form.terms}) != 1:
        return
    value, forward = form.terms[0].node, form.forward()
    if len(forward) != 1 or abs(next(iter(forward.values())) - 1.0) > 1e-9:
        return
    if analysis.algebra.vn(value) not in forward or not all(term.passes for term in form.terms):
        return
    view = view_of(analysis, node)
    if view is not None and view.live(value) and any(_is_scaled(part) for part in node.arguments()):
        yield Surrogate(view, node, node, MISSING, view.live(value))


def _is_scaled(node: Node) -> bool:
    return node.op in ("mul", "div")


def view_of(analysis: Analysis, node: Node) -> View | None:
    """A sink that depends on the node, with gradient or without."""
    graph = analysis.graph
    losses = {view.sink.loss: view for view in reversed(analysis.views)}
    seen, waiting = {node}, [node]
    while waiting:
        current = waiting.pop()
        if current in losses:
            return losses[current]
        for position in graph.users[graph.index[current]]:
            user = graph.nodes[position]
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return None
