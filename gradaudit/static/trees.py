"""Trees of parameters in JAX: which value is a later version of which, and which one follows another.

Arrays do not change: a step or an update gives a new value. A value's tree is the node that stands for the parameters
that it is a version of; events speak of trees, as they speak of parameters elsewhere.
"""

from __future__ import annotations

import ast
from itertools import permutations
from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import MISSING, External, Function, Instance, Mapping, Sequence, Union, Unknown
from gradaudit.tape import DATA, Edge, Node, Optimizer

GRADIENT = frozenset({"gradient"})
THROUGH = frozenset({"stop", "identity", "cast", "copy", "clone"})
HOLD_ARRAYS = (Node, Unknown, Mapping, Sequence)
COPIES = ("copy", "array", "asarray", "copy_", "deepcopy")
MOST = 24
DEPTH = 4
HALF = 0.5
ZERO = "set_to_zero"
ONE = ("1", "1.0")


class Trees(Machine):
    trees: dict[Node, Node]
    differentiated_trees: dict[Node, None]
    left_alone: set[Node]  # an optimizer gets its gradient and sets it to zero
    averaged: set[Node]  # what an update gave: recorded where it was called

    # -- what a value is a version of --------------------------------------------------------------------------------
    def tree_of(self, node: Node) -> Node:
        for _ in range(40):
            known = self.trees.get(node)
            if known is not None:
                if known is node:
                    break
                node = known
            elif node.op in THROUGH and node.inputs:
                node = node.inputs[0].source
            elif node.op == "phi" and node.detail in ("loop", "exit", "return") and node.inputs:
                node = node.inputs[0].source
            elif node.op in ("sub", "add") and (stepped := _stepped_by_hand(node)) is not None:
                node = stepped
            else:
                break
        return node

    def trees_of(self, value: Any) -> tuple[Node, ...]:
        nodes = self.parameters_of(value) if isinstance(value, Instance) and self.is_module(value) else None
        return tuple(dict.fromkeys(self.tree_of(node) for node in (nodes or self.nodes_of(value))[:MOST]))

    def version(self, value: Any, depth: int = 0) -> Any:
        """A later version of a tree: new values of the same structure."""
        if isinstance(value, (Node, Unknown, Union)) and not (
            isinstance(value, Unknown) and value.instance is not None
        ):
            made = Unknown("params" if isinstance(value, Union) else value.name)
            made.call = True
            for node in self.nodes_of(value)[:1]:
                self.trees[self.input_node(made)] = self.tree_of(node)
            return made
        if isinstance(value, Instance) and self.is_module(value):
            return value  # equinox: what holds arrays is a tree; its parameters stay the ones that are stepped
        if depth < DEPTH and isinstance(value, Mapping):
            return Mapping({key: self.version(part, depth + 1) for key, part in value.entries.items()})
        if depth < DEPTH and isinstance(value, Sequence):
            rest = value.rest if value.rest is None else self.version(value.rest, depth + 1)
            made_list = Sequence([self.version(part, depth + 1) for part in value.items], rest, value.kind)
            made_list.names = value.names
            return made_list
        if depth < DEPTH and isinstance(value, Instance) and value.cls is not None and value.attrs:
            made_record = Instance(value.cls, value.external, value.network.name)  # a dataclass of arrays
            made_record.attrs = {
                key: self.version(part, depth + 1) if isinstance(part, (*HOLD_ARRAYS, Instance)) else part
                for key, part in value.attrs.items()
            }
            return made_record
        made = Unknown("params")
        made.call = True
        return made

    # -- steps -------------------------------------------------------------------------------------------------------
    def differentiated_value(self, value: Any) -> None:
        self.differentiated_trees.update(dict.fromkeys(self.trees_of(value)))

    def next_state(self, state: Any, name: str, keywords: Keywords) -> Any:
        """`state.apply_gradients(grads=...)`, `state.replace(target_params=...)`: the same but for what is named."""
        changed = dict(keywords)
        self.succeeded_in(state, {key: new for key, new in changed.items() if key != "grads"})
        if name == "apply_gradients":
            changed = {"params": self.version(self.get_attribute(state, "params"))}
        else:
            self.renews(changed)
        if isinstance(state, Instance):
            made = Instance(state.cls, state.external, state.network.name)
            made.attrs = {**state.attrs, **changed}
            return made
        made_unknown = Unknown(state.name, state.parent, state.annotation)
        made_unknown.flag_of = ("of", state)
        made_unknown.attrs = {**state.attrs, **changed}
        return made_unknown

    def joined_state(self, tail: str, tree: Any) -> None:
        """`tx.init(params)`: the optimizer takes this tree."""
        leaves = self.trees_of(tree)
        if leaves and tail == ZERO:
            self.left_alone.update(leaves)
        elif leaves:
            self.event("hold", optimizer=Optimizer(tail, set(leaves), True, self.location()), leaves=leaves)

    # -- copies and averages -----------------------------------------------------------------------------------------
    def follow(self, new: Any, old: Any, kind: str, weight: float | None) -> Any:
        """`old` becomes, or comes nearer to, `new`."""
        sources = self.trees_of(new)
        leaves = tuple(leaf for leaf in self.trees_of(old) if leaf not in sources)
        made = self.version(old)
        if leaves and sources:
            self.awaits(self.event(kind, leaves=leaves, sources=sources, weight=weight), made)
        if kind == "soft_update":
            self._mixed_in(made, old, new, 0)
        self.averaged.update(self.nodes_of(made)[:MOST])
        return made

    def _mixed_in(self, made: Any, old: Any, new: Any, depth: int) -> None:
        """Inside of a loss, an average has gradient of what it takes in, if that has any."""
        if isinstance(made, Mapping) and isinstance(old, Mapping) and depth < DEPTH:
            for key, part in made.entries.items():
                inner = new.entries.get(key, new) if isinstance(new, Mapping) else new
                self._mixed_in(part, old.entries.get(key), inner, depth + 1)
            return
        sources = [node for node in self.nodes_of(new)[:MOST] if self._in_differentiated(node)]
        if isinstance(made, Unknown) and sources:
            before = [Edge(node) for node in self.nodes_of(old)[:1]]
            tree = self.tree_of(self.input_node(made))
            made.node = self.node("lerp", [*before, *map(Edge, sources)], detail="tree", name=made.name)
            self.trees[made.node] = tree

    def _in_differentiated(self, node: Node) -> bool:
        """Is it an argument that is being differentiated, or an entry of one?"""
        leaves = {node, self.part_of.get(node, node)}
        return any(leaves & group for group in self.differentiated_groups)

    differentiated_groups: list[set[Node]]

    def copied_tree(self, value: Any) -> Any:
        """`tree.map(jnp.copy, params)`: a tree of its own."""
        if isinstance(value, Instance) and self.is_module(value):
            within = any(self._in_differentiated(leaf) for leaf in self.parameters_of(value))
            return value if within else self.clone(value)  # in a loss, gradient goes on to what is copied
        pairs: dict[Node, Node] = {}
        made = self._copied(value, pairs, 0)
        if pairs:
            self.event("copy", leaves=tuple(pairs), sources=tuple(dict.fromkeys(pairs.values())))
        return made

    def _copied(self, value: Any, pairs: dict[Node, Node], depth: int) -> Any:
        if isinstance(value, Mapping) and depth < DEPTH:
            for key, part in value.entries.items():
                if isinstance(part, Node) and not part.name and key is not MISSING:
                    part.name = str(key)
            return Mapping({key: self._copied(part, pairs, depth + 1) for key, part in value.entries.items()})
        if isinstance(value, Sequence) and depth < DEPTH:
            rest = value.rest if value.rest is None else self._copied(value.rest, pairs, depth + 1)
            made = Sequence([self._copied(part, pairs, depth + 1) for part in value.items], rest, value.kind)
            made.names = value.names
            return made
        if isinstance(value, Unknown) and value.instance is None and not value.plain:
            made_unknown = Unknown(value.name)
            made_unknown.call = True
            return self._paired(made_unknown, self.input_node(made_unknown), value, pairs)
        if isinstance(value, Node):
            made_node = self.node("clone", [Edge(self.current(value))], name=value.name)
            return self._paired(made_node, made_node, value, pairs)
        return value

    def _paired(self, made: Any, node: Node, value: Any, pairs: dict[Node, Node]) -> Any:
        self.trees[node] = node
        for source in self.trees_of(value)[:1]:
            pairs[node] = self.originals[node] = source
        return made

    def mapped_trees(self, function: Any, trees: Args, result: Any) -> Any:
        """What `tree.map` does to parameters: copies them, or averages a network and the one it follows."""
        if len(trees) == 1:
            if isinstance(function, External) and function.tail in COPIES or _copies(function):
                return self.copied_tree(trees[0])
            return result
        if len(trees) != 2 or not isinstance(function, Function):
            return result
        both = [self.trees_of(tree) for tree in trees]
        trained = [any(tree in self.differentiated_trees for tree in side) for side in both]
        if not any(trained) or set(both[0]) & set(both[1]):
            return result
        old = self._follower(both) if all(trained) else trained.index(False)
        arrays, made = self._of_two(function)
        weight = self.mix_of(made, frozenset((arrays[old or 0],))).weight if made is not None else None
        if weight is None and made is not None and is_blend(made, *arrays):  # by a number that is not known: a schedule
            if old is not None:
                return self.follow(trees[1 - old], trees[old], "soft_update", None)
            self.blends.update((node, (trees[0], trees[1])) for node in self.nodes_of(result)[:1])
        if weight is None or weight in (0.0, 1.0) or old is None and weight == HALF:
            return result
        if old is None:  # both are entries of what is differentiated: a follower keeps most of what it was
            old, weight = (0, weight) if weight > HALF else (1, round(1 - weight, 9))
        return self.follow(trees[1 - old], trees[old], "soft_update", weight)

    def _follower(self, both: list[tuple[Node, ...]]) -> int | None:
        """Which of two trees began as a copy of the other one?"""
        for old, (mine, theirs) in enumerate((both, both[::-1])):
            if mine and all(self.originals.get(tree) in theirs for tree in mine):
                return old
        return None

    def _of_two(self, function: Function) -> tuple[tuple[Node, Node], Node | None]:
        """Two arrays, and what the function makes of them, if that is one value."""
        arrays = self.leaf("param", "first"), self.leaf("param", "second")
        made = self.nodes_of(self.call(function, list(arrays), {}))
        return arrays, made[0] if len(made) == 1 else None

    def took_place(self, old: Any, new: Any) -> bool:
        """Is it an average with `old` that takes its place, by which `old` is the one of the two that follows?"""
        for node in self.nodes_of(new)[:1] if self.blends else ():
            for mine, other in permutations(self.blends[node]) if node in self.blends else ():
                leaves, sources = self.trees_of(mine), self.trees_of(other)
                if leaves and leaves == self.trees_of(old) and set(leaves).isdisjoint(sources):
                    self.event("soft_update", leaves=leaves, sources=sources)
                    self.averaged.add(node)
                    self.trees[node] = leaves[0]
                    return True
        return False

    blends: dict[Node, tuple[Any, Any]]  # averages of two trees that are trained: of which one, what it replaces tells


