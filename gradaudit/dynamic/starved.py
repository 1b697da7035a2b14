"""Over-stop: a group that the user trains gets nothing, and this is the line that cut it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradaudit.dynamic.judgement import Case, Judgement, describe, finding, names
from gradaudit.dynamic.recording import NONE, ZERO, Group
from gradaudit.finding import Step
from gradaudit.rules.criteria.place import activations
from gradaudit.tape import INDEX, Location, Node

FLAT = frozenset(("round", "sign", "floor", "ceil"))
"""Operations with a gradient that is zero wherever it is defined."""


@dataclass(frozen=True, slots=True)
class Event:
    """An operation that takes a value with gradient to the group and hands on none."""

    node: Node
    index: int
    weight: int


def starved(case: Case, trained: list[Group]) -> Iterator[Judgement]:
    empty = [group for group in trained if group.state == NONE or (group.state == ZERO and _only_flat(case, group))]
    by_line: dict[tuple[str, str, int], tuple[Event, list[Group]]] = {}
    for group in empty:
        event = cause(case, group) if group.trainable else None
        if event is None:
            yield _unused(case, group)
            continue
        where = event.node.location
        known = by_line.setdefault((_code(event), where.path, where.line), (event, []))
        known[1].append(group)
    for event, groups in by_line.values():
        yield _cut_off(case, event, groups)


def cause(case: Case, group: Group) -> Event | None:
    """The last operation in what the loss is made of that cuts the group off."""
    leaves = case.mask([group])
    alive = case.analysis.alive
    found: list[Event] = []
    for node in case.analysis.graph.nodes:
        for index, edge in enumerate(node.inputs):
            if not alive(edge.source) & leaves and not _is_leaf(case, edge.source, leaves):
                continue
            if not edge.passes or node.op in FLAT:
                weight = 2 if node.op in ("stop", *FLAT) else 1 if edge.kind != INDEX else 0
                found.append(Event(node, index, weight))
    return max(found, key=lambda event: (event.weight, event.node.time), default=None)


def _is_leaf(case: Case, node: Node, leaves: int) -> bool:
    return node.leaf is not None and bool(case.analysis.bit(node) & leaves)


def _only_flat(case: Case, group: Group) -> bool:
    """Whether every path to the group goes through a rounding or a sign."""
    leaves = set(group.leaves)
    start = case.view.sink.loss
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        if node in leaves:
            return False
        if node.op in FLAT:
            continue
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return True


def _code(event: Event) -> str:
    return "GA205" if event.node.op == "sample" else "GA401"


def _cut_off(case: Case, event: Event, groups: list[Group]) -> Judgement:
    node = event.node
    how = _operation(node)
    verb = "gets" if len(groups) == 1 else "get"
    message = f"{_who(groups)} {verb} no gradient: {how} cuts it off here"
    if node.op == "sample":
        advice = "draw with `rsample()`: a sample by `sample()` carries no gradient"
    elif not node.grad_mode:
        advice = "compute this value with gradient switched on"
    else:
        advice = "take the stop away from the side that should learn"
    return Judgement(
        finding(case, _code(event), "error", message, _place(node), fix=advice, trace=_way(case, event, groups)),
        starved=tuple(group.name for group in groups),
        nodes=(node,),
    )


def _who(groups: list[Group]) -> str:
    return names(groups) + (", stated as trained," if groups[0].stated else "")


def _operation(node: Node) -> str:
    if not node.grad_mode and node.op != "stop":
        return f"`no_grad` around {describe(node)}"
    what = {"stop": node.detail or "a stop", "sample": "`sample()`", "cast": f"a cast ({node.detail})"}.get(node.op)
    return what or describe(node)


def _place(node: Node) -> Location:
    return node.location


def _way(case: Case, event: Event, groups: list[Group]) -> tuple[Step, ...]:
    """Downwards through the data: the loss, the cut, and on to the parameter."""
    leaves = case.mask(groups)
    below = event.node.inputs[event.index].source
    steps = [Step(case.view.sink.loss.location, "the loss"), Step(event.node.location, "gradient ends here")]
    node: Node | None = below
    seen: set[Node] = set()
    while node is not None and node not in seen:
        seen.add(node)
        if node.leaf is not None:
            steps.append(Step(steps[-1].location, f"the parameter {node.leaf.path}"))
            break
        if node.location.line and node.location.line != steps[-1].location.line:
            steps.append(Step(node.location, describe(node)))
        node = next((edge.source for edge in node.inputs if _leads(case, edge.source, leaves)), None)
    return tuple(step for step in steps if step.location.line)


def _leads(case: Case, node: Node, leaves: int) -> bool:
    return bool((case.analysis.alive(node) | case.analysis.bit(node)) & leaves)


def _unused(case: Case, group: Group) -> Judgement:
    loss = case.view.sink.loss
    depends = case.analysis.dep(loss) & case.mask([group])
    escaped = case.recording.escapes_of(group)
    advice = ""
    if escaped is not None:
        how = f"its values leave through `{escaped.detail}` here"
        message = f"{_who([group])} gets no gradient: {how}"
        return Judgement(
            finding(case, "GA401", "error", message, escaped.location, fix="stay with tensors up to the loss"),
            starved=(group.name,),
            nodes=(escaped,),
        )
    if depends and not group.trainable:
        message = f"{_who([group])} gets no gradient: its parameters have `requires_grad=False`"
        advice = "switch them on for this loss: `requires_grad_(True)`"
    elif depends:
        message = f"{_who([group])} is used by the loss and gets no gradient from it"
        advice = "follow its values to the loss: somewhere they are made anew from data"
    elif (taken := _captured_instead(case, group)) is not None:
        where, name = taken
        message = f"{_who([group])} is not used by this loss: it takes `{name}`, which it captures, in its place"
        advice = f"use {names([group])}, what gradient is taken for, and not `{name}`"
        return Judgement(finding(case, "GA402", "error", message, where, fix=advice), starved=(group.name,))
    else:
        message = f"{_who([group])} is not used by this loss"
        advice = "leave it out of the trained groups, or use it"
    return Judgement(finding(case, "GA402", "error", message, loss.location, fix=advice), starved=(group.name,))


def _captured_instead(case: Case, group: Group) -> tuple[Location, str] | None:
    """Where the loss takes arrays of the same names and shapes that it captures, and what they are called; None where
    it does not have all of them."""
    depends = case.analysis.leaves(case.analysis.dep(case.view.sink.loss))
    captured = [leaf for leaf in depends if leaf.leaf is not None and leaf.leaf.kind == "input"]
    found: list[tuple[Node, str]] = []
    for leaf in group.leaves:
        below = leaf.leaf.path.partition(".")[2] if leaf.leaf is not None else ""
        twins = [one for one in captured if below and one.leaf is not None and one.leaf.path.endswith("." + below)]
        twins = [one for one in twins if case.recording.shapes.get(one) == case.recording.shapes.get(leaf)]
        if len(twins) != 1 or twins[0].leaf is None:
            return None
        found.append((twins[0], twins[0].leaf.path.removesuffix("." + below)))
    if len({name for _, name in found}) != 1:
        return None
    nodes = {node for node, _ in found}
    first = next(one for one in case.analysis.graph.nodes if any(edge.source in nodes for edge in one.inputs))
    calls = activations(first.call)
    return (calls[-1] if calls else first).location, found[0][1]
