"""flax nnx: objects that keep their parameters in variables, their states, and both put together again.

A state is represented by the module that it was taken of: what is differentiated, written or merged is its parameters.
"""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Args, Machine
from gradaudit.static.values import NONE, External, Instance, Parameters, Sequence, Transformed, Unknown
from gradaudit.tape import Edge, Node

MODULE = "flax.nnx.Module"


class Nnx(Machine):
    def has_variables(self, value: Any) -> bool:
        """Is it a module of nnx, whose parameters can be written in place?"""
        if not isinstance(value, Instance):
            return False
        if value.cls is None:  # a layer of the library
            return value.external.startswith("flax.nnx.")
        bases = self.mro(value.cls)
        return any(isinstance(base, External) and base.path.startswith("flax.nnx.") for base in bases)

    def nnx_split(self, args: Args) -> Any:
        """`graphdef, params, rest = nnx.split(model, nnx.Param, ...)`: one state for each filter, one without."""
        if not args:
            return Unknown("split")
        return Sequence([Transformed(args[0], "graphdef"), *[args[0]] * max(1, len(args) - 1)])

    def nnx_merge(self, args: Args) -> Any:
        """`nnx.merge(graphdef, state)`: the network with the parameters that are in the state."""
        if len(args) < 2:
            return args[0] if args else Unknown("model")
        graph, state = args[0], args[1]
        graph = graph.function if isinstance(graph, Transformed) else graph
        if isinstance(state, Instance) and self.is_module(state):
            return state if self._is_differentiated(state) else self.clone(state)
        if state is graph:
            return self.clone(state)
        tree = self.parameter_tree(state)
        made = self.independent(graph) if isinstance(graph, Instance) else Instance(None, MODULE)
        self._apply_to(made, tree, 0)
        return made

    def _is_differentiated(self, state: Instance) -> bool:
        leaves = set(self.parameters_of(state))
        return any(leaves & group for group in self.differentiated_groups)

    differentiated_groups: list[set[Node]]

    def _apply_to(self, value: Any, tree: Node, depth: int) -> None:
        """What this module and those in it compute is computed with the tree from now on."""
        if not isinstance(value, Instance) or depth > 6 or value.applied is tree:
            return
        value.applied = tree
        children = value.children.items if isinstance(value.children, Sequence) else ()
        for key, part in [*value.attrs.items(), *enumerate(children)]:
            if isinstance(part, Sequence):
                for item in part.items:
                    self._apply_to(item, tree, depth + 1)
            elif isinstance(part, Node) and part.leaf is not None and part.leaf.kind == "param":
                value.attrs[key] = self.named_part(self.part_of_tree(tree, value.network), str(key))
            else:
                self._apply_to(part, tree, depth + 1)

    def nnx_update(self, args: Args) -> Any:
        """`nnx.update(target, state)` writes the variables of an object."""
        for new in args[1:]:
            if self.has_variables(args[0]):
                self.parameter_write(self.parameters_of(args[0]), new)
        return args[0] if args else NONE

    def averaged_states(self, new: Any, old: Any, size: Any) -> Node | None:
        """`optax.incremental_update` of two states."""
        if not (self.has_variables(new) and self.has_variables(old)):
            return None
        first, second = self.mapped_states([new, old])
        return self.node("lerp", [Edge(second), Edge(first), Edge(self.tensor(size if size is not None else NONE))])

    def renewed_states(self, new: Any, old: Any) -> Node | None:
        """`optax.periodic_update` of two states: what is written to an object once somebody updates it with this."""
        if not (self.has_variables(new) and self.has_variables(old)):
            return None
        renewed: Node = self.mapped_states([new, old])[0]
        return renewed

    def mapped_states(self, trees: list[Any]) -> list[Any]:
        """What a function sees that is mapped over states: their parameters, pair by pair."""
        if not all(self.has_variables(tree) or self.is_tree(tree) for tree in trees):
            return trees
        return [self.tensor(Parameters(tuple(self.parameters_of(tree)))) for tree in trees]
