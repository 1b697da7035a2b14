"""The flat program as a tape: one node per array, with the place in the jaxpr where each could be stopped.

What numpy-style code leaves implicit is folded away again: the broadcast and the cast that an operator does to its own
operand (the edge then starts at the operand as the user wrote it), and `sum / n` on one line, which is a mean.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradaudit.dynamic.jax_flatten import Flat, Place, Step, Value
from gradaudit.dynamic.jax_lines import JaxLines, Stack
from gradaudit.dynamic.jax_ops import operation
from gradaudit.dynamic.jax_regions import ALONE, Region, Taken, regions
from gradaudit.dynamic.lines import Names
from gradaudit.tape import DATA, INDEX, Edge, Leaf, Location, Node, Tape

_FOLDED = frozenset({"broadcast_in_dim", "convert_element_type", "pvary", "pcast", "copy"})


@dataclass(slots=True)
class Written:
    """A tape with what belongs to its nodes: shapes, the values they stand for, and where stops go."""

    tape: Tape
    nowhere: Location
    nodes: dict[Value, Node] = field(default_factory=dict)
    shapes: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    results: dict[Node, Place] = field(default_factory=dict)
    operands: dict[tuple[Node, int], tuple[Place, ...]] = field(default_factory=dict)
    foreign: set[Node] = field(default_factory=set)
    """What a library other than jax has computed."""

    def node(self, value: Value, location: Location, time: int = 0) -> Node:
        """The node of a value; a constant gets one where it is first used."""
        known = self.nodes.get(value)
        if known is None:
            known = self.nodes[value] = self.constant(value.literal, location, time)
        return known

    def constant(self, value: Any, location: Location, time: int) -> Node:
        node = Node("const", [], location, time, detail=_text(value))
        self.tape.nodes.append(node)
        self.shapes[node] = np.shape(value) if value is not None else ()
        return node


class Writer:
    """Writes the tape of one flat program. `leaf` makes the leaf of an input, or None for what has no name."""

    def __init__(self, flat: Flat, tape: Tape, lines: JaxLines, leaf: Callable[[Value], Leaf]) -> None:
        self.flat = flat
        self.lines = lines
        self.leaf = leaf
        self.names = Names()
        self.written = Written(tape, lines.nowhere)
        self.regions = regions(flat)
        self.made = {value: step for step in flat.steps for value in step.results}
        self.time = 0

    def run(self) -> Written:
        """The tape's nodes, in order of the program: inputs, constants, then one node for every result."""
        for value in (*self.flat.inputs, *self.flat.constants):
            self._add(value, Node("leaf", [], self.lines.nowhere, self._tick(), leaf=self.leaf(value)))
        for step in self.flat.steps:
            for value in self._kept(step):
                self._add(value, Node("", [], self.lines.location(step.stack), self._tick()))
        for step in self.flat.steps:
            self._fill(step)
        self._name()
        return self.written

    def _kept(self, step: Step) -> list[Value]:
        """The results that are values of their own: inside a library call only what leaves it."""
        region = self.regions.get(step)
        return step.results if region is None else [value for value in step.results if value in region.outputs]

    def _tick(self) -> int:
        self.time += 1
        return self.time

    def _add(self, value: Value, node: Node) -> None:
        if node.leaf is not None:
            node.name = node.leaf.name
        self.written.nodes[value] = node
        self.written.tape.nodes.append(node)
        self.written.shapes[node] = tuple(getattr(value.aval, "shape", ()))
        if value.place is not None:
            self.written.results[node] = value.place

    def _fill(self, step: Step) -> None:
        region = self.regions.get(step)
        if region is not None:
            for value in self._kept(step):
                self._fill_region(step, region, value)
            return
        op, detail, order = operation(step)
        call = self.lines.call(step.stack)
        for output, value in enumerate(step.results):
            node = self.written.nodes[value]
            node.op, node.detail, node.call, node.loops = op, detail, call, step.loops
            if step.stack in self.lines.foreign:
                self.written.foreign.add(node)
            if len(step.results) > 1:
                node.detail = f"[{output}]" if op == "getitem" else f"{detail}[{output}]"
            for operand, index in order:
                self._edge(node, step, operand, output, index)
            if step.primitive == "integer_pow" and op == "pow":
                node.inputs.append(Edge(self.written.constant(step.equation.params["y"], node.location, node.time)))
            self._mean(node, step)

    def _fill_region(self, step: Step, region: Region, value: Value) -> None:
        """A library call as one node; a distribution's parameters stand before the value that it is asked about."""
        node, taken = self.written.nodes[value], region.outputs[value]
        node.op = ALONE[region.op] if len(taken) == 1 and region.op in ALONE else region.op
        node.call, node.loops = self.lines.call(step.stack), step.loops
        self.written.foreign.add(node)
        if region.op in ("log_prob", "entropy"):
            parameters = taken[1:] if region.op == "log_prob" and len(taken) > 1 else taken
            dist = Node("dist", [], node.location, node.time, call=node.call, loops=node.loops)
            self.written.tape.nodes.append(dist)
            self._take(dist, parameters)
            self._connect(node, Edge(dist, any(one.passes for one in parameters)), None)
            for i in range(len(parameters)):
                places = self.written.operands.get((dist, i), ())
                self.written.operands[node, 0] = (*self.written.operands.get((node, 0), ()), *places)
            taken = [one for one in taken if one not in parameters]
        if region.op == "cross_entropy":  # labels are looked at before logits
            taken = sorted(taken, key=lambda one: not one.value.inexact)
        self._take(node, taken)

    def _take(self, node: Node, taken: list[Taken]) -> None:
        for one in taken:
            self.written.operands[node, len(node.inputs)] = tuple(one.uses)
            source = self.written.node(one.value, node.location, node.time)
            node.inputs.append(Edge(source, one.passes))

    def _name(self) -> None:
        """The value of an assigned expression, or of a call whose result is assigned, is what is computed last in it.
        What the caller calls it wins over what the callee does."""
        last: dict[Stack, Step] = {}
        for step in self.flat.steps:
            for depth in range(len(step.stack)):
                last[step.stack[depth:]] = step
        for stack, step in sorted(last.items(), key=lambda item: -len(item[0])):
            name = self.names.of(self.lines.location(stack))
            node = self.written.nodes.get(step.results[0]) if len(step.results) == 1 else None
            if name and node is not None:
                node.name = name

    def _edge(self, node: Node, step: Step, operand: int, output: int, index: bool) -> None:
        value, passes = step.operands[operand], (operand, output) in (step.passes or ())
        place = step.uses[operand] if operand < len(step.uses) else None
        source, outer = self._unfolded(value, step)
        if outer is not None:
            place = outer
        kind = INDEX if index else DATA
        self._connect(
            node, Edge(self.written.node(source, node.location, node.time), passes and not index, kind), place
        )

    def _connect(self, node: Node, edge: Edge, place: Place | None) -> None:
        if place is not None:
            self.written.operands[node, len(node.inputs)] = (place,)
        node.inputs.append(edge)

    def _unfolded(self, value: Value, step: Step) -> tuple[Value, Place | None]:
        """The operand as the user wrote it, where the operator itself has broadcast or cast it."""
        place: Place | None = None
        while True:
            made = self.made.get(value)
            if made is None or made.primitive not in _FOLDED or made.stack != step.stack or step.primitive in _FOLDED:
                return value, place
            source = made.operands[0]
            if source.inexact != value.inexact or (source.literal is None and source not in self.written.nodes):
                return value, place
            place = made.uses[0] if made.uses else None
            value = source

    def _mean(self, node: Node, step: Step) -> None:
        """`sum(x) / n` made by one call is `mean(x)`."""
        if node.op != "div" or len(node.inputs) != 2:
            return
        total, count = (edge.source for edge in node.inputs)
        made = self.made.get(step.operands[0])
        if total.op != "sum" or made is None or made.stack != step.stack or count.op != "const":
            return
        before, after = (math.prod(getattr(v.aval, "shape", ())) for v in (made.operands[0], made.results[0]))
        if not after or count.detail not in (str(float(before // after)), str(before // after)):
            return
        node.op, node.detail = "mean", total.detail
        edges = list(total.inputs)
        node.inputs.clear()
        for i, edge in enumerate(edges):
            node.inputs.append(edge)
            self.written.operands[node, i] = self.written.operands.get((total, i), ())


def _text(value: Any) -> str:
    """A constant as rules read it: the number, or what kind of array it is."""
    if value is None:
        return ""
    array = np.asarray(value) if not hasattr(value, "dtype") or np.ndim(value) == 0 else value
    if np.ndim(array) == 0:
        try:
            return repr(float(str(array)) if array.dtype.kind == "f" else array.item())  # 0.99, not 0.9900000095
        except Exception:  # a typed key, an extended type
            return str(value)
    try:  # two constants are one value only if they hold the same numbers
        return f"{array.dtype}{list(np.shape(array))}#{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"
    except Exception:
        return f"{array.dtype}{list(np.shape(array))}#{id(array)}"
