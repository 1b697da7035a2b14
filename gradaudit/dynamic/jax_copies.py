"""Networks that are copies of others, told by their arrays: the same names and shapes below, the same numbers."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradaudit.dynamic.jax_trees import Slot
from gradaudit.dynamic.recording import Update
from gradaudit.tape import Node

LAGGING = re.compile(r"target|tgt|(^|_)ema($|_)|(^|_)old($|_)|lag|shadow|slow|moment|avg|average|copy|bar$|prev")
GIVEN = re.compile(
    r"teacher|frozen|(^|_)(ref(erence)?|fixed|tutor|snapshot|anchor|prev|previous|initial|pretrained|sft)($|_)"
)
"""Names of networks that others are compared with: not copies, and not trained beside them."""


def mark(
    slots: Sequence[Slot],
    arrays: Sequence[Any],
    stems: Sequence[str],
    nodes: Mapping[int, Node],
    updates: Sequence[Update],
    trained: Container[int],
) -> frozenset[Node]:
    """Set `copied_from` of leaves and networks.

    `nodes` are the leaf nodes of parameter slots; `updates` are what a run does to them; `trained` are the slots that
    are differentiated. Returns those of networks that stand beside the one they follow, in one argument: nobody steps
    them, as far as is seen.
    """
    followers: set[Node] = set()
    seen = _seen(slots, stems, sorted(nodes), updates, trained)
    stepped = {name for one in updates if not one.sources for name in one.leaves}
    moving = {number for copy, _ in seen for number in copy}
    guessed = (pair for pair in copies(slots, arrays, stems, set(nodes)) if moving.isdisjoint((*pair[0], *pair[1])))
    for copy, origin in (*seen, *guessed):
        given = bool(GIVEN.search(stems[copy[0]].lower()))
        for one, other in zip(copy, origin, strict=True):
            leaf, source = nodes[one].leaf, nodes[other].leaf
            if leaf is None or source is None:
                continue
            if copy[0] in moving or not given or _equal([arrays[one]], [arrays[other]]):
                leaf.copied_from = source
                if leaf.owner is not None and leaf.owner is not source.owner:
                    leaf.owner.copied_from = source.owner
        beside = slots[copy[0]].argument == slots[origin[0]].argument
        if beside and (lagging(stems[copy[0]]) or copy[0] in moving):
            followers.update(nodes[one] for one in copy if slots[one].name not in stepped)
    return frozenset(followers)


def _seen(
    slots: Sequence[Slot],
    stems: Sequence[str],
    among: Sequence[int],
    updates: Sequence[Update],
    trained: Container[int],
) -> list[tuple[list[int], list[int]]]:
    """(copy, original) as slot numbers, network by network, where the run has shown what follows what. What is trained
    follows nothing that is not: such an update is reversed."""
    numbers = {slots[number].name: number for number in among}
    follows = {leaf: source for one in updates for leaf, source in zip(one.leaves, one.sources, strict=False)}
    networks: dict[str, list[tuple[int, int]]] = {}
    for number in among:
        origin = numbers.get(follows.get(slots[number].name, ""))
        if origin is not None and (origin in trained or number not in trained):
            networks.setdefault(stems[number], []).append((number, origin))
    return [([one for one, _ in pairs], [other for _, other in pairs]) for pairs in networks.values()]


def copies(
    slots: Sequence[Slot], arrays: Sequence[Any], stems: Sequence[str], among: set[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """(copy, original) as slot numbers: a network that equals another array by array, or one of the same form whose
    name says that it lags behind (a target network after some training)."""
    networks: dict[str, list[int]] = {}
    for number in sorted(among):
        networks.setdefault(stems[number], []).append(number)
    forms: dict[tuple[object, ...], list[str]] = {}
    for stem, members in networks.items():
        forms.setdefault(_form(slots, arrays, stem, members), []).append(stem)
    parts = _parts(slots, networks)
    for form, twins in forms.items():
        for stem in twins:
            origin = _origin(stem, twins, {one: [arrays[i] for i in networks[one]] for one in twins})
            if origin is not None:
                yield networks[stem], networks[origin]
            elif len(twins) == 1:
                whole = [members for part, members in parts.items() if _form(slots, arrays, part, members) == form]
                yield from _taken(slots, arrays, stem, networks[stem], whole)


def _form(slots: Sequence[Slot], arrays: Sequence[Any], name: str, members: Sequence[int]) -> tuple[object, ...]:
    return tuple((slots[i].name.removeprefix(name), np.shape(arrays[i])) for i in members)


def _parts(slots: Sequence[Slot], networks: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The entries of trees that are no networks by themselves, by name."""
    parts: dict[str, list[int]] = {}
    for stem, members in networks.items():
        for number in members:
            keys = slots[number].name.removeprefix(stem).strip(".").split(".")
            for end in range(1, len(keys)):
                parts.setdefault(".".join((stem, *keys[:end])), []).append(number)
    return parts


def _taken(
    slots: Sequence[Slot], arrays: Sequence[Any], stem: str, members: list[int], parts: Sequence[list[int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """(copy, original) for an argument that an entry of another one was given for, now or some time ago."""
    others = [part for part in parts if slots[part[0]].argument != slots[members[0]].argument]
    equal = [part for part in others if _equal([arrays[i] for i in part], [arrays[i] for i in members])]
    found = equal or (others if lagging(stem) else [])
    if len(found) == 1:
        yield members, found[0]


def _origin(stem: str, twins: Sequence[str], arrays: Mapping[str, Sequence[Any]]) -> str | None:
    """What the network is a copy of; None for an original."""
    lags = lagging(stem)
    originals = [one for one in twins if one != stem and lagging(one) <= lags]
    equal = [one for one in originals if _equal(arrays[one], arrays[stem])]
    equal = [one for one in equal if lags > lagging(one) or twins.index(one) < twins.index(stem)]
    if equal:
        return min(equal, key=lagging)
    originals = [one for one in originals if not lagging(one)] if lags else []
    named = [one for one in originals if _last(one) in _last(stem)]
    return (named or originals)[0] if len(named or originals) == 1 else None


def lagging(path: str) -> bool:
    """Does a name on the way say that this network follows another one?"""
    return any(LAGGING.search(part) or GIVEN.search(part) for part in path.lower().split("."))


def _last(stem: str) -> str:
    return stem.lower().removesuffix(".params").rpartition(".")[2]


def _equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    pairs = [(np.asarray(left), np.asarray(right)) for left, right in zip(one, other, strict=True)]
    telling = any(left.size > 3 and np.unique(left.ravel()[:16]).size > 3 for left, _ in pairs)
    return telling and all(np.array_equal(left, right) for left, right in pairs)
