"""Judging by roles: a frozen group that gradient reaches, a trained group that it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gradaudit.dynamic.cuts import Purity, Spot, line_cut
from gradaudit.dynamic.judgement import Case, Judgement, finding, names, trace
from gradaudit.dynamic.recording import NONE, ZERO, Cut, Group
from gradaudit.dynamic.roles import FROZEN, TRAINED
from gradaudit.dynamic.shapes import leak_code
from gradaudit.dynamic.starved import starved
from gradaudit.tape import Location, Node

_LAGGING = re.compile(
    r"(^|_)(target|targets|targ|tgt|ema|momentum|teacher|ref|reference|old|frozen|lagged|lagging|shadow|slow)($|_|\d)"
    r"|target$|^target|teacher"
)
_SUFFIX = re.compile(r"_?(t|tar|bar|prime|minus|lag|copy)")


def by_roles(case: Case) -> Iterator[Judgement]:
    """What the stated roles alone decide."""
    frozen = [group for group in case.groups if group.stated and group.role == FROZEN]
    trained = [group for group in case.groups if group.stated and group.role == TRAINED]
    yield from leaks(case, frozen, trained, stated=True)
    yield from starved(case, trained)


def by_names(case: Case) -> Iterator[Judgement]:
    """Unstated groups that nobody steps and whose names say that they lag behind another or teach it.

    Names come last: only a leak that a stop keeps out is told, as a warning.
    """
    free = [group for group in case.groups if not group.stated]
    held = case.analysis.mask(leaf for one in case.recording.tape.optimizers for leaf in one.leaves)
    lagging = [group for group in free if not case.mask([group]) & held and lags(group)]
    others = [group for group in case.groups if group not in lagging and group.state != NONE]
    if not others:
        return
    for group in lagging:
        group.role = "target"
    yield from (one for one in leaks(case, lagging, others, stated=False) if not one.freeze)


def lags(group: Group) -> bool:
    """Whether a name on the way to the group is a target's, or the name of what it is a copy of and a `t`."""
    if any(_LAGGING.search(part) for part in re.split(r"[.]", group.name.lower())):
        return True
    owners = [leaf.leaf.owner for leaf in group.leaves if leaf.leaf is not None]
    for network in {one for owner in owners if owner is not None for one in owner.chain()}:
        origin = network.copied_from
        if origin is not None and _SUFFIX.fullmatch(network.name.lower().removeprefix(origin.name.lower())):
            return network.name.lower().startswith(origin.name.lower())
    return False


def leaks(case: Case, frozen: list[Group], trained: list[Group], stated: bool) -> Iterator[Judgement]:
    """Frozen groups with a path from the loss: one judgement for each place where a stop belongs."""
    live = case.view.live(case.view.sink.loss)
    reached = [group for group in frozen if group.state != NONE and case.mask([group]) & live]
    if not reached:
        return
    others = _owned(case, frozen) or trained or [group for group in case.groups if group not in frozen]
    parts, through = _by_cut(case, reached, others)
    for spot, groups in parts:
        yield _leak(case, spot, groups, stated)
    if through:
        yield _through(case, through, stated)


def _owned(case: Case, frozen: list[Group]) -> list[Group]:
    """The groups that are stepped with this loss, where that is known."""
    own = case.view.own
    return [group for group in case.groups if group not in frozen and own is not None and case.mask([group]) & own]


def _by_cut(
    case: Case, reached: list[Group], others: list[Group]
) -> tuple[list[tuple[Spot, list[Group]]], list[Group]]:
    """The lines to stop at with the groups behind each, and the groups that no stop can keep out."""
    purity = Purity(case.view, case.mask(reached), case.mask(others))
    whole = line_cut(purity)
    if whole is not None:
        return [(spot, _behind(case, spot, reached)) for spot in whole.spots], []
    spots: dict[tuple[str, int], tuple[Spot, list[Group]]] = {}
    through: list[Group] = []
    for group in reached:
        cut = line_cut(Purity(case.view, case.mask([group]), case.mask(others)))
        if cut is None:
            through.append(group)
            continue
        for spot in cut.spots:
            known = spots.setdefault((spot.location.path, spot.location.line), (spot, []))
            known[1].append(group)
    return list(spots.values()), through


def _behind(case: Case, spot: Spot, groups: list[Group]) -> list[Group]:
    live = 0
    for node in spot.nodes:
        live |= case.view.live(node)
    return [group for group in groups if live & case.mask([group])] or groups


def _leak(case: Case, spot: Spot, groups: list[Group], stated: bool) -> Judgement:
    code = leak_code(case, spot, groups)
    severity = "error" if stated else "warning"
    zero = [group for group in groups if group.state == ZERO]
    evidence = "" if len(zero) < len(groups) else " (it happens to be zero on these inputs)"
    role = "stated as frozen" if stated else "a target by its name"
    message = f"{names(groups)}, {role}, {_verb(groups)} gradient from the loss{evidence}"
    what = next((node.name for node in reversed(spot.nodes) if node.name), "")
    return Judgement(
        finding(
            case,
            code,
            severity,
            message,
            spot.location,
            fix=_stop_advice(case, what, len(spot.nodes)),
            trace=trace(case, spot.nodes[-1], case.mask(groups)),
        ),
        cut=Cut(values=frozenset(spot.nodes)),
        leaks=tuple(group.name for group in groups),
        nodes=spot.nodes,
    )


def _verb(groups: list[Group]) -> str:
    return "receives" if len(groups) == 1 else "receive"


def _stop_advice(case: Case, what: str, count: int) -> str:
    value = f"`{what}`" if what else ("the value made here" if count == 1 else "the values made here")
    if case.recording.framework == "jax":
        return f"stop {value}: `jax.lax.stop_gradient(...)`"
    return f"stop {value}: `.detach()`, or make it under `torch.no_grad()`"


def _through(case: Case, groups: list[Group], stated: bool) -> Judgement:
    """What is trained flows through the frozen network: a stop would cut the training, freezing does not."""
    leaves = case.mask(groups)
    node = _first_use(case, leaves)
    message = (
        f"{names(groups)}, stated as frozen, {_verb(groups)} gradient: what this loss trains flows through "
        f"{'it' if len(groups) == 1 else 'them'}, so no stop can keep it out"
    )
    if case.recording.framework == "jax":
        advice = f"leave {names(groups)} out of what is differentiated; a stop_gradient would cut the training, too"
    else:
        advice = (
            f"freeze instead: `requires_grad_(False)` on {names(groups)} for this loss (or clear the gradient before "
            "the other optimizer steps); a detach would cut the training, too"
        )
    return Judgement(
        finding(case, "GA102", "error", message, call_location(node), fix=advice, trace=trace(case, node, leaves)),
        cut=Cut(freeze=frozenset(leaf for group in groups for leaf in group.leaves)),
        leaks=tuple(group.name for group in groups),
        freeze=True,
        nodes=(node,),
    )


def _first_use(case: Case, leaves: int) -> Node:
    for node in case.view.slice:
        if any(edge.passes and _is(case, edge.source, leaves) for edge in node.inputs):
            return node
    return case.view.sink.loss


def _is(case: Case, node: Node, leaves: int) -> bool:
    return node.leaf is not None and bool(case.analysis.bit(node) & leaves)


def call_location(node: Node) -> Location:
    """Where the network that a node belongs to was called from: outside of its own methods."""
    place, call = node.location, node.call
    while call is not None:
        if call.function in ("forward", "__call__"):
            place = call.location
        call = call.parent
    return place
