"""Which operands of an equation does gradient reach, and from which outputs? Asked of `jax.vjp` itself.

Each kind of equation (primitive, parameters, types of its operands) is asked once: the equation alone is transposed
under abstract values, and what the cotangents of its operands depend on is read off the resulting jaxpr. That needs no
table of derivatives and honours custom rules. Tables are left for what cannot be asked alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jax_core
import jax.numpy as jnp

from gradaudit.dynamic.jax_flatten import Flat, Step, Value, flatten, is_key
from gradaudit.dynamic.jax_lines import JaxLines

Passes = frozenset[tuple[int, int]]

STOPS = frozenset({"stop_gradient", "pure_callback", "io_callback", "debug_callback", "debug_print"})
"""Never pass gradient. A callback that is differentiated raises; used beneath a stop, it is one."""

COLLECTIVES = frozenset(
    "psum psum2 psum_invariant pmean pmax pmin all_gather all_gather_invariant all_to_all ppermute pbroadcast pvary "
    "pcast reduce_scatter unreduced_psum pgather all_gather_reduced sharding_constraint reshard optimization_barrier "
    "copy_p copy device_put".split()
)
"""Linear, and not to be traced alone: the axis they name is bound outside. Operand i goes to output i."""

_CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"})


class Probe:
    """Remembers what it has asked. `unknown` collects the primitives that could not be asked (assumed to pass all)."""

    def __init__(self) -> None:
        self.known: dict[object, Passes] = {}
        self.kept: list[Any] = []
        self.unknown: dict[str, str] = {}

    def run(self, flat: Flat) -> None:
        """Fill in `passes` of every step."""
        for step in flat.steps:
            if step.passes is None:
                step.passes = self.passes(step)

    def passes(self, step: Step) -> Passes:
        """The (operand, output) pairs of one step through which gradient passes; constants carry none."""
        asked = self._asked(step)
        return frozenset((i, o) for i, o in asked if step.operands[i].literal is None)

    def _asked(self, step: Step) -> Passes:
        name = step.primitive
        if name in STOPS or not _differentiable(step.operands) or not _differentiable(step.results):
            return frozenset()
        if name in COLLECTIVES:
            return _pairwise(step)
        key = self._key(step)
        answer = self.known.get(key)
        if answer is None:
            answer = self.known[key] = self._ask(step)
        return answer

    def _key(self, step: Step) -> object:
        types = tuple((str(v.aval.dtype), v.aval.ndim) for v in step.operands if hasattr(v.aval, "ndim"))
        params = step.equation.params
        if step.primitive not in _CUSTOM:
            return step.primitive, types, _text(params)
        name = params.get("name")
        if step.library or _is_jax(params.get("call_jaxpr")):
            return step.primitive, name, types
        self.kept.append(step.equation)  # a user's rule is asked each time: it may close over anything
        return step.primitive, name, id(step.equation)

    def _ask(self, step: Step) -> Passes:
        try:
            return _transpose(step)
        except Exception as error:  # whatever a primitive may raise when it stands alone
            self.unknown.setdefault(step.primitive, f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")
            return _all(step)


def _differentiable(values: Sequence[Value]) -> bool:
    return any(value.inexact for value in values)


def _all(step: Step) -> Passes:
    return frozenset(
        (i, o)
        for i, value in enumerate(step.operands)
        if value.inexact
        for o, result in enumerate(step.results)
        if result.inexact
    )


def _pairwise(step: Step) -> Passes:
    if len(step.operands) != len(step.results):
        return _all(step)
    return frozenset((i, i) for i, value in enumerate(step.operands) if value.inexact)


def _text(params: dict[str, Any]) -> str:
    return ";".join(f"{key}={value}" for key, value in sorted(params.items()))


def _is_jax(closed: Any) -> bool:
    jaxpr = getattr(closed, "jaxpr", closed)
    source = str(getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None) or "")
    return source.rpartition(" at ")[2].startswith(_jax_root())


@functools.cache
def _jax_root() -> str:
    return str(jax.__file__).rpartition("/")[0] + "/"


def _transpose(step: Step) -> Passes:
    """Transpose one equation and see which cotangents come out of which."""
    equation = step.equation
    # The equation's own types: inside shard_map an array is smaller than the value that was passed in.
    variables = [jax_core.Var(var.aval) for var in equation.invars]
    outputs = [jax_core.Var(var.aval) for var in equation.outvars]
    alone = equation.replace(invars=variables, outvars=outputs)
    jaxpr = _jaxpr(variables, outputs, alone)
    run = jax_core.jaxpr_as_fun(jax_core.ClosedJaxpr(jaxpr, ()))
    floats = [i for i, value in enumerate(step.operands) if value.inexact]
    wanted = [o for o, value in enumerate(step.results) if value.inexact]

    def backward(operands: list[Any], cotangents: list[Any]) -> list[Any]:
        def forward(*moving: Any) -> list[Any]:
            everything = list(operands)
            for i, array in zip(floats, moving, strict=True):
                everything[i] = array
            results = run(*everything)
            return [results[o] for o in wanted]

        pullback = jax.vjp(forward, *(operands[i] for i in floats))[1]
        return list(pullback(cotangents))

    closed = jax.make_jaxpr(backward)([_like(var.aval) for var in variables], [_like(outputs[o].aval) for o in wanted])
    return _depends(closed, len(step.operands), floats, wanted)


def _depends(closed: Any, before: int, floats: list[int], wanted: list[int]) -> Passes:
    flat = flatten(closed, [""] * len(closed.jaxpr.invars), JaxLines(), library=True)
    reach: dict[Value, int] = {value: 1 << k for k, value in enumerate(flat.inputs[before:])}
    changed = True
    while changed:  # loops inside need more than one pass
        changed = False
        for step in flat.steps:
            mask = 0
            for operand in step.operands:
                mask |= reach.get(operand, 0)
            for result in step.results:
                if mask & ~reach.get(result, 0):
                    reach[result] = reach.get(result, 0) | mask
                    changed = True
    return frozenset(
        (i, wanted[k])
        for i, value in zip(floats, flat.outputs, strict=True)
        for k in range(len(wanted))
        if reach.get(value, 0) >> k & 1
    )


def _like(aval: Any) -> Any:
    """An abstract array of this type (typed keys included)."""
    if is_key(aval):
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


@functools.cache
def _empty() -> Any:
    return jax.make_jaxpr(lambda: jnp.zeros(()))().jaxpr


def _jaxpr(variables: list[Any], outputs: list[Any], equation: Any) -> Any:
    parts = {"constvars": [], "invars": variables, "outvars": outputs, "eqns": [equation], "effects": equation.effects}
    try:
        return _empty().replace(**parts, debug_info=None)
    except Exception:  # versions that insist on the debug info they have
        return _empty().replace(**parts)
