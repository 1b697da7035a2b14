"""An advantage by its own baseline, `x - sum(p * x)`: values of all actions, less what the policy `p` makes of them.

    sum(p * advantage), log p * advantage     the policy is trained by its score: the advantage is a constant
    sum(relu(advantage))                      the policy is trained by the baseline: the values are constants

Where the policy is a constant, or made of the very values (a soft maximum), nothing is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.discrepancy import first_order
from gradaudit.rules.criteria.marks import SHAPES, bare
from gradaudit.rules.criteria.scale import is_scaled
from gradaudit.rules.criteria.weight import is_likelihood, is_probability
from gradaudit.tape import DATA, INDEX, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

KEEPS = SHAPES | {"neg", "clamp", "activation", "relu", "maximum"}
"""What an advantage may pass before it is multiplied with a score."""


class Rated(NamedTuple):
    """At `node` the loss of `view` takes `value` with gradient into `leaves`: an advantage, or the values it is of."""

    view: View
    node: Node
    value: Node
    leaves: int


def rated_by_baseline(analysis: Analysis) -> Iterator[Rated]:
    """Every such advantage, or its values, that the loss of a policy trains."""
    for view in analysis.views:
        if view.sink.kind == "library":
            continue
        for node in first_order(view):
            policy = _policy(view, node)
            if policy is None:
                continue
            weighed = _weighed(view, node)
            values = node.inputs[0].source
            beside = view.live(values) & ~view.live(policy)
            if weighed is not None:
                yield Rated(view, weighed[0], weighed[1], view.live(weighed[1]))
            elif beside and node.inputs[0].passes and _of_all(values):
                yield Rated(view, node, values, beside)


def _policy(view: View, node: Node) -> Node | None:
    """The live probabilities under which the mean of what stands before is taken away."""
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op != "sub" or len(data) != 2 or not data[1].passes:
        return None
    total = bare(data[1].source)
    if total.op != "sum" or not total.inputs:
        return None
    product = bare(total.inputs[0].source)
    factors = product.arguments()
    if product.op != "mul" or len(factors) != 2:
        return None
    number = view.analysis.algebra.vn
    for policy, values in (factors, factors[::-1]):
        same = number(bare(values)) == number(bare(data[0].source))
        if same and is_probability(policy) and view.live(policy) and view.reaches(policy):
            return None if bare(values) in _behind(policy) else policy
    return None


def _weighed(view: View, advantage: Node) -> tuple[Node, Node] | None:
    """The product of the advantage with a live score or probability, and the operand that it is."""
    seen, waiting = {advantage}, [advantage]
    while waiting:
        one = waiting.pop()
        for user, edge in view.consumers(one):
            if user.op == "mul" and not is_scaled(user):
                others = [other for other in user.inputs if other is not edge and other.kind == DATA]
                if any(view.live(other.source) and other.passes and _scores(view, other.source) for other in others):
                    return user, one
            elif (user.op in KEEPS or user.op == "mul") and user not in seen:
                seen.add(user)
                waiting.append(user)
    return None


def _scores(view: View, node: Node) -> bool:
    while node.op == "neg" and node.inputs:
        node = node.inputs[0].source
    return is_probability(node) or is_likelihood(view, node)


def _of_all(values: Node) -> bool:
    """Whether these are the values of all actions: none was chosen."""
    while values.op in SHAPES and values.inputs:
        if values.op == "gather" or any(edge.kind == INDEX for edge in values.inputs):
            return False
        values = values.inputs[0].source
    return True


def _behind(node: Node) -> set[Node]:
    """What a value is made of."""
    seen, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().arguments():
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen
