"""Judging by roles: a frozen group that gradient reaches, a trained group that it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sized
from itertools import permutations

from gradaudit.dynamic.cuts import Purity, Spot, line_cut
from gradaudit.dynamic.judgement import Case, Judgement, call_location, finding, names, trace
from gradaudit.dynamic.reachable_text import follows, split_off
from gradaudit.dynamic.recording import NONE, ZERO, Cut, Group
from gradaudit.dynamic.roles import FROZEN, TRAINED
from gradaudit.dynamic.shapes import has_twin, leak_code
from gradaudit.dynamic.starved import starved
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.place import activations
from gradaudit.tape import Location, Node

_LAGGING = re.compile(
    r"(^|_)(target|targets|targ|tgt|ema|momentum|teacher|ref|reference|old|frozen|lagged|lagging|shadow|slow)($|_|\d)"
    r"|target$|^target|teacher"
)
_FIXED = re.compile(r"(^|_)(fixed|tutor|snapshot|anchor|prev|previous|initial|pretrained|sft)($|_|\d)")
"""Names of networks that may as well be fine-tuned: only a comparison with what is trained tells."""

COMPARED = frozenset(("GA201", "GA301", "GA302"))
"""Leaks out of a comparison with the output of another network."""

_SUFFIX = re.compile(r"_?(t|tar|bar|prime|minus|lag|copy)")


def by_roles(case: Case) -> Iterator[Judgement]:
    """What the stated roles alone decide."""
    frozen = [group for group in case.groups if group.stated and group.role == FROZEN]
    trained = [group for group in case.groups if group.stated and group.role == TRAINED]
    yield from leaks(case, frozen, trained, stated=True)
    yield from starved(case, [group for group in trained if not _spared(case, group)])


def _spared(case: Case, group: Group) -> bool:
    """Whether a part without gradient of what is stated as trained is none that this loss predicts with.

    Of a whole model a loss may leave heads alone, or use them for its targets; not one of several equal members.
    """
    if group.state != NONE or predicting(case).intersection(group.leaves) or has_twin(case, [group]):
        return False
    reached = {leaf for other in case.groups if other.state != NONE for leaf in other.leaves}
    mine = set(group.leaves)
    if not all(whole & reached for whole in case.recording.wholes if whole & mine):
        return False
    case.recording.notes.append(f"`{group.name}` gets no gradient: this loss predicts nothing with it")
    return True


def predicting(case: Case) -> set[Node]:
    """What the loss is made of, but for what only its targets are made of: a constant beside a live prediction."""
    view = case.view
    targets = {
        (meeting.node, one.source)
        for meeting in discrepancies(view)
        for one, other in permutations(meeting.sides, 2)
        if not (one.passes and view.live(one.source)) and other.passes and view.live(other.source)
    }
    seen, waiting = {view.sink.loss}, [view.sink.loss]
    while waiting:
        node = waiting.pop()
        for edge in node.inputs:
            if edge.source not in seen and (node, edge.source) not in targets:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def by_names(case: Case) -> Iterator[Judgement]:
    """Unstated groups that nobody steps and whose names say that they lag behind another or teach it; copies of which
    the text says so, whoever steps them.

    Names come last: only a leak that a stop keeps out is told, as a warning.
    """
    held = case.analysis.mask(leaf for one in case.recording.tape.optimizers for leaf in one.leaves)
    every = [part for group in case.groups for part in ([group] if group.stated else split_off(case, group))]
    unstated = [group for group in every if not group.stated]
    free = [group for group in unstated if not case.mask([group]) & held]
    lagging = [group for group in unstated if group in free and lags(group) or follows(case, group.leaves)]
    for group in lagging:
        group.role = "target"
    still = [group for group in free if group not in lagging and is_still(case, group)]
    for kind in (lagging, still):
        others = [group for group in every if group not in kind and group.state != NONE]
        found = leaks(case, kind, others, stated=False) if others else iter(())
        yield from (one for one in found if not one.freeze and (kind is lagging or one.finding.code in COMPARED))


def is_still(case: Case, group: Group) -> bool:
    """Whether the group's network is in evaluation mode among others that train, or is called fixed."""
    still = case.recording.evaluating
    return all(leaf in still for leaf in group.leaves) or any(
        _FIXED.search(part) for part in group.name.lower().split(".")
    )


