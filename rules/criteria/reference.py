"""Reference policies: the fixed model that a policy's log-probabilities are compared with (DPO, GRPO, RLHF's KL)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.branches import reinforcement
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.marks import SHAPES, marks
from gradaudit.rules.criteria.preference import preference_ratios
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View
    from gradaudit.rules.criteria.foreign import Foreign

DIVERGENCES = frozenset({"kl_divergence", "kl_div"})
SUMS = SHAPES | {"add", "sub", "neg", "sum", "mean", "mul", "div", "stack", "cat", "clamp", "phi", "where"}


def is_reference(flow: Foreign) -> bool:
    """A model that nobody steps, in a ratio of log-probabilities of actions or tokens, or in a policy's divergence."""
    if flow.held:
        return False
    joint, analysis = flow.joint, flow.view.analysis
    if joint.op in DIVERGENCES:
        return reinforcement(analysis) and not any(
            leaf in roles(analysis).updated for leaf in analysis.leaves(flow.leaves)
        )
    behind = flow.view.backward(flow.value, flow.leaves)
    return any(is_log_ratio(analysis, node) for node in (joint, *behind))


def is_log_ratio(analysis: Analysis, node: Node) -> bool:
    """A difference of two log-probabilities of chosen actions, or one that a preference is made of."""
    data = node.arguments()
    if node.op != "sub" or len(data) != 2:
        return False
    return all(scores_actions(source) for source in data) or node in preference_ratios(analysis)


def scores_actions(node: Node) -> bool:
    """The log-probability of chosen actions or tokens, not of a whole distribution."""
    seen, waiting = {(node, False)}, [(node, False)]
    while waiting and len(seen) < 80:
        current, chosen = waiting.pop()
        if current.op == "log_prob" or (current.op == "log_softmax" and chosen):
            return True
        if current.op == "log" and chosen:
            return True
        if current.op not in SUMS:
            continue
        picks = chosen or current.op == "gather" or (current.op == "getitem" and len(current.inputs) > 1)
        for edge in current.inputs:
            if edge.kind == DATA and (edge.source, picks) not in seen:
                seen.add((edge.source, picks))
                waiting.append((edge.source, picks))
    return False


def trained_references(view: View) -> Iterator[tuple[Node, Node]]:
    """Differences of two models' log-probabilities that train both, with the side that is the reference: by its name or
    as a copy, and where no optimizer is known, or two answers are compared, as the one that is taken away."""
    for node in view.slice:
        data = [edge for edge in node.inputs if edge.kind == DATA and edge.passes]
        if node.op not in DIVERGENCES | {"sub"} or len(data) != 2:
            continue
        first, second = view.live(data[0].source), view.live(data[1].source)
        own = view.mask if view.own is None else view.own
        if not (first & own and second & own) or first & second:
            continue
        sides = [edge.source for edge in data]
        if node.op == "sub" and not is_log_ratio(view.analysis, node):
            continue
        if node.op in DIVERGENCES and not reinforcement(view.analysis) and not _policies(view):
            continue
        named = [
            side
            for side, leaves, others in zip(sides, (first, second), (second, first), strict=True)
            if _is_fixed(view.analysis, side, leaves, others)
        ]
        if len(named) == 1 and not expand(view.analysis, named[0]).affine:  # that is a target, shifted by rewards
            yield node, named[0]
        elif node.op == "sub" and not named and (view.own is None or node in preference_ratios(view.analysis)):
            yield node, sides[1]  # the policy's, less what it is compared with: no preference is learnt by both


def _policies(view: View) -> bool:
    """Does this loss train by the log-probability of actions?"""
    return any(node.op == "mul" and any(scores_actions(source) for source in node.arguments()) for node in view.slice)


def _is_fixed(analysis: Analysis, side: Node, leaves: int, others: int) -> bool:
    """Whether one side is the reference: as the user states, by its name, or as a copy of the other."""
    facts = roles(analysis)
    stated = {facts.stated(leaf) for leaf in analysis.leaves(leaves)}
    if stated <= {"frozen", "trained"} and len(stated) == 1:
        return stated == {"frozen"}
    return _named(analysis, side, leaves) or _copies(analysis, leaves, others)


def _copies(analysis: Analysis, leaves: int, others: int) -> bool:
    facts = roles(analysis)
    return all(analysis.mask(facts.originals(leaf)) & others for leaf in analysis.leaves(leaves))


def _named(analysis: Analysis, side: Node, leaves: int) -> bool:
    facts = roles(analysis)
    found = analysis.leaves(leaves)
    roled = any(all(facts.named(leaf, role) for leaf in found) for role in ("teacher", "target", "ema"))
    return roled or marks(analysis).named(side, "old")
