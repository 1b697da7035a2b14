"""K11: a network that predicts its own encoding of something else, and trains that encoding as well.

`predicted = dynamics(encoder(obs), action)`, `loss = mse(predicted, encoder(next_obs))`: the cheapest way to agree is
an encoder that says nothing. What keeps it from that is a reason to be silent: another use of the encoding (an inverse
model, negatives, a variance term, a sample that is decoded), or a reconstruction of what it encodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.bootstrap import is_bootstrap
from gradaudit.rules.criteria.discrepancy import ENTROPIES, Discrepancy, discrepancies, first_order
from gradaudit.rules.criteria.expand import constant, expand
from gradaudit.rules.criteria.marks import SHAPES, behind
from gradaudit.rules.criteria.place import private
from gradaudit.rules.criteria.units import direction
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 600
SAME = frozenset({"phi", "reshape", "cast"})
"""What leaves data what they are."""
OUTPUTS = frozenset({"module_call", "matmul", "call", "normalize", "layer_norm"})
ACTIVATIONS = frozenset({"tanh", "sigmoid", "activation", "softmax"})
PLAIN = frozenset({"getitem", "mean", "sum", "neg", "add", "sub", "phi", "where", "identity"})
"""Ways from a difference to a loss that leave its sign."""
DISTANCES = frozenset({"kl_divergence", "pairwise_distance", "cosine_embedding_loss"})
"""Divergences of distributions that are both learnt, and losses that say themselves which pairs are to differ."""


class SelfPrediction(NamedTuple):
    """`encoding` is what `prediction` is compared with at `node`; gradient reaches `leaves` through it."""

    view: View
    node: Node
    encoding: Node
    leaves: int


def self_predictions(analysis: Analysis) -> Iterator[SelfPrediction]:
    """Every live encoding that is made for a comparison with a prediction of itself, and for nothing else."""
    for view in analysis.views:
        if view.sink.kind == "library":
            continue
        meetings = [*discrepancies(view), *_cosines(view)]
        found = [one for meeting in meetings for one in _encoding(view, meeting)]
        if found and not any(_reconstructs(view, meeting, found) for meeting in meetings):
            yield from found


def _cosines(view: View) -> Iterator[Discrepancy]:
    """`(normalize(f1) * normalize(f2)).sum(-1)`: a cosine that is written out."""
    for node in first_order(view):
        if node.op == "mul" and len(node.inputs) == 2 and all(direction(edge.source) for edge in node.inputs):
            yield Discrepancy(node, (node.inputs[0], node.inputs[1]))


def _encoding(view: View, meeting: Discrepancy) -> Iterator[SelfPrediction]:
    if len(meeting.sides) != 2 or meeting.entropy or meeting.node.op in ENTROPIES | DISTANCES:
        return
    if not all(edge.passes for edge in meeting.sides) or _counts_by_itself(view, meeting.node):
        return
    for encoding, prediction in (meeting.sides, meeting.sides[::-1]):
        mine, its = view.live(encoding.source), view.live(prediction.source)
        if not mine or mine & ~its or mine == its or not given(view, encoding.source) - given(view, prediction.source):
            continue
        if not private(view, encoding.source, _again(view, meeting.node)) or not is_output(view, encoding.source):
            continue
        total, against = expand(view.analysis, encoding.source), expand(view.analysis, prediction.source)
        if is_bootstrap(view, total, against, False) or is_bootstrap(view, against, total, False):
            continue
        if not _predicts(view, prediction.source, mine):
            continue
        yield SelfPrediction(view, meeting.node, encoding.source, mine)


def _counts_by_itself(view: View, meeting: Node) -> bool:
    """Is the difference that is squared somewhere a term of the loss as it is, too? Its sides are meant to be apart."""
    difference = behind(meeting, SHAPES | {"pow", "square", "getitem"})
    seen, waiting = {difference}, [difference] if difference.op == "sub" else []
    while waiting:
        node = waiting.pop()
        if node is view.sink.loss:
            return True
        for user, _ in view.consumers(node):
            if user.op in SHAPES | PLAIN and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _again(view: View, node: Node) -> set[Node]:
    """This comparison, in every round of a loop."""
    here = (node.op, node.location)
    return {one for one in view.slice if (one.op, one.location) == here}


def _predicts(view: View, prediction: Node, encoders: int) -> bool:
    """Does anything else that learns work on an encoding? Where all of it comes before, the two are compared by their
    features: a perceptual loss.
    """
    for node in view.backward(prediction):
        sources = [edge.source for edge in node.inputs if edge.passes]
        encoded = any(view.live(source) & encoders and source.leaf is None for source in sources)
        if encoded and any(view.live(source) and not view.live(source) & encoders for source in sources):
            return True
    return False


def is_output(view: View, node: Node) -> bool:
    """A network's output, as it is, activated or normalised: nothing else was added to it."""
    for _ in range(12):
        if node.frame is not None or node.op in OUTPUTS:
            return True
        vector = direction(node)
        if vector is not None:
            node = vector
            continue
        if node.op not in SHAPES | ACTIVATIONS | {"div"}:
            return node.op == "add" and any(part.op == "matmul" for part in node.arguments())
        if not node.inputs:
            return False
        node = node.inputs[0].source
    return False


def _reconstructs(view: View, meeting: Discrepancy, found: list[SelfPrediction]) -> bool:
    """Is what is encoded here compared with something learnt, as it is?"""
    encoded = {number for one in found for number in given(view, one.encoding)}
    return any(not _learnt(view, side.source) and given(view, side.source) & encoded for side in meeting.sides)


def given(view: View, node: Node) -> set[int]:
    """What a value is computed from, as the first networks take it, and where they take one of several, each of these:
    value numbers of data.
    """
    found: set[int] = set()
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST:
        current = waiting.pop()
        if not _learnt(view, current):
            if constant(current) is None:
                found.add(view.analysis.algebra.vn(current))
            if current.op not in SAME:
                continue
        for edge in current.inputs:
            if edge.kind == DATA and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found


def _learnt(view: View, node: Node) -> bool:
    leaves = view.analysis.leaves(view.analysis.dep(node))
    return any(leaf.leaf is not None and leaf.leaf.kind in ("param", "arg") for leaf in leaves)
