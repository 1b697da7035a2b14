"""Two players and one gradient: the judge's loss trains the one who is judged, too.

A generator raises what a judge says of its output, the judge lowers it; each loss has to leave the other player alone.
Where one tree holds both players, or one backward serves both, nothing but a stop tells them apart. The one who is
judged is known by a loss that holds the judge constant: a loss that trains the judge on the same output, with the other
sign, undoes what that one asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.expand import constant, filled
from gradaudit.rules.criteria.foreign import Foreign, flows_of
from gradaudit.rules.criteria.marks import SUMS, bare
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import DATA, PARAMETER, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

LAYERS = frozenset({"module_call", "matmul", "add", "call"})
RISING = SUMS | {"stack", "cat", "phi", "activation", "softplus", "relu", "logsigmoid", "sigmoid", "log", "exp", "tanh"}
LABELLED = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss"})
"""Losses that bring an answer to its label: up to a one, down to a zero."""
MOST = 400
NEAR = 40


class Judged(NamedTuple):
    """What a network says of values, as the loss of `view` has it: raised (-1) or lowered (1)."""

    view: View
    node: Node
    sign: int
    trained: frozenset[Node]
    """The trees that the loss trains by it."""
    constant: frozenset[Node]
    """Those that it takes as they are."""
    head: frozenset[Node]
    """Those of the layer that says it."""


def adversaries(analysis: Analysis) -> Iterator[Foreign]:
    """Gradient of a judge's loss into the one who is judged, where the judge is trained by that loss as well."""
    said = [one for view in analysis.views if view.sink.kind != "library" for one in judged(view)]
    for view in dict.fromkeys(one.view for one in said):
        mine = [one for one in said if one.view is view]
        found: set[Node] = set()
        for one in mine:
            found |= {tree for other in said if other.sign == -one.sign for tree in _undone(one, other)}
        if found and not _both_ways(mine, found):
            leaves = view.live(view.sink.loss)
            players = analysis.mask(leaf for leaf in analysis.leaves(leaves) if _tree(analysis, leaf) in found)
            yield from flows_of(view, players, leaves & ~players)


def _undone(one: Judged, other: Judged) -> frozenset[Node]:
    """What `other` trains by a judge that it holds constant, and `one` trains along with this judge."""
    judge = one.trained & one.head & other.constant
    return one.trained & other.trained if judge else frozenset()


def _both_ways(said: list[Judged], players: set[Node]) -> bool:
    """Does the loss lower some of what they make and raise some, as a comparison of features does?"""
    return len({one.sign for one in said if one.trained & players and one.trained - players}) > 1


def judged(view: View) -> Iterator[Judged]:
    """The networks' answers that are summands of the loss, behind functions that rise."""
    analysis = view.analysis
    waiting = [(view.sink.loss, 1)]
    seen = set(waiting)
    while waiting and len(seen) < MOST:
        node, sign = waiting.pop()
        if node.op in LAYERS and _is_layer(analysis, node):
            trained = view.live(node) & (view.own if view.own is not None else ~0)
            rest = analysis.dep(node) & ~trained
            head = _trees(analysis, weights(view, node))
            yield Judged(view, node, sign, _trees(analysis, trained), _trees(analysis, rest), head)
            continue
        steps = _answers(view, node) if node.op in LABELLED else [(edge, _sign(node, edge)) for edge in node.inputs]
        for edge, its in steps:
            item = (edge.source, sign * its)
            if item[1] and edge.passes and view.live(edge.source) and item not in seen:
                seen.add(item)
                waiting.append(item)


def _answers(view: View, loss: Node) -> list[tuple[Edge, int]]:
    """The answers that a loss compares with labels of one kind each: raised to a one, lowered to a zero."""
    data = [edge for edge in loss.inputs if edge.kind == DATA]
    if len(data) < 2:
        return []
    answer, label = data[:2]
    labels = _parts(label.source)
    if len(labels) < 2:
        return [(answer, _direction(label))]
    if len(answers := _parts(answer.source)) == len(labels):
        return [(one, _direction(its)) for one, its in zip(answers, labels, strict=True)]
    given = _joined(view, answer.source, len(labels))  # one call for a batch of both kinds
    signs = {_direction(its) for one, its in zip(given, labels, strict=False) if one.passes and view.live(one.source)}
    return [(answer, signs.pop())] if len(signs) == 1 else []


def _direction(label: Edge) -> int:
    number = filled(label.source)
    return 0 if number in (None, 0.5) else 1 if number < 0.5 else -1


def _parts(node: Node) -> list[Edge]:
    """The parts of a batch that was put together."""
    node = bare(node)
    return [edge for edge in node.inputs if edge.kind == DATA] if node.op == "cat" else []


def _joined(view: View, answer: Node, count: int) -> list[Edge]:
    """The parts of the batch that the answer is of, if it was put together of so many."""
    for _ in range(NEAR):
        parts = _parts(answer)
        if len(parts) == count:
            return parts
        before = [one for one in answer.arguments() if view.live(one)]
        if not before:
            break
        answer = before[0]
    return []


def _is_layer(analysis: Analysis, node: Node) -> bool:
    """Does it take parameters itself? A bias that is added to a product does."""
    return node.op != "add" or any(
        edge.source.leaf is not None and edge.source.leaf.kind in ("param", "arg") for edge in node.inputs
    )


def weights(view: View, node: Node) -> int:
    """The parameters of the layer that makes a value: a call, or a product and the bias that is added to it."""
    near = node.arguments() if node.op == "add" else []
    parts = [source for source in near if source.op in ("matmul", "module_call", "reshape") and source.leaf is None]
    edges = [edge for one in (node, *parts) for edge in one.inputs]
    return view.analysis.mask(edge.source for edge in edges if edge.kind == PARAMETER or edge.source.leaf is not None)


def _sign(user: Node, edge: Edge) -> int:
    data = [each for each in user.inputs if each.kind == DATA]
    if user.op == "neg" or user.op == "sub" and len(data) == 2 and edge is data[1]:
        return -1
    if user.op in ("mul", "div"):
        others = [each.source for each in data if each is not edge]
        known = [constant(other) for other in others]
        if any(value is None and other.op != "const" for value, other in zip(known, others, strict=True)):
            return 0
        return -1 if sum(value is not None and value < 0 for value in known) % 2 else 1
    return 1 if user.op in RISING and edge.kind == DATA else 0


def _trees(analysis: Analysis, leaves: int) -> frozenset[Node]:
    return frozenset(_tree(analysis, leaf) for leaf in analysis.leaves(leaves) if leaf.leaf is not None)


def _tree(analysis: Analysis, leaf: Node) -> Node:
    """What stands for the parameters in every loss that differentiates them."""
    tree: Node = roles(analysis).versions.get(leaf, leaf)
    return tree
