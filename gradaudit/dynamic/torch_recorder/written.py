"""Parameters that a run writes from other ones: the copies and soft updates of a function that is a whole update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.dynamic.torch_recorder.ops import SET_DATA, in_place
from gradaudit.dynamic.torch_recorder.updates import Entry
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.dynamic.torch_recorder.tracer import Tracer

ALIASES = frozenset("data detach view reshape view_as __get__".split())
"""What gives a parameter's storage another name."""


def writes(tracer: Tracer) -> list[Entry]:
    """An entry for every write into a parameter of what is computed from others, in order of time."""
    tensors = dict(tracer.unseen_leaves)
    storage = {node: node for node in tensors if node.leaf is not None and node.leaf.kind == "param"}
    found: list[Entry] = []
    for node in sorted(tracer.place, key=lambda node: node.time):
        name = tracer.sites[tracer.place[node][0]]
        leaf = storage.get(node.inputs[0].source) if node.inputs else None
        if leaf is None or not (name in ALIASES or in_place(name)):
            continue
        storage[node] = leaf
        sources = {source for edge in node.inputs[1:] for source in _parameters(edge.source, storage)}
        others = [source for source in sources if source is not leaf and source in tensors]
        if others and in_place(name):
            kind = "copy" if name in ("copy_", SET_DATA) and leaf not in sources else "soft_update"
            others.sort(key=lambda source: source.time)
            found.append(
                Entry(kind, node.time, node.location, (tensors[leaf],), sources=tuple(tensors[one] for one in others))
            )
    return found


def _parameters(value: Node, storage: dict[Node, Node]) -> Iterator[Node]:
    """The parameters that a value is computed from."""
    seen, waiting = {value}, [value]
    while waiting:
        node = waiting.pop()
        if node in storage:
            yield storage[node]
            continue
        for edge in node.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
