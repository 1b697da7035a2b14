"""Which values rate an action, by structure: a network is given the very action whose log-probability is the score.

`q(s, a)` beside `log_prob(a)`, and `q(s)[a]` beside `log_softmax(logits)[a]`. An action that carries gradient itself
(`rsample`) is no decision that could be rated afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.expand import constant
from gradaudit.rules.criteria.marks import CHOICES, SHAPES, bare
from gradaudit.tape import INDEX, Node

if TYPE_CHECKING:
    from collections.abc import Collection

    from gradaudit.paths import Analysis, View

SUMS = SHAPES | {"neg", "add", "sub", "mul", "div", "sum", "mean", "clamp", "square", "pow", "cat", "stack", "one_hot"}
NETWORKS = frozenset({"module_call", "matmul"})
MOST = 300


def rates_action(view: View, score: Node, weight: Node, scored: Collection[Node]) -> bool:
    """Whether a network makes the weight out of the action that the score is of; `scored`: the distribution's own."""
    actions = {action for action in _actions(score) if not view.live(action) and constant(action) is None}
    if not actions:
        return False
    seen, waiting = {(weight, False)}, [(weight, False)]
    while waiting and len(seen) < MOST:
        node, inside = waiting.pop()
        inside = inside or node.op in NETWORKS
        chosen = node.op in SHAPES and any(edge.kind == INDEX and bare(edge.source) in actions for edge in node.inputs)
        if inside and bare(node) in actions or chosen and _by_network(node.inputs[0].source):
            return True
        if node.leaf is not None or (node.op in CHOICES and node not in actions):
            continue
        for edge in node.inputs:
            step = (edge.source, inside)
            if edge.kind != INDEX and step not in seen and (edge.source not in scored or bare(edge.source) in actions):
                seen.add(step)
                waiting.append(step)
    return False


def is_residual(view: View, node: Node) -> bool:
    """A difference whose two sides meet in a regression as well: how much better than predicted, an advantage."""
    arguments = node.arguments()
    if node.op != "sub" or len(arguments) != 2:
        return False
    number = view.analysis.algebra.vn
    return frozenset(number(bare(one)) for one in arguments) in _regressed(view.analysis)


def _regressed(analysis: Analysis) -> set[frozenset[int]]:
    """The pairs of values that meet in regressions of this tape."""
    known = analysis.cache.get("regressed pairs")
    if not isinstance(known, set):
        number = analysis.algebra.vn
        known = analysis.cache["regressed pairs"] = {
            frozenset(number(bare(side.source)) for side in meeting.sides)
            for view in analysis.views
            for meeting in discrepancies(view)
            if len(meeting.sides) == 2 and not meeting.entropy
        }
    return known


def _actions(score: Node) -> set[Node]:
    """What the log-probabilities in a score are of."""
    found: set[Node] = set()
    seen, waiting = {score}, [score]
    while waiting and len(seen) < 60:
        node = waiting.pop()
        if node.op == "log_prob" and len(node.inputs) > 1:
            found.add(bare(node.inputs[-1].source))
            continue
        found.update(bare(edge.source) for edge in node.inputs if edge.kind == INDEX)
        if node.op not in SUMS:
            continue
        for edge in node.inputs:
            if edge.kind != INDEX and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found


def _by_network(node: Node) -> bool:
    """Whether a network's layer makes the value, but for its shape."""
    return bare(node).op in NETWORKS
