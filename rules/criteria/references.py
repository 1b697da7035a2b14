"""A copy that stays what it was when it was made: what else is trained is compared with it. Nothing is to train it, nor
what both are computed of: the lower layers of a model of which the upper ones were copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

MOST = 200


def copies_of(analysis: Analysis, leaves: int, learning: int) -> int:
    """Those of these leaves that were copied from what learns."""
    facts = roles(analysis)
    found = (leaf for leaf in analysis.leaves(leaves) if analysis.mask(facts.originals(leaf)) & learning)
    return analysis.mask(found)


def feeds_copy(analysis: Analysis, node: Node, learning: int) -> bool:
    """Is a copy, which nothing updates, computed with the value, before the layers of which it is one?"""
    facts, graph = roles(analysis), analysis.graph
    kept = analysis.mask(leaf for leaf in graph.leaves if leaf not in facts.updated) & ~learning
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST:
        for position in graph.users[graph.index[waiting.pop()]]:
            user = graph.nodes[position]
            if user in seen:
                continue
            layer = analysis.mask(edge.source for edge in user.inputs if edge.source.leaf is not None)
            if copies_of(analysis, layer & kept, learning):
                return True
            if not layer:  # a layer that learns makes something else of it
                seen.add(user)
                waiting.append(user)
    return False
