"""The counterfactual: a jaxpr with `stop_gradient` put in at chosen places, however deeply they are nested.

The jaxpr itself is edited, so nothing is evaluated again in another way: what runs is the loss that was traced, with
one more equation. Works inside jit, scan, while, cond, remat, shard_map and pmap alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax.extend.core as jax_core
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.extend.core.primitives import stop_gradient_p

from gradaudit.dynamic.jax_flatten import Path, Place


def with_stops(closed: Any, places: Iterable[Place]) -> Any:
    """A ClosedJaxpr like `closed` with a stop at every place. Integer values need none and get none."""
    wanted: dict[Path, set[tuple[str, int]]] = {}
    for place in places:
        wanted.setdefault(place.path, set()).add((place.kind, place.index))
    return closed.replace(jaxpr=_jaxpr(closed.jaxpr, (), wanted))


def run(closed: Any) -> Callable[..., list[Any]]:
    """The flat function of a ClosedJaxpr."""
    return jax_core.jaxpr_as_fun(closed)


def _jaxpr(jaxpr: Any, path: Path, wanted: dict[Path, set[tuple[str, int]]]) -> Any:
    renamed: dict[Any, Any] = {}
    equations = []
    for kind, index in sorted(wanted.get(path, ())):
        if kind == "arg" and _inexact(jaxpr.invars[index]):
            old = jaxpr.invars[index]
            renamed[old] = fresh = jax_core.Var(old.aval)
            equations.append(_stop(old, fresh, jaxpr.eqns[0] if jaxpr.eqns else None))
    for index, equation in enumerate(jaxpr.eqns):
        here = (*path, index)
        equation = equation.replace(
            invars=[_rename(var, renamed) for var in equation.invars], params=_params(equation, here, wanted)
        )
        equations.extend(_stopped(equation, wanted.get(here, set())))
    outvars = [_rename(var, renamed) for var in jaxpr.outvars]
    return jaxpr.replace(eqns=equations, outvars=outvars)


def _rename(var: Any, renamed: dict[Any, Any]) -> Any:
    return var if isinstance(var, Literal) else renamed.get(var, var)


def _params(equation: Any, here: Path, wanted: dict[Path, set[tuple[str, int]]]) -> dict[str, Any]:
    """The parameters with their jaxprs edited where a place lies below."""
    below = {path[len(here)] for path in wanted if len(path) > len(here) and path[: len(here)] == here}
    if not below:
        return equation.params
    params = dict(equation.params)
    for key, position in sorted(below, key=str):
        inner = (*here, (key, position))
        if position is None:
            params[key] = _nested(params[key], inner, wanted)
        else:
            branches = list(params[key])
            branches[position] = _nested(branches[position], inner, wanted)
            params[key] = tuple(branches)
    return params


def _nested(value: Any, path: Path, wanted: dict[Path, set[tuple[str, int]]]) -> Any:
    if hasattr(value, "jaxpr"):
        return value.replace(jaxpr=_jaxpr(value.jaxpr, path, wanted))
    return _jaxpr(value, path, wanted)


def _stopped(equation: Any, marks: set[tuple[str, int]]) -> list[Any]:
    """The equation with stops on some of its operands and results."""
    before, after = [], []
    invars, outvars = list(equation.invars), list(equation.outvars)
    for kind, index in sorted(marks):
        if kind == "in" and not isinstance(invars[index], Literal) and _inexact(invars[index]):
            fresh = jax_core.Var(invars[index].aval)
            before.append(_stop(invars[index], fresh, equation))
            invars[index] = fresh
        elif kind == "out" and _inexact(outvars[index]):
            fresh = jax_core.Var(outvars[index].aval)
            after.append(_stop(fresh, outvars[index], equation))
            outvars[index] = fresh
    return [*before, equation.replace(invars=invars, outvars=outvars), *after]


def _stop(source: Any, result: Any, beside: Any) -> Any:
    """`result = stop_gradient(source)`, with the source line and context of the equation beside it."""
    info = beside.source_info if beside is not None else None
    context = getattr(beside, "ctx", None)
    try:
        return jax_core.new_jaxpr_eqn([source], [result], stop_gradient_p, {}, set(), info, context)
    except TypeError:  # versions whose equations have no context
        return jax_core.new_jaxpr_eqn([source], [result], stop_gradient_p, {}, set(), info)


def _inexact(var: Any) -> bool:
    return hasattr(var.aval, "dtype") and jnp.issubdtype(var.aval.dtype, jnp.inexact)
