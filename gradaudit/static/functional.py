"""Networks whose parameters are an argument: `apply(params, x)`.

`applied` is the tree that the network at work was given. A module inside of it gets its part of the tree: by the
attribute that it is kept in, or by its class and a number where it is made on the spot (`nn.Dense(64)(x)`), so that two
applications of one network with one tree meet the same leaves.
"""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import Const, External, Function, Instance, Mapping, Sequence, Unknown
from gradaudit.tape import Edge, Frame, Network, Node

NOT_PASSED = frozenset({"method", "rngs", "mutable", "variables", "capture_intermediates"})


class Functional(Machine):
    # -- a module's part of the tree ---------------------------------------------------------------------------------
    def parameters_for(self, instance: Instance) -> Node:
        """A layer's own parameters, or its part of the tree that `apply` was given."""
        applied = instance.applied or self.applied
        if applied is None:
            return self.layer_leaf(instance)
        return self.part_of_tree(applied, instance.network)

    def part_of_tree(self, tree: Node, network: Network) -> Node:
        """The entry of a tree of parameters that a module inside of the applied one gets."""
        if tree.leaf is not None and tree.leaf.kind == "arg":
            for owner in reversed([*network.chain()][:-1] or [network]):
                part = self.part_of_leaf(tree, owner.name or owner.class_name)
                if isinstance(part, Node):
                    tree = part
        return tree

    def name_inside(self, network: Network) -> None:
        """A module that is made inside of an applied one: the next of its class there."""
        if self.applied is None or self.frame is None or network.parent is not None:
            return
        key = (self.frame, network.class_name)
        count = self.made_inside[key] = self.made_inside.get(key, -1) + 1
        network.parent = self.frame.network
        network.name = network.name or f"{network.class_name}_{count}"

    made_inside: dict[tuple[Frame, str], int]

    def declared_parameter(self, instance: Instance, args: Args) -> Any:
        """`self.param("log_std", init, shape)` in a flax module."""
        name = str(args[0].value) if args and isinstance(args[0], Const) else "param"
        key = ("param", name)
        if self.applied is not None:
            return self.named_part(self.part_of_tree(self.applied, instance.network), name)
        found = instance.attrs.get(key)
        if found is None:
            found = self.leaf("param", name, instance.network, scalar=True)
            instance.attrs[key] = found
            self.declared[found] = (instance, name)
        return found

    def applied_variables(self, instance: Instance) -> Mapping:
        """`self.variables` of a flax module at work: its part of the tree that `apply` was given."""
        assert self.applied is not None
        return Mapping({"params": self.part_of_tree(instance.applied or self.applied, instance.network)})

    def declared_statistic(self, instance: Instance, args: Args) -> Node:
        """`self.variable("batch_stats", "mean", init)`: state that comes with the input and is not differentiated."""
        name = str(args[1].value) if len(args) > 1 and isinstance(args[1], Const) else "state"
        key = ("variable", name)
        if key not in instance.attrs:
            instance.attrs[key] = self.leaf("input", name)
        made: Node = instance.attrs[key]
        return made

    declared: dict[Node, tuple[Instance, str]]

    def in_tree(self, parameter: Node) -> Any:
        """What `setup` declared before `apply` came with a tree: that parameter's entry in the tree."""
        found = self.declared.get(parameter)
        if found is None or self.applied is None:
            return parameter
        instance, name = found
        return self.named_part(self.part_of_tree(self.applied, instance.network), name)

    def named_part(self, tree: Node, name: str) -> Any:
        if tree.leaf is not None and tree.leaf.kind == "arg":
            return self.part_of_leaf(tree, name)
        return self.node("getitem", [Edge(tree)], detail=f"[{name!r}]", name=name)

    # -- flax --------------------------------------------------------------------------------------------------------
    def apply_with_parameters(self, instance: Instance, args: Args, keywords: Keywords) -> Any:
        if not args and "variables" in keywords:
            args = [keywords["variables"]]
        if instance.cls is None and instance.row is None or not args or isinstance(args[0], (Function, External)):
            return instance
        tree = self.parameter_tree(args[0])
        passed = {key: value for key, value in keywords.items() if key not in NOT_PASSED}
        saved, self.applied = self.applied, tree
        try:
            result = self._apply(instance, tree, args[1:], passed, keywords.get("method"))
        finally:
            self.applied = saved
        mutable = keywords.get("mutable")
        if mutable is not None and not (isinstance(mutable, Const) and not mutable.value):
            return Sequence([result, Unknown("updates")])
        return result

    def _apply(self, instance: Instance, tree: Node, args: Args, keywords: Keywords, method: Any) -> Any:
        if isinstance(method, Function):
            return self.call_function(method.bind(instance, method.owner), args, keywords)
        if isinstance(method, Const) and isinstance(method.value, str):
            return self.call_module(instance, args, keywords, method.value)
        if instance.cls is not None and self.is_opaque(instance):
            return self.module_call(tree, instance.network, args, keywords)
        return self.call_module(instance, args, keywords)

    def parameter_tree(self, value: Any) -> Node:
        """`params`, or `{"params": params, "batch_stats": ...}`."""
        if isinstance(value, Mapping):
            inner = value.entries.get("params")
            if inner is not None:
                return self.parameter_tree(inner)
        return self.tensor(value)

    # -- networks that are not seen ----------------------------------------------------------------------------------
    def apply_opaquely(self, function: Unknown, args: Args, keywords: Keywords) -> Node | None:
        """`network.apply(params, x)`, `q_fn(params, x)`, `select("q")(x, params=params)`."""
        found = self._tree_given(function, args, keywords)
        if found is None:
            return None
        tree, inputs, named = found
        if not self.argument_nodes(inputs, named):
            return tree  # a network without inputs is its parameter: a temperature, a multiplier
        return self.module_call(tree, self._network_behind(function), inputs, named)

    def _tree_given(self, function: Unknown, args: Args, keywords: Keywords) -> tuple[Node, Args, Keywords] | None:
        """The tree of parameters that an unknown function is given, and what else it is given."""
        if "params" in keywords and _is_argument(keywords["params"]):
            rest = {key: value for key, value in keywords.items() if key != "params"}
            return self.part_of_leaf(keywords["params"], function.name), args, rest
        if not args:
            return None
        if function.name in ("apply", "apply_fn"):
            if len(args) > 2 and not _is_argument(args[0]) and _is_argument(args[1]):
                return args[1], [args[0], *args[2:]], keywords  # statistics of the inputs come first
            return self.parameter_tree(args[0]), args[1:], keywords
        first = args[0]
        if isinstance(first, Mapping) and "params" in first.entries:
            first = first.entries["params"]
        if _is_argument(first) and len(args) > 1:
            return first, args[1:], keywords
        return None

    def _network_behind(self, function: Unknown) -> Network:
        parent = function.parent
        if function.name in ("apply", "apply_fn") and parent is not None and self.is_module(parent):
            return self.network_of(parent) or Network(function.name)
        found = function.attrs.get("network()")
        if found is None:
            found = function.attrs["network()"] = Network(function.name)
        assert isinstance(found, Network)
        return found


def _is_argument(value: Any) -> bool:
    """A leaf that is differentiated as an argument."""
    return isinstance(value, Node) and value.leaf is not None and value.leaf.kind == "arg"
