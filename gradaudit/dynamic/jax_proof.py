"""The counterfactual: the same jaxpr with a stop at the cut, on the same arrays, compared with the run as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradaudit.dynamic.groups import state_of
from gradaudit.dynamic.jax_flatten import Place, flatten
from gradaudit.dynamic.jax_numbers import Numbers, evaluate, value_of
from gradaudit.dynamic.jax_ops import CLOSED
from gradaudit.dynamic.jax_probe import Probe
from gradaudit.dynamic.jax_program import Program, reached
from gradaudit.dynamic.jax_rewrite import with_stops
from gradaudit.dynamic.jax_tape import Written
from gradaudit.dynamic.recording import NONE, Change, Cut, Group, Proof, Recording
from gradaudit.tape import Node

ROUNDING = 2e-6
"""A relative difference below this is what the compiler's reordering leaves; the gradient counts as unchanged."""


def prove(recording: Recording, program: Program, written: Written, before: Numbers, cut: Cut, probe: Probe) -> Proof:
    """What becomes of value and gradients with a stop at `cut`."""
    places, missing = _places(written, cut)
    if missing:
        return Proof(False, float(before.value), note=missing)
    closed = with_stops(program.closed, places)
    flat = flatten(closed, [program.slots[i].name for i in program.traced], program.lines, CLOSED)
    probe.run(flat)
    live = reached(flat)
    wanted = [slot for slot, value in zip(program.traced, flat.inputs, strict=True) if value in live]
    after = evaluate(program, closed, [slot for slot in wanted if slot in before.gradients])
    same = _same_value(program, closed, before, after)
    slots = {written.nodes[value]: slot for slot, value in program.inputs().items()}
    compared = [_compare(group, slots, before, after) for group in recording.groups]
    return Proof(
        identical=same,
        value=float(after.value),
        changes=tuple(change for change, news in compared if news),
        states={change.group: change.after for change, _ in compared},
        note="" if same else "the value with the stop is another one",
    )


def _same_value(program: Program, closed: Any, before: Numbers, after: Numbers) -> bool:
    """Bit for bit; where the backward pass beside it has made the compiler round otherwise, the loss alone decides."""
    if before.value.tobytes() == after.value.tobytes():
        return True
    return value_of(program, program.closed).tobytes() == value_of(program, closed).tobytes()


def _compare(group: Group, slots: Mapping[Node, int], before: Numbers, after: Numbers) -> tuple[Change, bool]:
    members = [slots[node] for node in group.leaves if node in slots]
    old, new = (_stacked(numbers, members) for numbers in (before, after))
    state = NONE
    if new is not None:
        state = state_of(_norm(new), max((after.norm(slot) or 0.0 for slot in after.gradients), default=0.0))
    norms = _norm(old), _norm(new)
    if new is None or old is None:
        difference = norms[0] if new is None else norms[1]
    else:
        difference = _norm([a - b for a, b in zip(new, old, strict=True)])
    relative = difference / norms[0] if norms[0] else float(difference > 0)
    change = Change(group.name, group.state, state, norms[0], norms[1], relative)
    return change, state != group.state or relative > ROUNDING


def _stacked(numbers: Numbers, members: list[int]) -> list[np.ndarray] | None:
    """The gradients of a group's tensors, zeros where a tensor has no path; None where none of them has."""
    if not any(slot in numbers.gradients for slot in members):
        return None
    return [np.asarray(numbers.gradients.get(slot, 0.0), np.float64) for slot in members]


def _norm(arrays: list[np.ndarray] | None) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(np.abs(array)))) for array in arrays or ())))


def _places(written: Written, cut: Cut) -> tuple[list[Place], str]:
    """Where the stops go, or why they cannot be made."""
    places: list[Place] = []
    for node in (*cut.values, *cut.freeze):
        place = written.results.get(node)
        if place is None:
            return [], f"no stop can be put on {node.op!r} at line {node.location.line}"
        places.append(place)
    for node, index in cut.operands:
        found = written.operands.get((node, index))
        if not found:
            source = written.results.get(node.inputs[index].source)
            if source is None:
                return [], f"no stop can be put on operand {index} of {node.op!r} at line {node.location.line}"
            found = (source,)
        places.extend(found)
    return places, ""
