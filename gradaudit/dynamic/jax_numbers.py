"""The numbers: a jaxpr's value and its gradients on the arrays of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gradaudit.dynamic.jax_flatten import Value
from gradaudit.dynamic.jax_program import Program
from gradaudit.dynamic.jax_rewrite import run
from gradaudit.errors import CheckError

LONG = 400
"""Steps beyond which a program is run operation by operation."""


@dataclass(slots=True)
class Numbers:
    """The loss, and the gradient of every slot that it reaches (the others have no path)."""

    value: np.ndarray
    gradients: dict[int, np.ndarray]

    def norm(self, slot: int) -> float | None:
        """The gradient's norm; None without a path."""
        array = self.gradients.get(slot)
        return None if array is None else float(np.linalg.norm(np.asarray(array, np.float64).ravel()))


def gradients(program: Program, measured: set[int]) -> Numbers:
    """Value and gradients of a traced loss. `measured` are the slots asked for beside the differentiated ones."""
    wanted = reached_slots(program, program.differentiated | measured, program.reached)
    try:
        numbers = evaluate(program, program.closed, wanted)
    except Exception:
        if not measured:
            raise
        numbers = evaluate(program, program.closed, [i for i in wanted if i in program.differentiated])
    if not np.isfinite(numbers.value):
        raise CheckError(
            f"the loss is {float(numbers.value)} on these inputs, so its gradient says nothing; give others (--inputs, "
            "--seed), or find out why"
        )
    return numbers


def reached_slots(program: Program, slots: set[int], reached: set[Value]) -> list[int]:
    """Those of `slots` whose input gradient reaches."""
    return [i for i, value in program.inputs().items() if i in slots and value in reached]


def evaluate(program: Program, closed: Any, wanted: list[int]) -> Numbers:
    """Run a jaxpr with the program's inputs, differentiated for the wanted slots."""
    function = run(closed)
    position = {slot: i for i, slot in enumerate(program.traced)}
    arrays = [program.arguments.arrays[i] for i in program.traced]

    def loss(moving: list[Any], everything: list[Any]) -> Any:
        filled = list(everything)
        for slot, array in zip(wanted, moving, strict=True):
            filled[position[slot]] = array
        return function(*filled)[0]

    moving = [jax.numpy.asarray(program.arguments.arrays[i]) for i in wanted]
    try:
        value, grads = _compiled(program, jax.value_and_grad(loss))(moving, arrays)
        value = np.asarray(value)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise CheckError(f"the loss cannot be differentiated: {type(error).__name__}: {reason}") from error
    jax.effects_barrier()  # what the loss prints, it prints now
    return Numbers(value, {slot: _host(array) for slot, array in zip(wanted, grads, strict=True)})


def value_of(program: Program, closed: Any) -> np.ndarray:
    """The loss alone, without the backward pass beside it."""
    function = _compiled(program, run(closed))
    return np.asarray(function(*(program.arguments.arrays[i] for i in program.traced))[0])


def _compiled(program: Program, function: Callable[..., Any]) -> Callable[..., Any]:
    """Under `jit`, as the loss is used; a long unrolled program takes the compiler longer than it takes to run."""
    return jax.jit(function) if len(program.flat.steps) <= LONG else function


def _host(array: Any) -> np.ndarray:
    host = np.asarray(array)
    return host if host.dtype.kind in "fc" else host.astype(np.float32)  # bfloat16 and the small floats
