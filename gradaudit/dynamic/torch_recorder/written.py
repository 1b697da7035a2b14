"""Parameters that a run writes from other ones: the copies and soft updates of a function that is a whole update."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradaudit.algebra import number
from gradaudit.dynamic.branches import in_branch
from gradaudit.dynamic.torch_recorder.ops import SET_DATA, in_place
from gradaudit.dynamic.torch_recorder.updates import Entry, lines_of
from gradaudit.tape import Node

if TYPE_CHECKING:
    from gradaudit.dynamic.torch_recorder.tracer import Tracer

ALIASES = frozenset("data detach view reshape view_as __get__".split())
"""What gives a parameter's storage another name."""

_WEIGHT = re.compile(r"([\d.e-]+)\)$")

ALIASED = frozenset(("stop", "identity", "clone", "reshape", "cast"))
"""Operations of the tape that change no value."""


def writes(tracer: Tracer) -> list[Entry]:
    """An entry for every write into a parameter of what is computed from others, in order of time."""
    tensors = dict(tracer.unseen_leaves)
    storage = {node: node for node in tensors if node.leaf is not None and node.leaf.kind == "param"}
    found: list[tuple[Entry, bool]] = []
    kept: dict[Node, float | None] = {}  # what is left of a parameter's value since it was last written
    for node in sorted(tracer.place, key=lambda node: node.time):
        name = tracer.sites[tracer.place[node][0]]
        leaf = storage.get(node.inputs[0].source) if node.inputs else None
        if leaf is None or not (name in ALIASES or in_place(name)):
            continue
        kept[leaf] = _kept(node, name, kept, storage, leaf)
        storage[node] = leaf
        sources = {source for edge in node.inputs[1:] for source in _parameters(edge.source, storage)}
        every = [source for source in sources if source is not leaf and source in tensors]
        others = [one for one in every if tensors[one].shape == tensors[leaf].shape and not _beside(one, leaf)]
        if others and in_place(name):
            kind = "copy" if name in ("copy_", SET_DATA) and leaf not in sources else "soft_update"
            others.sort(key=lambda source: source.time)
            sources_of = tuple(tensors[one] for one in others)
            often = kind == "soft_update" and not in_branch(lines_of(node))  # what is made at times may keep little
            weight = kept[leaf] if often else None
            flat = leaf in sources and len(others) < len(every)
            entry = Entry(kind, node.time, node.location, (tensors[leaf],), sources=sources_of, weight=weight)
            found.append((entry, flat))
            kept[leaf] = 1.0
    return [one for entry, flat in found if (one := _of_others(entry, found) if flat else entry).sources]


def _of_others(entry: Entry, every: Sequence[tuple[Entry, bool]]) -> Entry:
    """What is written out of one vector of all parameters, without those that the same statement writes: a parameter
    comes out of the vector as it went in, and is no copy of its neighbours."""
    written = {id(one.tensors[0]) for one, _ in every if one.location == entry.location}
    return replace(entry, sources=tuple(one for one in entry.sources if id(one) not in written))


def _beside(one: Node, other: Node) -> bool:
    """Whether both are parameters of one module: what one is set to by the other is no copy of a network."""
    first, second = one.leaf, other.leaf
    return first is not None and second is not None and first.owner is not None and first.owner is second.owner


def _kept(node: Node, name: str, kept: dict[Node, float | None], storage: dict[Node, Node], leaf: Node) -> float | None:
    """How much of what was in the parameter is in it after this operation; None where that cannot be told."""
    before = kept.get(leaf, 1.0)
    if not in_place(name) or before is None:
        return before

    def share(value: Node) -> float | None:
        if value in storage:
            return before if storage[value] is leaf else 0.0
        if value.op == "const" or not any(True for _ in _parameters(value, storage)):
            return 0.0
        if value.op in ALIASED:
            return share(value.inputs[0].source)
        return _combined(value, [share(edge.source) for edge in value.inputs])

    if name in ("copy_", SET_DATA):
        return share(node.inputs[1].source)
    return _combined(node, [before, *(share(edge.source) for edge in node.inputs[1:])], name)


def _combined(node: Node, shares: list[float | None], name: str = "") -> float | None:
    """The share of a sum or of a product with a number, by the shares of its operands."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares) or len(shares) < 2:
        return None
    if node.op in ("add", "sub") and (not known[1] or not node.detail):
        return known[0] + known[1] if node.op == "add" else known[0] - known[1]
    numbers = [number(edge.source) for edge in node.inputs]
    if node.op == "mul" and any(one is not None for one in numbers[:2]):
        return (known[0] + known[1]) * next(one for one in numbers[:2] if one is not None)
    if node.op == "div" and numbers[1]:
        return known[0] / numbers[1]
    if name == "lerp_" and (weight := _WEIGHT.search(node.detail)):
        return known[0] * (1 - float(weight[1])) + known[1] * float(weight[1])
    return None


def _parameters(value: Node, storage: dict[Node, Node]) -> Iterator[Node]:
    """The parameters that a value is computed from."""
    seen, waiting = {value}, [value]
    while waiting:
        node = waiting.pop()
        if node in storage:
            yield storage[node]
            continue
        for edge in node.inputs if node.op != "gradient" else ():  # a step is no copy of what the loss was made of
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
