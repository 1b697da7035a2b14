"""A jaxpr with its nested jaxprs laid flat: one list of steps over one set of values.

`jit`, `remat`, `shard_map` and calls are entered and vanish; `scan`, `while` and `cond` are entered and leave steps of
their own where values are joined (`phi`), sliced (`getitem`) or stacked. Custom derivative rules stay closed: what
counts is the rule. Every value and every operand knows its place in the jaxpr, so that a stop can be put there later
(`jax_rewrite`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from gradaudit.dynamic.jax_lines import JaxLines, Region, Stack

Path = tuple[Any, ...]
"""Where an equation lies: equation indices, each followed by the parameter (and position) of the jaxpr entered."""

_INLINE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
    "shard_map": "jaxpr",
    "xla_call": "call_jaxpr",
    "run_state": "jaxpr",
    "mesh_cast": "jaxpr",
}

_KEEP = frozenset({"broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy", "pvary", "pcast", "clamp"})
"""Operations that hand on a constant unchanged (clamp: the index of a cond)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stop can be put: after output `index` of the equation at `path` (out), before its operand `index` (in),
    or at the entry of the jaxpr at `path`, on its argument `index` (arg)."""

    kind: str
    path: Path
    index: int


@dataclass(eq=False, slots=True)
class Value:
    """One array in the flat program. `literal` holds a Python or numpy constant; `name` names an input."""

    number: int
    aval: Any
    place: Place | None = None
    literal: Any = None
    name: str = ""

    @property
    def inexact(self) -> bool:
        return hasattr(self.aval, "dtype") and jnp.issubdtype(self.aval.dtype, jnp.inexact)


@dataclass(eq=False, slots=True)
class Step:
    """One equation (or a join that a control structure makes).

    primitive  its name; the joins are phi (detail loop, switch), getitem and stack
    passes     the (operand, output) pairs through which gradient passes; None until probed
    uses       where a stop on one operand goes; None where it cannot
    """

    primitive: str
    operands: list[Value]
    results: list[Value]
    stack: Stack
    path: Path = ()
    equation: Any = None
    detail: str = ""
    loops: tuple[int, ...] = ()
    passes: frozenset[tuple[int, int]] | None = None
    uses: list[Place | None] = field(default_factory=list)
    library: bool = False
    region: Region | None = None

    @property
    def join(self) -> bool:
        return self.equation is None


@dataclass(eq=False, slots=True)
class Flat:
    """The flat program: its inputs in the order of the jaxpr's, captured constants, steps and outputs."""

    inputs: list[Value]
    constants: list[Value]
    steps: list[Step]
    outputs: list[Value]


