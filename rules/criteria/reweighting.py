"""K7 without rewards: factors that are made of the very similarities they act on.

A *reciprocal* weight `1 / (1 - p)` multiplies `log p`: it says how much a sample counts, and live it is another loss. A
*temperature* that is made of the mean of some logits divides them before a softmax: live, the loss trains it by way of
the logits. A *shift* `max(x)` under an exponential that is a summand of the loss, `exp(x - max(x))`, is its scale. A
*dual weight* is a softmax of values over a trained temperature that has its own dual in the program,
`temperature * (bound + logsumexp(values / temperature))`: that alone trains it. Not meant: powers of p (a focal loss
is differentiated on purpose), p * log p, and values that are divided by their own norm, mean or deviation and go
elsewhere than into a softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.signs import signs
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import View

PROBABILITIES = frozenset({"exp", "softmax", "sigmoid"})
AFFINE = SHAPES | {"add", "sub", "neg", "mul", "clamp", "phi"}
BOUNDS = frozenset({"where", "maximum", "minimum", "clamp", "phi"})
SOFT = frozenset({"softmax", "log_softmax", "logsumexp", "cross_entropy"})


def reciprocal_weight(view: View, edges: list[Edge]) -> tuple[Node, Node] | None:
    """(weight, score) of a product `c / f(exp(s)) * s`."""
    for weight, score in (edges, edges[::-1]):
        below = _denominator(weight.source)
        if below is not None and view.live(below) and _is_probability_of(view, below, score.source):
            return weight.source, score.source
    return None


def _denominator(node: Node) -> Node | None:
    """What a constant is divided by."""
    for _ in range(8):
        sources = node.arguments()
        if node.op == "div" and len(sources) == 2 and constant(sources[0]) is not None:
            return sources[1]
        if node.op not in SHAPES | {"neg"} or not sources:
            return None
        node = sources[0]
    return None


def _is_probability_of(view: View, below: Node, score: Node) -> bool:
    """Is the exponential of the score, or the softmax whose logarithm it is, in the affine expression `below`?"""
    same = view.analysis.algebra.same
    score = _bare(score)
    for node in _affine(below):
        if node.op not in PROBABILITIES or not node.inputs:
            continue
        inner = _bare(node.inputs[0].source)
        if same(inner, score) or score.op == "log" and same(_bare(score.inputs[0].source), node):
            return True
    return False


def is_dual_weight(view: View, weight: Node) -> bool:
    """A softmax of constants over one trained leaf, which a product with the logsumexp of the same trains (MPO)."""
    for _ in range(6):
        if weight.op == "softmax" or weight.op not in SHAPES or not weight.inputs:
            break
        weight = weight.inputs[0].source
    mask = view.live(weight)
    if weight.op != "softmax" or not mask or mask & (mask - 1):
        return False
    return view.analysis.algebra.vn(_bare(weight.inputs[0].source)) in _in_duals(view, mask)


def _in_duals(view: View, mask: int) -> set[int]:
    """The value numbers of what stands under a logsumexp in products with this leaf."""
    key = ("duals", view, mask)
    known = view.analysis.cache.get(key)
    if not isinstance(known, set):
        known = view.analysis.cache[key] = {
            view.analysis.algebra.vn(_bare(node.inputs[0].source))
            for node in view.analysis.graph.nodes
            if node.op == "logsumexp" and node.inputs and view.analysis.alive(node) == mask
            if _times_leaf(view, node, mask)
        }
    return known


def _times_leaf(view: View, node: Node, mask: int) -> bool:
    """Whether sums and means of the value are multiplied with what is made of the leaf."""
    graph = view.analysis.graph
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 40:
        current = waiting.pop()
        for position in graph.users[graph.index[current]]:
            user = graph.nodes[position]
            others = [source for source in user.arguments() if source is not current]
            if user.op == "mul" and any(view.analysis.alive(source) == mask for source in others):
                return True
            if user.op in AFFINE | {"mean", "sum"} and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def own_temperature(view: View, node: Node) -> Node | None:
    """The mean, over everything, of a part of the logits that are divided at `node` by what is made of it."""
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op != "div" or len(data) != 2 or not all(edge.passes for edge in data):
        return None
    if not any(user.op in SOFT for user in _users(view, node)):
        return None
    scale = data[1].source
    if scale.op not in ("mul", "add"):  # a bare mean or norm is a normalisation
        return None
    for part in _affine(scale):
        if part.op == "mean" and not part.detail and part.inputs and view.live(part):
            if _holds(view, data[0].source, _bare(part.inputs[0].source)):
                return part
    return None


def own_shift(view: View, node: Node) -> Node | None:
    """The largest of some values, that is taken from them under an exponential which is itself a summand of the loss.

    Live, it is trained to change how much the summand weighs. Under a logarithm, or over a sum of such exponentials,
    it cancels.
    """
    if view.sink.kind == "library" and view.sink.loss.op not in ("mean", "sum"):
        return None  # handed out: what becomes of it is for the caller to say
    inner = node.inputs[0].source if node.op == "exp" and node.inputs else None
    data = [edge for edge in inner.inputs if edge.kind == DATA] if inner is not None and inner.op == "sub" else []
    if inner is None or len(data) != 2 or not data[1].passes or not view.live(data[1].source):
        return None
    shift = data[1].source
    if not _is_largest_of(shift, _bare(data[0].source)) or 0 in signs(view, node):
        return None
    return shift


def _is_largest_of(shift: Node, values: Node) -> bool:
    seen, waiting = {shift}, [shift]
    while waiting and len(seen) < 20:
        node = waiting.pop()
        if node.op in ("max", "amax") and any(_bare(edge.source) is values for edge in node.inputs):
            return True
        for edge in node.inputs if node.op in BOUNDS | SHAPES else ():
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _users(view: View, node: Node) -> Iterator[Node]:
    for user, _ in view.consumers(node):
        yield user
        if user.op in SHAPES:
            yield from (other for other, _ in view.consumers(user))


def _affine(node: Node) -> Iterator[Node]:
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 40:
        current = waiting.pop()
        yield current
        if current.op in AFFINE:
            for edge in current.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)


def _holds(view: View, logits: Node, part: Node) -> bool:
    """Are the logits, by shapes and joins alone, made of this value?"""
    seen, waiting = {logits}, [logits]
    while waiting and len(seen) < 40:
        node = waiting.pop()
        if node is part or view.analysis.algebra.same(node, part):
            return True
        if node.op in SHAPES | {"cat", "stack"}:
            for edge in node.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return False


def _bare(node: Node) -> Node:
    for _ in range(10):
        if node.op not in SHAPES or not node.inputs or node.op in ("gather", "getitem"):
            break
        node = node.inputs[0].source
    return node
