"""A defect beside the graph that one run shows: a copy in the optimizer of its original."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradaudit.dynamic.judge import lags
from gradaudit.dynamic.judgement import Case, Judgement, finding, names
from gradaudit.dynamic.lines import end_of
from gradaudit.dynamic.reachable_text import place_of, trees
from gradaudit.dynamic.recording import Group
from gradaudit.dynamic.roles import FROZEN
from gradaudit.tape import Location, Node, Optimizer


def place_optimizers(case: Case) -> None:
    """Where the optimizers of a run were given what they hold: on the line that makes them, in the user's text."""
    if not _in_reach(case):
        return
    made: dict[str, list[Location]] = {}
    for file, tree in trees(case):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    made.setdefault(end_of(target), []).append(place_of(file, node))
    for event in case.recording.tape.events:
        if event.kind == "hold" and event.optimizer is not None and not event.location.line:
            places = made.get(event.optimizer.name.rpartition(".")[2], [])
            if len(places) == 1:
                event.location = event.optimizer.location = places[0]


def _in_reach(case: Case) -> bool:
    """Whether a copy is held anywhere: the user's files are parsed for it."""
    return any(
        node.leaf.copied_from is not None
        for one in case.recording.tape.optimizers
        for node in one.leaves
        if node.leaf is not None
    ) or any(event.sources for event in case.recording.tape.events)


def held_copies(case: Case) -> Iterator[Judgement]:
    """GA501: an optimizer that holds a network and a copy of it that is stated as frozen, or lags behind by its name.

    A gradient into it is told as a leak; here it is about the optimizer.
    """
    for optimizer in case.recording.tape.optimizers:
        groups = [group for group in case.groups if _is_target(group) and _held_with_original(group, optimizer)]
        if groups:
            who = names(groups)
            verb = "is a copy" if len(groups) == 1 else "are copies"
            message = f"an optimizer holds {who}, which {verb} of what it trains and must only follow it"
            advice = f"leave {who} out of the optimizer"
            where = optimizer.location if optimizer.location and optimizer.location.line else case.view.sink.location
            level = "info" if _taken_whole(case, optimizer) else "warning"
            yield Judgement(finding(case, "GA501", level, message, where, fix=advice))


def _taken_whole(case: Case, optimizer: Optimizer) -> bool:
    """Was it given one module's parameters, all of them: nobody put the copy in, and without gradient it stays."""
    spellings = case.recording.spellings
    held = [spellings.get(leaf, ()) for leaf in optimizer.leaves]
    owners = {name.rpartition(".")[0] for name in next(iter(held), ())}
    prefixes = {".".join(owner.split(".")[: end + 1]) for owner in owners for end in range(owner.count(".") + 1)}
    return any(
        all(any(name.startswith(prefix + ".") for name in names) for names in held)
        and _is_module(case, prefix)
        and all(
            leaf in optimizer.leaves
            for leaf, names in spellings.items()
            if any(name.startswith(prefix + ".") for name in names)
        )
        for prefix in sorted(prefixes)
        if prefix
    )


def _is_module(case: Case, path: str) -> bool:
    head, *parts = path.split(".")
    value = case.recording.call.scope.get(head)
    for part in parts:
        value = getattr(value, part, None)
    return callable(getattr(value, "named_parameters", None))


def _is_target(group: Group) -> bool:
    if not group.trainable:
        return False  # switched off: an optimizer passes over it
    return group.role == FROZEN if group.stated else lags(group)


def _held_with_original(group: Group, optimizer: Optimizer) -> bool:
    held = {node.leaf for node in optimizer.leaves}
    return bool(group.leaves) and all(_follows(node, optimizer) and _original(node) in held for node in group.leaves)


def _follows(node: Node, optimizer: Optimizer) -> bool:
    return node in optimizer.leaves and _original(node) is not None


def _original(node: Node) -> object:
    return node.leaf.copied_from if node.leaf is not None else None