def flatten(
    closed: Any, names: Sequence[str], lines: JaxLines, whole: Container[str] = frozenset(), library: bool = False
) -> Flat:
    """Lay a ClosedJaxpr flat. `names` name its inputs; library functions jitted under a name in `whole` stay one step.

    `library` says that no equation of it has lines of its own.
    """
    walk = _Walk(lines, whole)
    environment: dict[Any, Value] = {}
    jaxpr = closed.jaxpr
    inputs = [walk.bind(environment, var, Place("arg", (), i)) for i, var in enumerate(jaxpr.invars)]
    for value, name in zip(inputs, names, strict=True):
        value.name = name
    constants = []
    for var, array in zip(jaxpr.constvars, closed.consts, strict=True):
        value = walk.bind(environment, var, None)
        value.literal = array
        constants.append(value)
    walk.jaxpr(jaxpr, environment, _Scope((), library=library))
    return Flat(inputs, constants, walk.steps, [walk.read(environment, var) for var in jaxpr.outvars])


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a nested jaxpr inherits: its path, the stack of the equation outside, its loops, and whether it is library
    code (its own tracebacks are then those of another call)."""

    path: Path
    stack: Stack = ()
    loops: tuple[int, ...] = ()
    library: bool = False
    region: Region | None = None


class _Walk:
    def __init__(self, lines: JaxLines, whole: Container[str]) -> None:
        self.lines = lines
        self.whole = whole
        self.steps: list[Step] = []
        self.made: dict[Value, Step] = {}
        self.values = 0
        self.loops = 0

    def new(self, aval: Any, place: Place | None, literal: Any = None) -> Value:
        self.values += 1
        return Value(self.values, aval, place, literal)

    def bind(self, environment: dict[Any, Value], var: Any, place: Place | None) -> Value:
        value = environment[var] = self.new(var.aval, place)
        return value

    def read(self, environment: dict[Any, Value], var: Any) -> Value:
        if isinstance(var, Literal):
            return self.new(var.aval, None, var.val)
        return environment[var]

    def jaxpr(self, jaxpr: Any, environment: dict[Any, Value], scope: _Scope) -> None:
        for index, equation in enumerate(jaxpr.eqns):
            path = (*scope.path, index)
            stack, region = scope.stack, scope.region
            if scope.library:
                stack = self.lines.inside(equation.source_info.traceback, jaxpr) + scope.stack
            else:
                own, called = self.lines.read(equation.source_info.traceback)
                stack, region = self.lines.splice(own, jaxpr, scope.stack), region or called
            inner = _Scope(path, stack, scope.loops, scope.library, region)
            operands = [self.read(environment, var) for var in equation.invars]
            handler = _HANDLERS.get(equation.primitive.name)
            results = handler(self, equation, operands, inner) if handler else None
            if results is None:
                results = self.plain(equation, operands, inner)
            for var, value in zip(equation.outvars, results, strict=True):
                environment[var] = value

    def plain(self, equation: Any, operands: list[Value], scope: _Scope) -> list[Value]:
        results = [self.new(var.aval, Place("out", scope.path, i)) for i, var in enumerate(equation.outvars)]
        step = Step(
            equation.primitive.name,
            operands,
            results,
            scope.stack,
            scope.path,
            equation,
            loops=scope.loops,
            uses=[Place("in", scope.path, i) for i in range(len(operands))],
            library=scope.library,
            region=scope.region,
        )
        self.steps.append(step)
        self.made.update(dict.fromkeys(results, step))
        return results

    def join(
        self, name: str, detail: str, operands: list[Value], result: Value, scope: _Scope, uses: list[Place | None]
    ) -> Value:
        passes = frozenset((i, 0) for i, value in enumerate(operands) if value.inexact and result.inexact)
        self.steps.append(
            Step(
                name,
                operands,
                [result],
                scope.stack,
                scope.path,
                None,
                detail,
                scope.loops,
                passes,
                uses,
                region=scope.region,
            )
        )
        return result

    def constant(self, value: Value) -> int | None:
        """The one number that a value holds throughout, if that is known while tracing: a setting. An array of equal
        numbers is data that happens to be so."""
        for _ in range(16):
            if value.literal is not None:
                try:
                    number = np.asarray(value.literal)
                except Exception:  # a typed key, a tracer
                    return None
                return int(number.item()) if number.size == 1 else None
            step = self.made.get(value)
            if step is None or step.primitive not in _KEEP:
                return None
            value = step.operands[0]
        return None

    def enter(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value], scope: _Scope) -> list[Value]:
        """Walk a nested jaxpr with these arguments; its outputs."""
        environment: dict[Any, Value] = {}
        for var, array in zip(jaxpr.constvars, consts, strict=False):
            self.bind(environment, var, None).literal = array
        for var, value in zip(jaxpr.invars, arguments, strict=True):
            environment[var] = value
        known = self.lines.is_library(jaxpr)
        library = scope.library if known is None else known
        self.jaxpr(jaxpr, environment, replace(scope, library=library))
        return [self.read(environment, var) for var in jaxpr.outvars]


def open_jaxpr(value: Any) -> tuple[Any, tuple[Any, ...]]:
    """(jaxpr, consts) of an open or closed jaxpr."""
    return (value.jaxpr, tuple(value.consts)) if hasattr(value, "jaxpr") else (value, ())


def _inline(walk: _Walk, equation: Any, operands: list[Value], scope: _Scope) -> list[Value] | None:
    key = _INLINE[equation.primitive.name]
    if key not in equation.params:
        return None
    jaxpr, consts = open_jaxpr(equation.params[key])
    if str(equation.params.get("name", "")) in walk.whole and walk.lines.is_library(jaxpr):
        return None  # a library function with a name of its own: one step
    inner = replace(scope, path=(*scope.path, (key, None)))
    return walk.enter(jaxpr, consts, operands, inner)


def _scan(walk: _Walk, equation: Any, operands: list[Value], scope: _Scope) -> list[Value]:
    params = equation.params
    jaxpr, consts = open_jaxpr(params["jaxpr"])
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    walk.loops += 1
    loops = (*scope.loops, walk.loops)
    path = (*scope.path, ("jaxpr", None))
    inside = replace(scope, path=path, loops=loops)
    arguments = list(operands[:n_consts])
    heads: list[Step] = []
    for i, var in enumerate(jaxpr.invars[n_consts:], start=n_consts):
        value = walk.new(var.aval, Place("arg", path, i))
        use: list[Place | None] = [Place("in", scope.path, i)]
        carried = i < n_consts + n_carry
        name, detail = ("phi", "loop") if carried else ("getitem", "[t]")
        walk.join(name, detail, [operands[i]], value, inside, use)
        if carried:
            heads.append(walk.steps[-1])
        arguments.append(value)
    outputs = walk.enter(jaxpr, consts, arguments, inside)
    for head, output in zip(heads, outputs[:n_carry], strict=True):
        _back_edge(head, output)
    results = []
    for i, (var, output) in enumerate(zip(equation.outvars, outputs, strict=True)):
        result = walk.new(var.aval, Place("out", scope.path, i))
        name, detail = ("phi", "exit") if i < n_carry else ("stack", "")
        results.append(walk.join(name, detail, [output], result, scope, [None]))
    return results


def _back_edge(step: Step, output: Value) -> None:
    """The value of the last iteration flows into the loop head."""
    step.operands.append(output)
    step.uses.append(None)
    if output.inexact and step.results[0].inexact:
        step.passes = (step.passes or frozenset()) | {(len(step.operands) - 1, 0)}


def _while(walk: _Walk, equation: Any, operands: list[Value], scope: _Scope) -> list[Value]:
    params = equation.params
    body, body_consts = open_jaxpr(params["body_jaxpr"])
    cond, cond_consts = open_jaxpr(params["cond_jaxpr"])
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    walk.loops += 1
    path = (*scope.path, ("body_jaxpr", None))
    inside = replace(scope, path=path, loops=(*scope.loops, walk.loops))
    heads: list[Value] = []
    steps: list[Step] = []
    for i, var in enumerate(body.invars[n_body:], start=n_body):
        value = walk.new(var.aval, Place("arg", path, i))
        walk.join("phi", "loop", [operands[n_cond + i]], value, inside, [Place("in", scope.path, n_cond + i)])
        steps.append(walk.steps[-1])
        heads.append(value)
    test = replace(inside, path=(*scope.path, ("cond_jaxpr", None)))
    walk.enter(cond, cond_consts, [*operands[:n_cond], *heads], test)
    outputs = walk.enter(body, body_consts, [*operands[n_cond : n_cond + n_body], *heads], inside)
    for step, output in zip(steps, outputs, strict=True):
        _back_edge(step, output)
    results = []
    for i, (var, head) in enumerate(zip(equation.outvars, heads, strict=True)):
        result = walk.new(var.aval, Place("out", scope.path, i))
        results.append(walk.join("phi", "exit", [head], result, scope, [None]))
    return results


def _cond(walk: _Walk, equation: Any, operands: list[Value], scope: _Scope) -> list[Value]:
    ends: list[list[Value]] = []
    chosen = walk.constant(operands[0])
    for i, branch in enumerate(equation.params["branches"]):
        if chosen is not None and i != chosen:
            continue
        jaxpr, consts = open_jaxpr(branch)
        inner = replace(scope, path=(*scope.path, ("branches", i)))
        ends.append(walk.enter(jaxpr, consts, operands[1:], inner))
    results = []
    for i, var in enumerate(equation.outvars):
        result = walk.new(var.aval, Place("out", scope.path, i))
        walk.join("phi", "switch", [end[i] for end in ends], result, scope, [None] * len(ends))
        walk.steps[-1].operands.append(operands[0])  # the condition: value, never gradient
        walk.steps[-1].uses.append(None)
        results.append(result)
    return results


def _select(walk: _Walk, equation: Any, operands: list[Value], scope: _Scope) -> list[Value] | None:
    """A choice that is made while tracing (a flag) is no choice: only the chosen operand is used."""
    chosen = walk.constant(operands[0])
    if chosen is None:
        return None
    result = walk.new(equation.outvars[0].aval, Place("out", scope.path, 0))
    use: list[Place | None] = [Place("in", scope.path, 1 + chosen)]
    return [walk.join("copy", "", [operands[1 + chosen]], result, scope, use)]


_HANDLERS = {"select_n": _select, **dict.fromkeys(_INLINE, _inline), "scan": _scan, "while": _while, "cond": _cond}


def producers(flat: Flat) -> dict[Value, tuple[Step, int]]:
    """The step and output index that make each value."""
    return {value: (step, i) for step in flat.steps for i, value in enumerate(step.results)}


def live_edges(flat: Flat) -> Iterator[tuple[Value, Value]]:
    """(source, result) for every pair through which gradient passes, in order of the program."""
    for step in flat.steps:
        for operand, output in sorted(step.passes or ()):
            yield step.operands[operand], step.results[output]


def is_key(aval: Any) -> bool:
    """A typed random key: not an array of numbers."""
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, jax.dtypes.extended)
