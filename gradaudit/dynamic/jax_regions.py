"""Library calls that are one operation to a user and many equations to jax: log_prob, softmax, huber_loss ...

Their equations are known by the library function on their tracebacks. A region is one such call; on the tape it is one
node for each value that leaves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gradaudit.dynamic.jax_flatten import Flat, Place, Step, Value

ALONE = {"mse_loss": "square", "huber_loss": "huber", "smooth_l1_loss": "logcosh"}
"""What a loss of two operands is when it is given one, a difference."""

PAIRS = frozenset({"kl_divergence", "cross_entropy", "binary_cross_entropy", "cosine_similarity", *ALONE})
SINGLES = frozenset({"softmax", "logsumexp", "normalize"})


@dataclass(eq=False, slots=True)
class Taken:
    """A value that a region takes from outside: where it is used, and whether gradient passes from it."""

    value: Value
    uses: list[Place] = field(default_factory=list)
    passes: bool = False


@dataclass(eq=False, slots=True)
class Region:
    """One library call: its steps, and for every value that leaves it what it takes, in order of first use."""

    op: str
    steps: list[Step]
    outputs: dict[Value, list[Taken]] = field(default_factory=dict)


def regions(flat: Flat) -> dict[Step, Region]:
    """The regions that can be folded, by step."""
    found: dict[object, Region] = {}
    for step in flat.steps:
        if step.region is not None:
            found.setdefault((step.region, step.stack), Region(step.region[0], [])).steps.append(step)
    users: dict[Value, list[Step]] = {}
    for step in flat.steps:
        for value in step.operands:
            users.setdefault(value, []).append(step)
    folded: dict[Step, Region] = {}
    for region in found.values():
        if _fold(region, users, set(flat.outputs)):
            folded.update(dict.fromkeys(region.steps, region))
    return folded


def _fold(region: Region, users: dict[Value, list[Step]], ends: set[Value]) -> bool:
    inside = set(region.steps)
    if any(step.join and step.primitive == "phi" for step in inside):
        return False
    made = {value: (step, i) for step in region.steps for i, value in enumerate(step.results)}
    for value in made:
        if value in ends or any(user not in inside for user in users.get(value, ())):
            region.outputs[value] = _taken(value, made)
    if not region.outputs:
        return False
    return all(_fits(region, value, taken) for value, taken in region.outputs.items())


def _fits(region: Region, value: Value, taken: list[Taken]) -> bool:
    count = sum(one.value.inexact or one.passes for one in taken)
    if not value.inexact:
        return False
    if region.op in SINGLES:
        return count == 1
    if region.op in PAIRS:
        return len(taken) == 2 or (len(taken) == 1 and region.op in ALONE)
    return bool(taken)


def _taken(end: Value, made: dict[Value, tuple[Step, int]]) -> list[Taken]:
    """What a value is made of, from outside the region."""
    live, reach = {end}, {end}
    order: list[Step] = []
    waiting: list[tuple[Value, bool]] = [(end, True)]
    while waiting:
        value, alive = waiting.pop()
        found = made.get(value)
        if found is None:
            continue
        step, output = found
        if step not in order:
            order.append(step)
        for i, operand in enumerate(step.operands):
            passes = alive and (i, output) in (step.passes or ())
            if operand not in reach or (passes and operand not in live):
                reach.add(operand)
                if passes:
                    live.add(operand)
                waiting.append((operand, passes))
    return _in_order(order, made, live)


def _in_order(steps: Iterable[Step], made: dict[Value, tuple[Step, int]], live: set[Value]) -> list[Taken]:
    taken: dict[Value, Taken] = {}
    for step in sorted(steps, key=lambda step: step.results[0].number):
        for i, operand in enumerate(step.operands):
            if operand in made or operand.literal is not None:
                continue
            one = taken.setdefault(operand, Taken(operand, passes=operand in live))
            place = step.uses[i] if i < len(step.uses) else None
            if place is not None:
                one.uses.append(place)
    return list(taken.values())
