"""Arguments that jax.grad leaves alone: what it would mean to differentiate them.

`loss(params, target_params, batch)` with `argnums=0` is right without a stop. Where a name says that an argument is a
target and gradient would reach it, that is worth knowing and no defect: it becomes one with another `argnums`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gradaudit.dynamic.judge import leaks
from gradaudit.dynamic.judgement import NAMES, Case, Judgement, names
from gradaudit.dynamic.recording import NONE, Group, Recording
from gradaudit.rules.criteria.marks import names as suggests


def guessed(recording: Recording) -> Iterator[Judgement]:
    """An info for every place where gradient would get into an argument with a target's name."""
    groups = [
        group
        for group in recording.groups
        if not group.differentiated and not group.stated and group.state != NONE and _target(group)
    ]
    if not groups:
        return
    with _differentiated(recording, groups):
        case = Case(recording)
        trained = [group for group in case.groups if group.differentiated]
        found = list(leaks(case, groups, trained, stated=False))
    for judgement in found:
        who = names(judgement.leaks)
        message = f"{who} would get gradient here; it is an argument that is not differentiated (`argnums`)"
        judgement.finding = replace(
            judgement.finding, code="GA102", name=NAMES["GA102"], severity="info", message=message
        )
        judgement.cut, judgement.leaks = None, ()
        yield judgement


def _target(group: Group) -> bool:
    return any(suggests("networks", "target").search(part) for part in group.name.lower().split("."))


@contextmanager
def _differentiated(recording: Recording, groups: list[Group]) -> Iterator[None]:
    """As if these groups were differentiated, too."""
    sink = recording.tape.sinks[0]
    before, leaves = sink.differentiated, [node for group in groups for node in group.leaves]
    kinds = [(node.leaf, node.leaf.kind) for node in leaves if node.leaf is not None]
    sink.differentiated = (before or frozenset()) | frozenset(leaves)
    for leaf, _ in kinds:
        leaf.kind = "param"
    try:
        yield
    finally:
        sink.differentiated = before
        for leaf, kind in kinds:
            leaf.kind = kind
