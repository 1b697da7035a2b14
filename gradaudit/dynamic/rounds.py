"""One loss in several rounds of an update: a later round shows where an old value was made, the first one its use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradaudit.dynamic.judgement import Judgement
from gradaudit.tape import Location, Node

Line = tuple[str, int]
OF_VALUES = frozenset(("GA101", "GA105", "GA201", "GA206"))
"""Codes of leaks through a value that was made before the update."""


def told_again(rounds: Sequence[tuple[Location, Sequence[Judgement]]]) -> set[int]:
    """Identities of the judgements that a later round of the same loss tells better.

    `rounds` are the losses of an update in order: where each is differentiated, and what was found there.
    """
    found: set[int] = set()
    for number, (place, judgements) in enumerate(rounds):
        later = [one for other, many in rounds[number + 1 :] if other == place for one in many]
        lines = [_line(one.finding.location) for one in later if one.finding.code in OF_VALUES]
        for judgement in judgements:
            mine = _line(judgement.finding.location)
            told = judgement.finding.code in OF_VALUES and mine not in lines
            if told and judgement.nodes and any(_cured(judgement.nodes, line) for line in lines):
                found.add(id(judgement))
    return found


def _cured(nodes: Sequence[Node], line: Line) -> bool:
    """Whether the values get no gradient into any parameter but by way of this line."""
    seen, waiting, passed = set(nodes), list(nodes), False
    while waiting:
        node = waiting.pop()
        if node.leaf is not None and node.leaf.kind == "param":
            return False
        if line in _lines(node):
            passed = True
            continue
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return passed


def _lines(node: Node) -> Iterator[Line]:
    yield _line(node.location)
    call = node.call
    while call is not None:
        yield _line(call.location)
        call = call.parent


def _line(location: Location) -> Line:
    return location.path, location.line
