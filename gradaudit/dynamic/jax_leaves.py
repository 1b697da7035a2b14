"""Leaves of a traced loss: the networks they belong to, and the rows of the report they make."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

import numpy as np

from gradaudit.dynamic.groups import LeafGradient
from gradaudit.dynamic.jax_copies import mark
from gradaudit.dynamic.jax_flatten import Value
from gradaudit.dynamic.jax_numbers import Numbers
from gradaudit.dynamic.jax_program import Program
from gradaudit.dynamic.jax_tape import Written
from gradaudit.dynamic.jax_trees import PARAM, Slot, is_inexact, stems
from gradaudit.tape import Leaf, Network, Node

_PARAMETERS = re.compile(
    r"(^|_)(params?|variables|weights|theta|model|net|network|critic|actor|policy|target|teacher|ema|online)s?($|_)"
)


class Leaves:
    """Which leaf each input and constant of a program is. Networks are one object each, whatever asks."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.networks: dict[tuple[str, ...], Network] = {}
        self.slot_of = {value: slot for slot, value in program.inputs().items()}
        self.stems = stems(program.slots)
        self.others = _parameter_like(program)
        self._stem_network: dict[Leaf, Network] = {}
        self.followers: frozenset[Node] = frozenset()
        """Differentiated leaves of networks that follow another one of the same argument; no step of them is seen."""

    def leaf(self, value: Value) -> Leaf:
        """The leaf of an input, or of a captured constant."""
        slot = self.slot_of.get(value)
        if slot is not None:
            return self._slot_leaf(slot)
        known = self._captured_as(value.literal)
        if known:
            return Leaf("input", known)
        for i, array in enumerate(self.program.arguments.arrays):  # an input that was kept concrete
            if array is value.literal:
                return self._slot_leaf(i)
        return Leaf("const", scalar=getattr(value.aval, "shape", None) == ())

    def _captured_as(self, literal: Any) -> str:
        """The name of what the loss captures and a constant of its jaxpr is: jax has made an array of numpy's."""
        known = self.program.scope.get(id(literal))
        if known is not None:
            return known[0]
        if not _shape(literal):
            return ""
        scope = self.program.scope.values()
        return next((name for name, array in scope if isinstance(array, np.ndarray) and _same(array, literal)), "")

    def _slot_leaf(self, number: int) -> Leaf:
        slot = self.program.slots[number]
        scalar = getattr(self.program.arguments.arrays[number], "shape", ()) == ()
        if number not in self.program.differentiated and number not in self.others:
            return Leaf("input", slot.name, scalar=scalar)
        keys = (_root(slot), *slot.keys)
        name, above = ("", keys) if len(keys) == 1 else (keys[-1], keys[:-1])
        leaf = Leaf("param", name, self._network(above), scalar)
        if slot.keys:
            root = len(_root(slot).split("."))
            depth = len(self.stems[number].split(".")) - root + 1
            self._stem_network[leaf] = self._network(keys[: max(depth, 1)])
        return leaf

    def _network(self, keys: tuple[str, ...]) -> Network:
        known = self.networks.get(keys)
        if known is None:
            parent = self._network(keys[:-1]) if len(keys) > 1 else None
            known = self.networks[keys] = Network(keys[-1], "", parent)
        return known

    def network_of(self, node: Node) -> Network | None:
        """The network (the stem's) that a parameter leaf belongs to; None for data."""
        return self._stem_network.get(node.leaf) if node.leaf is not None else None

    def rows(self, written: Written, numbers: Numbers, reached: Container[Value]) -> list[LeafGradient]:
        """One row for every array that is a parameter: differentiated ones, then those that look like it, then what
        the user states a role for among captured constants."""
        program = self.program
        inputs = program.inputs()
        rows = []
        numbered = [*sorted(program.differentiated), *sorted(self.others)]
        for number in numbered:
            value = inputs.get(number)
            slot = program.slots[number]
            node = written.nodes[value] if value is not None else _absent(written, self._slot_leaf(number))
            norm = (numbers.norm(number) or 0.0) if value is not None and value in reached else None
            role = program.roles.get(number, "")
            rows.append(
                LeafGradient(
                    slot.name, self.stems[number], node, role, norm, bool(role), number in program.differentiated
                )
            )
        nodes = {number: row.node for number, row in zip(numbered, rows, strict=True)}
        self.followers = mark(
            program.slots, program.arguments.arrays, self.stems, nodes, program.updates, program.differentiated
        )
        return rows + self._captured(written)

    def beside(self, written: Written, name: str) -> Node:
        """The leaf of an array that the loss is not given: what is around it updates a network with it."""
        *above, last = name.split(".")
        return _absent(written, Leaf("param", last if above else "", self._network(tuple(above or (last,)))))

    def _captured(self, written: Written) -> list[LeafGradient]:
        by_name = {node.leaf.name: node for node in written.tape.nodes if node.leaf is not None}
        rows = []
        for name, role in sorted(self.program.scope_roles.items()):
            node = by_name.get(name) or _absent(written, Leaf("input", name))
            rows.append(LeafGradient(name, name.rpartition(".")[0] or name, node, role, None, True, False))
        return rows


def _root(slot: Slot) -> str:
    return slot.name[: len(slot.name) - len(".".join(slot.keys))].rstrip(".")


def _absent(written: Written, leaf: Leaf) -> Node:
    """A leaf node for what the loss never touches."""
    for node in written.tape.nodes:
        if node.leaf is not None and node.leaf.path == leaf.path and node.leaf.kind == leaf.kind:
            return node
    node = Node("leaf", [], written.nowhere, 0, leaf=leaf, name=leaf.name)
    written.tape.nodes.append(node)
    return node


def _parameter_like(program: Program) -> set[int]:
    """Slots outside the differentiated arguments that are parameters all the same: an argument with the structure of a
    differentiated one or of an entry of it, a module, or one whose name says so."""
    arrays, slots = program.arguments.arrays, program.slots
    trained = [(slots[i].keys, _shape(arrays[i])) for i in program.differentiated]
    shapes = {
        (keys[start:], shape) for keys, shape in trained for start in range(max(len(keys) - 1, min(len(keys), 1)))
    }
    found: set[int] = set()
    for argument in range(len(program.names)):
        members = [i for i, slot in enumerate(slots) if slot.argument == argument and slot.kind == PARAM]
        members = [i for i in members if i not in program.differentiated and is_inexact(arrays[i])]
        same = sum((slots[i].keys, _shape(arrays[i])) in shapes for i in members)
        nested = all(slots[i].keys for i in members)
        named = bool(_PARAMETERS.search(program.names[argument])) and nested
        if members and ((same and 2 * same >= len(members)) or named):
            found.update(members)
    return found


def _same(array: Any, converted: Any) -> bool:
    """Whether jax has made this array of numpy's: the same numbers, as far as its type goes."""
    if array.shape != _shape(converted) or not hasattr(converted, "dtype") or array.dtype.kind != converted.dtype.kind:
        return False
    return bool(np.array_equal(array.astype(converted.dtype), np.asarray(converted)))


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(getattr(array, "shape", ()))