def lagging_name(name: str) -> bool:
    """Whether a part of a dotted name is what targets, teachers and references are called."""
    return any(_LAGGING.search(part) for part in name.lower().split("."))


def lags(group: Group) -> bool:
    """Whether a name on the way to the group is a target's, or the name of what it is a copy of and a `t`."""
    if lagging_name(group.name):
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
    purity = Purity(case.view, case.mask(reached), case.mask(others) & ~case.mask(reached))
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
    role = "stated as frozen" if stated else _role(case, groups)
    message = f"{names(groups)}, {role}, {verb(groups)} gradient from the loss{evidence}"
    what = next((node.name for node in reversed(spot.nodes) if node.name), "")
    return Judgement(
        finding(
            case,
            code,
            severity,
            message,
            _outside(case, spot, case.mask(groups)),
            fix=_stop_advice(case, what, len(spot.nodes)),
            trace=trace(case, spot.nodes[-1], case.mask(groups)),
        ),
        cut=Cut(values=frozenset(spot.nodes)),
        leaks=tuple(group.name for group in groups),
        nodes=spot.nodes,
    )


def _role(case: Case, groups: list[Group]) -> str:
    still = case.recording.evaluating
    if all(leaf in still for group in groups for leaf in group.leaves):
        return "in evaluation mode beside a network in training"
    if any(map(lags, groups)):
        return "a target by its name"
    return "a target by its update" if any(follows(case, one.leaves) for one in groups) else "fixed by its name"


def _outside(case: Case, spot: Spot, leaves: int) -> Location:
    """A helper that was only handed what it combines is seen from where it was called."""
    node = spot.nodes[-1]
    if any(one.location.line != spot.location.line for one in spot.nodes):
        return spot.location  # the line is a caller's already
    makers = [one for one in case.view.slice if _takes(case, one, leaves)]
    meetings = [user for one in spot.nodes for user, _ in case.view.consumers(one) if case.view.live(user) & ~leaves]
    place = spot.location
    for call in activations(node.call):
        if any(call in activations(one.call) for one in (*makers, *meetings)):
            break
        place = call.location
    return place


def _takes(case: Case, node: Node, leaves: int) -> bool:
    return any(edge.passes and _is(case, edge.source, leaves) for edge in node.inputs)


def verb(groups: Sized) -> str:
    return "receives" if len(groups) == 1 else "receive"


def _stop_advice(case: Case, what: str, count: int) -> str:
    value = f"`{what}`" if what else ("the value made here" if count == 1 else "the values made here")
    if case.recording.framework == "jax":
        return f"stop {value}: `jax.lax.stop_gradient(...)`"
    return f"stop {value}: `.detach()`, or make it under `torch.no_grad()`"


def _through(case: Case, groups: list[Group], stated: bool) -> Judgement:
    """What is trained flows through the frozen network: a stop would cut the training, freezing does not."""
    leaves = case.mask(groups)
    node = first_use(case, leaves)
    message = (
        f"{names(groups)}, stated as frozen, {verb(groups)} gradient: what this loss trains flows through "
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


def first_use(case: Case, leaves: int) -> Node:
    """The first operation on the way to the loss that takes one of these leaves."""
    for node in case.view.slice:
        if _takes(case, node, leaves):
            return node
    return case.view.sink.loss


def _is(case: Case, node: Node, leaves: int) -> bool:
    return node.leaf is not None and bool(case.analysis.bit(node) & leaves)