def is_blend(node: Node, first: Node, second: Node) -> bool:
    """`rate * first + (1 - rate) * second`, `first + rate * (second - first)`, whichever is which."""
    parts = node.arguments()
    if len(parts) != 2 or node.op not in ("add", "sub"):
        return node.op == "lerp" and {first, second} <= set(parts)
    shares = [_share(part) for part in parts]
    if all(share is not None for share in shares):
        (one, rate), (other, rest) = [share for share in shares if share is not None]
        lacking = _is_rest_of(rate, rest) or _is_rest_of(rest, rate)
        return node.op == "add" and {one, other} == {first, second} and lacking
    for start, way in permutations(parts):
        share = _share(way)
        gap = share[0].arguments() if share is not None and share[0].op == "sub" else []
        if start in (first, second) and set(gap) == {first, second}:
            return gap[0 if node.op == "sub" else 1] is start
    return False


def _share(node: Node) -> tuple[Node, Node] | None:
    """What is weighed, an array or the gap between two, and its weight."""
    parts = node.arguments()
    if node.op != "mul" or len(parts) != 2:
        return None
    weighed = [part for part in parts if part.op == "sub" and not _is_number(part) or _is_array(part)]
    if len(weighed) != 1:
        return None
    return weighed[0], parts[1 - parts.index(weighed[0])]


