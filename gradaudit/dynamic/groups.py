"""Parameter groups: which tensors stand on one row of the report.

A group is a network (or a single tensor) as the user names it. Nothing is merged: where the tensors of a network differ
in role, or in whether gradient reaches them, the network is split along its own names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gradaudit.dynamic.recording import NONE, NONZERO, STATES, ZERO, Group
from gradaudit.tape import Node

ROUND_OFF = 3e-7
"""Below this part of the largest gradient (and below 1e-6) a gradient is what cancellation leaves behind."""


@dataclass(slots=True)
class LeafGradient:
    """One tensor: its dotted name, its group's name (a prefix of it), what gradient it got (None: no path)."""

    name: str
    stem: str
    node: Node
    role: str
    norm: float | None
    stated: bool = False
    differentiated: bool = True
    trainable: bool = True
    state: str = ""


def build(leaves: Iterable[LeafGradient]) -> list[Group]:
    """The groups of all leaves, in the order of their names' first appearance."""
    rows = list(leaves)
    largest = max((row.norm for row in rows if row.norm is not None and math.isfinite(row.norm)), default=0.0)
    for row in rows:
        row.state = state_of(row.norm, largest)
    stems: dict[str, list[LeafGradient]] = {}
    for row in rows:
        stems.setdefault(row.stem, []).append(row)
    return [group for stem, members in stems.items() for group in _split(stem, members)]


def state_of(norm: float | None, largest: float) -> str:
    """None, exactly (or up to round-off) zero, or a gradient."""
    if norm is None:
        return NONE
    return ZERO if norm == 0.0 or (norm <= ROUND_OFF * largest and norm <= 1e-6) else NONZERO


def _split(stem: str, members: list[LeafGradient]) -> list[Group]:
    if _one(members, lambda row: (row.role, row.stated, row.differentiated, row.trainable)):
        return _split_states(stem, members)
    parts: dict[str, list[LeafGradient]] = {}
    for row in members:
        parts.setdefault(_next_prefix(stem, row.name), []).append(row)
    if len(parts) == 1 and next(iter(parts)) == stem:
        parts = {row.name: [row] for row in members}
    return [group for prefix, rows in parts.items() for group in _split(prefix, rows)]


def _split_states(stem: str, members: list[LeafGradient]) -> list[Group]:
    """The strongest state keeps the network's name; what differs is listed under its own."""
    if _one(members, lambda row: row.state):
        return [_group(stem, members)]
    strongest = max(members, key=lambda row: STATES.index(row.state)).state
    groups = [_group(stem, [row for row in members if row.state == strongest])]
    others = [row for row in members if row.state != strongest]
    return groups + _exceptions(stem, others, members)


def _exceptions(stem: str, others: list[LeafGradient], members: list[LeafGradient]) -> list[Group]:
    parts: dict[str, list[LeafGradient]] = {}
    for row in others:
        parts.setdefault(_next_prefix(stem, row.name), []).append(row)
    groups = []
    for prefix, rows in parts.items():
        whole = [row for row in members if row.name == prefix or row.name.startswith(prefix + ".")]
        if len(rows) == 1 or prefix == stem:  # the latter: several tensors of one name
            groups.append(_group(rows[0].name, rows))
        elif len(whole) == len(rows) and _one(rows, lambda row: row.state):
            groups.append(_group(prefix, rows))
        else:
            groups += _exceptions(prefix, rows, members)
    return groups


def _next_prefix(stem: str, name: str) -> str:
    if not name.startswith(stem + "."):
        return name
    return stem + "." + name[len(stem) + 1 :].split(".")[0]


def _one(members: list[LeafGradient], key: Callable[[LeafGradient], object]) -> bool:
    return len({key(row) for row in members}) == 1


def _group(name: str, members: list[LeafGradient]) -> Group:
    first = members[0]
    norm = math.sqrt(sum(row.norm**2 for row in members if row.norm is not None))
    return Group(
        name=name,
        role=first.role,
        state=first.state,
        norm=norm,
        tensors=len(members),
        leaves=tuple(row.node for row in members),
        stated=first.stated,
        differentiated=first.differentiated,
        trainable=first.trainable,
    )
