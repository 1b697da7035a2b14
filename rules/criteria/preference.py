"""The preference of one answer over another, by two models: `logsigmoid(beta * ((p1 - p2) - (r1 - r2)))` (DPO).

What makes it one is that each model says how much it is for the one and against the other, whatever the values are
called and however the four are put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

OF_MARGINS = frozenset({"logsigmoid", "sigmoid"})
ON_THE_WAY = frozenset({"sub", "add", "mul", "neg", "div", "phi", "reshape", "cast"})
MOST = 40


def preference_ratios(analysis: Analysis) -> set[Node]:
    """The differences that preferences between two answers by two models are made of."""
    known = analysis.cache.get("preferences")
    if not isinstance(known, set):
        found: set[Node] = set()
        for node in () if OF_MARGINS.isdisjoint(analysis.graph.ops) else analysis.graph.nodes:
            margin = node.inputs[0].source if node.op in OF_MARGINS and node.inputs else None
            if margin is not None and margin.op in ON_THE_WAY and _of_two_models(analysis, margin):
                found |= _differences(margin)
        known = analysis.cache["preferences"] = found
    return known


def _of_two_models(analysis: Analysis, logits: Node) -> bool:
    """Two sets of parameters, none of them in both, each in terms that would be zero if the answers were one."""
    weights: dict[int, float] = {}
    count: dict[int, int] = {}
    for term in analysis.algebra.lin(logits).terms:
        leaves = analysis.dep(term.node) & analysis.alive(logits) if term.passes else 0
        if not leaves:
            return False
        weights[leaves] = weights.get(leaves, 0.0) + term.coefficient
        count[leaves] = count.get(leaves, 0) + 1
    masks = list(weights)
    return (
        len(masks) == 2
        and not masks[0] & masks[1]
        and all(abs(weight) < 1e-9 for weight in weights.values())
        and set(count.values()) == {2}
    )


def _differences(logits: Node) -> set[Node]:
    found: set[Node] = set()
    seen, waiting = {logits}, [logits]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node.op == "sub":
            found.add(node)
        for edge in node.inputs if node.op in ON_THE_WAY else ():
            if edge.passes and edge.kind == DATA and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found
