"""Copies of networks, and what is frozen."""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.values import (
    Const,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Union,
    Unknown,
)
from gradaudit.tape import Network, Node


class Copies(Machine):
    def clone(self, value: Any) -> Any:
        """deepcopy: new leaves, frozen where the old ones are."""
        pairs: list[tuple[Node, Node]] = []
        made = self._clone(value, {}, pairs)
        if pairs:
            self.event("copy", leaves=tuple(new for new, _ in pairs), sources=tuple(old for _, old in pairs))
        if self.current_framework == "jax":
            self.originals.update(pairs)
        return made

    def independent(self, value: Instance) -> Instance:
        """The same network with leaves of its own; it counts as no copy of the other one."""
        pairs: list[tuple[Node, Node]] = []
        made: Instance = self._clone(value, {}, pairs)
        made.network.name, made.network.parent = value.network.name, value.network.parent
        made.network.copied_from = None
        for leaf in self.parameters_of(made):
            assert leaf.leaf is not None
            leaf.leaf.copied_from = None
            for network in leaf.leaf.owner.chain() if leaf.leaf.owner is not None else ():
                network.copied_from = None
        self.stands_for.update(pairs)
        return made

    def _clone(self, value: Any, memo: dict[int, Any], pairs: list[tuple[Node, Node]]) -> Any:
        if id(value) in memo:
            return memo[id(value)]
        if isinstance(value, Unknown):
            return self._clone_unknown(value, memo, pairs)
        if isinstance(value, Instance):
            made = memo[id(value)] = Instance(value.cls, value.external)
            made.network.copied_from = value.network
            made.network.class_name = value.network.class_name
            made.row, made.width = value.row, value.width
            if value.cls is None and value.row is not None and value.row.kind == "module":
                self.layer_leaf(value)
            if value.leaf is not None:
                made.leaf = self._clone_leaf(value.leaf, made.network, pairs)
            if value.children is not None:
                _know_as_modules(value.children)
                made.children = self._clone(value.children, memo, pairs)
                self.adopt_parts(made, made.children)
            for key, part in value.attrs.items():
                copied = self._clone(part, memo, pairs) if _worth_cloning(part) else part
                if isinstance(copied, (Instance, Sequence, Mapping, Union)) and copied is not part:
                    self.adopt(made, str(key), copied)
                elif isinstance(copied, Node) and copied is not part and copied.leaf is not None:
                    copied.leaf.owner = made.network
                made.attrs[key] = copied
            return made
        if isinstance(value, Sequence):
            rest = self._clone(value.rest, memo, pairs) if value.rest is not None else None
            copy = Sequence([self._clone(part, memo, pairs) for part in value.items], rest, value.kind)
            copy.names = value.names
            return copy
        if isinstance(value, Mapping):
            return Mapping({key: self._clone(part, memo, pairs) for key, part in value.entries.items()})
        if isinstance(value, Union):
            return Union(tuple(self._clone(part, memo, pairs) for part in value.alternatives), value.guards)
        if isinstance(value, Node) and value.leaf is not None and value.leaf.kind == "param":
            return self._clone_leaf(value, value.leaf.owner, pairs)
        return value

    def _clone_unknown(self, value: Unknown, memo: dict[int, Any], pairs: list[tuple[Node, Node]]) -> Any:
        if value.annotation is not None and value.instance is None:
            self.materialise(value)
        if value.instance is not None:
            return self._clone(value.instance, memo, pairs)
        made = memo[id(value)] = Unknown(value.name)
        made.call = True
        if self.is_module(value) or value.leaf is not None:
            made.is_module = True
            old = self.network_leaf(value)
            new = self.network_leaf(made)
            assert made.network is not None and new.leaf is not None
            made.network.copied_from = value.network
            new.leaf.copied_from = old.leaf
            pairs.append((new, old))
        return made

    def _clone_leaf(self, leaf: Node, owner: Network | None, pairs: list[tuple[Node, Node]]) -> Node:
        assert leaf.leaf is not None
        made = self.leaf("param", leaf.leaf.name, owner, leaf.leaf.scalar)
        assert made.leaf is not None
        made.leaf.copied_from = leaf.leaf
        if self.is_frozen(leaf):
            self.put(self.frozen, made, True)
        pairs.append((made, leaf))
        return made

    def leaves_like(self, value: StateDict) -> Parameters:
        """`p.detach().clone().requires_grad_()`: parameters of their own, which begin as those did."""
        made = tuple(self.leaf("param", old.leaf.name if old.leaf is not None else "") for old in value.leaves)
        return Parameters(made)

    frozen: dict[Any, Any]

    def is_frozen(self, leaf: Node) -> bool:
        return bool(self.frozen.get(leaf, False))

    def freeze(self, nodes: list[Node], new: Any) -> None:
        """`requires_grad` of parameters becomes `new`; a value that is not known changes nothing."""
        value = new.value if isinstance(new, Const) else self.truth(new)
        if isinstance(new, Unknown) and value is None and isinstance(new.default, bool):
            return
        if value is None:
            return
        leaves = [node for node in nodes if node.leaf is not None and node.leaf.kind == "param"]
        for node in nodes:
            if node.leaf is None and value:
                self.as_parameter(node)
        for leaf in leaves:
            self.put(self.frozen, leaf, not value)
        if leaves:
            self.event("unfreeze" if value else "freeze", leaves=tuple(leaves))

    def leaves_behind(self, node: Node) -> list[Node]:
        """The parameters that a value is computed from, a few steps back."""
        found: dict[Node, None] = {}
        todo, seen = [node], {node}
        while todo and len(seen) < 60:
            current = todo.pop()
            if current.leaf is not None:
                if current.leaf.kind in ("param", "arg"):
                    found[current] = None
                continue
            if current.op == "module_call":
                continue
            for edge in current.inputs:
                if edge.source not in seen:
                    seen.add(edge.source)
                    todo.append(edge.source)
        return list(found)


def _worth_cloning(value: Any) -> bool:
    return isinstance(value, (Instance, Sequence, Mapping, Union, Unknown, Node))


def _know_as_modules(children: Any) -> None:
    """What is unknown in a container of modules is a module."""
    parts = (*children.items, children.rest) if isinstance(children, Sequence) else children.entries.values()
    for part in parts:
        if isinstance(part, Unknown) and part.instance is None and part.node is None:
            part.is_module = True
