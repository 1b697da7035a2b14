"""A divergence from a reference policy, estimated of single actions and weighed with the ratio of the policy that chose
them: `exp(new - old) * (exp(ref - new) - (ref - new) - 1)`. What the reference said of an action is data in it like a
reward, and is none: the gradient of the product goes through both factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.marks import SHAPES, bare
from gradaudit.rules.criteria.score import THROUGH, is_log_probability
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

    from gradaudit.paths import View

MOST = 120


def references(view: View, score: Node, weight: Node) -> Set[Node]:
    """What a weight compares with the very log-probability whose ratio is the score: another policy's."""
    number = view.analysis.algebra.vn
    scored = {number(bare(part)) for gap in _exponents(score) for part in gap.arguments() if view.live(part)}
    if not scored:
        return frozenset()
    compared = {number(gap) for gap in _exponents(weight)}
    found: set[Node] = set()
    for gap in _inside(weight, "sub"):
        for one, other in (gap.arguments(), gap.arguments()[::-1]):
            if number(bare(one)) in scored and (number(gap) in compared or is_log_probability(other)):
                found.update(_shapes_of(other))
    return found


def _exponents(root: Node) -> Iterator[Node]:
    """The differences that `root` has the exponentials of."""
    for node in _inside(root, "exp"):
        inner = node.inputs[0].source
        for _ in range(8):
            if inner.op == "sub" or inner.op not in THROUGH or not inner.inputs:
                break
            inner = inner.inputs[0].source
        if inner.op == "sub" and len(inner.arguments()) == 2:
            yield inner


def _inside(root: Node, op: str) -> Iterator[Node]:
    seen, waiting = {root}, [root]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node.op == op and len(node.arguments()) in (1, 2):
            yield node
        for edge in node.inputs:
            if edge.kind == DATA and edge.source not in seen and node.leaf is None:
                seen.add(edge.source)
                waiting.append(edge.source)


def _shapes_of(node: Node) -> Iterator[Node]:
    """The value, and what it is but for its shape."""
    yield node
    while node.op in SHAPES and node.inputs:
        node = node.inputs[0].source
        yield node
