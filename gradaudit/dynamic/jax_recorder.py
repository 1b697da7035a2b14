"""The jax recorder: a loss's jaxpr, flattened and probed, as a tape; and the loss again with a stop in it.

The structural answer comes from the jaxpr, the numbers from `jax.value_and_grad` of that same jaxpr under `jit`: the
loss is traced once, so whatever is random or printed in it happens once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from gradaudit.dynamic.groups import LeafGradient, build
from gradaudit.dynamic.jax_frames import assign
from gradaudit.dynamic.jax_leaves import Leaves
from gradaudit.dynamic.jax_numbers import gradients
from gradaudit.dynamic.jax_probe import Probe
from gradaudit.dynamic.jax_program import Program, trace
from gradaudit.dynamic.jax_proof import prove
from gradaudit.dynamic.jax_tape import Writer, Written
from gradaudit.dynamic.jax_trees import has_jax
from gradaudit.dynamic.jax_updates import losses_of
from gradaudit.dynamic.module_text import argnums_in_text, entries_in_text, replaced_in_text
from gradaudit.dynamic.recording import Cut, InputSpec, LossCall, Proof, Recording
from gradaudit.dynamic.roles import Roles
from gradaudit.errors import CheckError, UserCodeError
from gradaudit.tape import PARAMETER, Event, Location, Node, Sink, Tape


class JaxRecorder:
    """`recording.Recorder` for jax. Keeps what it has learned of primitives from one loss to the next."""

    framework = "jax"

    def __init__(self) -> None:
        self.probe = Probe()

    def accepts(self, call: LossCall) -> bool:
        """Whether jax arrays are among the arguments, or jax in reach of the function."""
        if call.framework:
            return call.framework == "jax"
        return has_jax(call.arguments()) or has_jax(call.scope) or _speaks_jax(call.function)

    def record(self, call: LossCall, roles: Roles) -> Recording:
        """Trace the loss, follow its gradient, and measure it. Raises `CheckError` where it cannot be audited."""
        program = trace(call, roles, self.probe)
        leaves = Leaves(program)
        numbers = gradients(program, leaves.others)
        tape = Tape(framework="jax", entry=call.target)
        written = Writer(program.flat, tape, program.lines, leaves.leaf).run()
        assign(tape.nodes, leaves.network_of, written.foreign.__contains__)
        rows = leaves.rows(written, numbers, program.reached)
        tape.sinks.append(_sink(program, written, call))
        tape.roles.update({row.node: row.role for row in rows if row.stated})
        tape.sinks[0].own = _own(tape, leaves.followers)
        if not roles and len(call.argnums or (0,)) == 1:
            tape.sinks[0].own = _entries(rows, entries_in_text(call.function)) or tape.sinks[0].own
        nodes = {row.name: row.node for row in rows}
        tape.events += _replaced(call, rows, tape.sinks[0])
        tape.events += _averages(call, nodes, lambda name: leaves.beside(written, name), tape.sinks[0].time)
        return Recording(
            framework="jax",
            call=call,
            tape=tape,
            value=float(numbers.value),
            groups=build(rows),
            shapes=written.shapes,
            wholes=[frozenset(row.node for row in rows if row.name in names) for names in program.wholes],
            applied=frozenset(node for node in tape.nodes if node not in written.foreign and _applies(node)),
            notes=[*program.notes, *_doubts(self.probe, program)],
            handle=(program, written, numbers),
        )

    def record_all(self, call: LossCall, roles: Roles) -> list[Recording]:
        """One recording; of a function that takes gradients itself, one for each loss that it differentiates."""
        if call.argnums is None and not roles:
            call = replace(call, argnums=argnums_in_text(call.function))
        try:
            whole = self.record(call, roles)
        except (CheckError, UserCodeError):
            losses = losses_of(call)
            if not losses:
                raise
            return [self.record(one, roles) for one in losses]
        losses = self._inside(whole)
        return [self.record(one, roles) for one in losses] if losses else [whole]

    def _inside(self, whole: Recording) -> list[LossCall]:
        """The losses of a step that hands back the new parameters beside a loss: it is none itself."""
        program, _, _ = whole.handle
        if not program.renews or whole.call.argnums is not None:
            return []
        try:
            return losses_of(whole.call)
        except UserCodeError:
            return []

    def counterfactual(self, recording: Recording, cut: Cut) -> Proof:
        """The same jaxpr with `stop_gradient` at the cut, run on the same arrays."""
        program, written, numbers = recording.handle
        return prove(recording, program, written, numbers, cut, self.probe)

    def make_input(self, spec: InputSpec, seed: int) -> jax.Array:
        """An array of this dtype and shape; 64-bit types are what jax is configured to make of them."""
        dtype = jax.dtypes.canonicalize_dtype(spec.dtype)
        key = jax.random.key(seed)
        floating = jnp.issubdtype(dtype, jnp.floating)
        if spec.low is not None and spec.high is not None:
            if floating:
                return jax.random.uniform(key, spec.shape, dtype, spec.low, spec.high)
            return jax.random.randint(key, spec.shape, int(spec.low), max(int(spec.high), int(spec.low) + 1)).astype(
                dtype
            )
        if floating:
            return jax.random.normal(key, spec.shape, dtype)
        return jax.random.randint(key, spec.shape, 0, 2).astype(dtype)


def _applies(node: Node) -> bool:
    return node.frame is not None and any(edge.kind == PARAMETER for edge in node.inputs)


def _sink(program: Program, written: Written, call: LossCall) -> Sink:
    value = program.flat.outputs[0]
    loss = written.node(value, _definition(call.function, program))
    inputs = program.inputs()
    differentiated = frozenset(written.nodes[inputs[slot]] for slot in program.differentiated if slot in inputs)
    time = max((node.time for node in written.tape.nodes), default=0) + 1
    return Sink(loss, "grad", loss.location, time, differentiated, function=getattr(call.function, "__name__", ""))


def _own(tape: Tape, followers: frozenset[Node]) -> frozenset[Node] | None:
    """What is stepped with this gradient: what is differentiated, but for networks that follow another one of these."""
    differentiated = tape.sinks[0].differentiated or frozenset()
    rest = differentiated - followers
    return rest if rest and rest != differentiated else None


def _entries(rows: Iterable[LeafGradient], entries: frozenset[str] | None) -> frozenset[Node] | None:
    """What is stepped, where the text goes on with some entries of the gradient only and these get none: whatever else
    gets some, the loss trains nothing."""
    taken = [row for row in rows if row.differentiated and entries and entries & set(row.name.split(".")[1:2])]
    return frozenset(row.node for row in taken) if taken and not any(row.norm for row in taken) else None


def _averages(call: LossCall, nodes: Mapping[str, Node], beside: Callable[[str], Node], time: int) -> Iterator[Event]:
    """The updates after the loss that move a network towards one of the loss's, wherever the first one stands."""
    for number, one in enumerate(call.updates):
        if one.sources and all(name in nodes for name in one.sources):
            leaves = tuple(nodes.get(name) or beside(name) for name in one.leaves)
            sources = tuple(nodes[name] for name in one.sources)
            yield Event("soft_update", time + 1 + number, one.location, None, leaves, sources, one.weight)


def _replaced(call: LossCall, rows: Iterable[LeafGradient], sink: Sink) -> Iterator[Event]:
    """The entries of the first argument that the text replaces with what follows data: no loss is to train them."""
    names = replaced_in_text(call.function)
    leaves = tuple(row.node for row in rows if names.intersection(row.name.split(".")[1:2]))
    if leaves:
        yield Event("average", sink.time + 1, sink.location, leaves=leaves)


def _definition(function: Callable[..., Any], program: Program) -> Location:
    """Where the loss function begins: the place of what has no line of its own."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    return program.lines.location(((code, -1),)) if code is not None else program.lines.nowhere


def _doubts(probe: Probe, program: Program) -> list[str]:
    used = {step.primitive for step in program.flat.steps}
    names = sorted(name for name in probe.unknown if name in used)
    return [f"assumed to pass gradient (could not be asked): {', '.join(names)}"] if names else []


def _speaks_jax(function: Callable[..., Any]) -> bool:
    """Whether the function's module has imported jax under some name."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    scope = getattr(getattr(function, "__func__", function), "__globals__", {})
    return any(str(getattr(value, "__name__", "")).partition(".")[0] == "jax" for value in list(scope.values()))


RECORDER = JaxRecorder()
