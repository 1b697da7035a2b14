"""Networks that are copies of others, told by their arrays: the same names and shapes below, the same numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradaudit.dynamic.jax_trees import Slot
from gradaudit.tape import Node

LAGGING = re.compile(r"target|ema|old|lag|shadow|slow|momentum|teacher|frozen|ref|avg|average|copy|bar$|prev")


def mark(
    slots: Sequence[Slot],
    arrays: Sequence[Any],
    stems: Sequence[str],
    nodes: Mapping[int, Node],
) -> None:
    """Set `copied_from` of leaves and networks. `nodes` are the leaf nodes of parameter slots."""
    for copy, origin in copies(slots, arrays, stems, set(nodes)):
        for one, other in zip(copy, origin, strict=True):
            leaf, source = nodes[one].leaf, nodes[other].leaf
            if leaf is not None and source is not None:
                leaf.copied_from = source
                if leaf.owner is not None and leaf.owner is not source.owner:
                    leaf.owner.copied_from = source.owner


def copies(
    slots: Sequence[Slot], arrays: Sequence[Any], stems: Sequence[str], among: set[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """(copy, original) as slot numbers: networks that equal another one array by array."""
    networks: dict[str, list[int]] = {}
    for number in sorted(among):
        networks.setdefault(stems[number], []).append(number)
    seen: dict[tuple[object, ...], list[str]] = {}
    for stem, members in networks.items():
        form = tuple((slots[i].name.removeprefix(stem), np.shape(arrays[i])) for i in members)
        for other in seen.get(form, []):
            if _equal([arrays[i] for i in members], [arrays[i] for i in networks[other]]):
                late = bool(LAGGING.search(stem.lower())) >= bool(LAGGING.search(other.lower()))
                yield (members, networks[other]) if late else (networks[other], members)
                break
        seen.setdefault(form, []).append(stem)


def _equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    pairs = [(np.asarray(left), np.asarray(right)) for left, right in zip(one, other, strict=True)]
    telling = any(left.size > 3 and np.unique(left.ravel()[:16]).size > 3 for left, _ in pairs)
    return telling and all(np.array_equal(left, right) for left, right in pairs)