def _is_array(node: Node) -> bool:
    return node.leaf is not None and node.leaf.kind == "param"


def _is_number(node: Node) -> bool:
    return not any(_is_array(part) for part in node.arguments())


def _is_rest_of(rate: Node, rest: Node) -> bool:
    """`1 - rate`"""
    parts = rest.arguments()
    return (
        rest.op == "sub" and len(parts) == 2 and parts[0].op == "const" and parts[0].detail in ONE and parts[1] is rate
    )


def _copies(function: Any) -> bool:
    """`lambda x: x.copy()`, `lambda x: jnp.array(x)`, `lambda x: x`."""
    if not isinstance(function, Function) or not isinstance(function.node, ast.Lambda):
        return False
    arguments, body = function.node.args.args, function.node.body
    if isinstance(body, ast.Name):
        return len(arguments) == 1 and body.id == arguments[0].arg
    callee = body.func if isinstance(body, ast.Call) else None
    return isinstance(callee, ast.Attribute) and callee.attr in COPIES


def _stepped_by_hand(node: Node) -> Node | None:
    """`params - rate * gradient`: the parameters."""
    parts = [edge.source for edge in node.inputs if edge.kind == DATA]
    if len(parts) != 2:
        return None
    gradients = [_of_gradient(part) for part in parts]
    return parts[0] if gradients == [False, True] else None


def _of_gradient(node: Node) -> bool:
    waiting, seen = [node], {node}
    while waiting and len(seen) < 12:
        current = waiting.pop()
        if "gradient" in current.marks or current.op == "gradient":
            return True
        for edge in current.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False
