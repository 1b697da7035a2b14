"""Networks: calling modules, what parameters they have, copies of them, and writes into them."""

from __future__ import annotations

import ast
import functools
from typing import Any

from gradaudit.models import Row
from gradaudit.static.calls import NO_RESULT_IN, carries_gradient, is_computed
from gradaudit.static.classes import is_stub
from gradaudit.static.draws import DRAWS
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.shapes import NORMALISERS
from gradaudit.static.syntax import walk
from gradaudit.static.values import (
    DISTRIBUTION,
    MISSING,
    NONE,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Partial,
    Sequence,
    Union,
    Unknown,
)
from gradaudit.tape import PARAMETER, Edge, Frame, Network, Node, Optimizer

CALL_METHODS = ("__call__", "forward", "call")
SETTERS = ("set_", "enable", "init", "save", "load", "reset", "get_spec", "reduce", "broadcast", "random", "update",
           "register", "clear", "close", "log", "record", "seed", "share", "add_", "track", "watch",
           "summary")  # fmt: skip
UPDATES = ("update", "sync", "soft", "hard", "copy", "polyak", "load", "ema", "assign")


class Networks(Machine):
    # -- what is a network -------------------------------------------------------------------------------------------
    def is_module(self, value: Any) -> bool:
        if isinstance(value, Instance):
            if value.cls is None:
                return True
            return self.is_module_class(value.cls)
        if isinstance(value, Unknown):
            return self.unknown_is_module(value)
        return False

    def unknown_is_module(self, value: Unknown) -> bool:
        if value.is_module is None:
            if isinstance(value.default, (bool, int, float, str)):
                return False  # a setting: how many critics, whether they share something
            if isinstance(value.annotation, External):
                value.is_module = value.annotation.path == "torch.nn.Module"
            elif isinstance(value.annotation, ClassValue):
                value.is_module = self.is_module_class(value.annotation)
            elif value.node is not None:
                return False
            else:
                value.is_module = self.hints.is_network_name(value.name)
        return value.is_module

    # -- parameters --------------------------------------------------------------------------------------------------
    def parameters_of(self, value: Any) -> list[Node]:
        found: dict[Node, None] = {}
        self._collect(value, found, set())
        return list(found)

    def _collect(self, value: Any, found: dict[Node, None], seen: set[int]) -> None:
        if value is None or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Node):
            self._collect_node(value, found, seen)
        elif isinstance(value, Instance):
            self._collect_instance(value, found, seen)
        elif isinstance(value, Unknown):
            if value.annotation is not None and value.instance is None:
                self.materialise(value)
            if value.instance is not None:
                self._collect(value.instance, found, seen)
            else:
                found[self.network_leaf(value)] = None
                found.update(dict.fromkeys(value.attrs.get("parameters()", {}).values()))
        elif isinstance(value, Sequence):
            for part in value.items:
                self._collect(part, found, seen)
            self._collect(value.rest, found, seen)
        elif isinstance(value, Mapping):
            for part in value.entries.values():
                self._collect(part, found, seen)
        elif isinstance(value, Parameters):
            found.update(dict.fromkeys(value.leaves))
        elif isinstance(value, Union):
            for part in value.alternatives:
                self._collect(part, found, seen)

    def _collect_node(self, node: Node, found: dict[Node, None], seen: set[int]) -> None:
        if node.leaf is not None:
            if node.leaf.kind in ("param", "arg"):
                found[node] = None
        elif node.op == "phi":
            for edge in node.inputs[:4]:
                self._collect(edge.source, found, seen)
        elif node.op in ("getitem", "pack", "cast", "reshape"):
            for edge in node.inputs[:8]:
                self._collect(edge.source, found, seen)

    def _collect_instance(self, instance: Instance, found: dict[Node, None], seen: set[int]) -> None:
        before = len(found)
        if (
            instance.leaf is None
            and instance.cls is None
            and instance.row is not None
            and instance.row.kind == "module"
        ):
            self.layer_leaf(instance)
        if instance.leaf is not None:
            found[instance.leaf] = None
        if instance.children is not None:
            self._collect(instance.children, found, seen)
        for part in list(instance.attrs.values()):
            if isinstance(part, Node):
                if part.leaf is not None and part.leaf.kind == "param" or part.op == "phi" and _of_parameters(part):
                    self._collect(part, found, seen)
            elif isinstance(part, Instance):
                if self.is_module(part):
                    self._collect(part, found, seen)
            elif isinstance(part, Union):
                self._collect(Union(tuple(p for p in part.alternatives if self.is_module(p))), found, seen)
            elif isinstance(part, Unknown):
                if part.call and part.name in self.called_attributes(instance):
                    part.is_module = True  # an unknown layer: something made it, and forward calls it
                if (
                    part.instance is not None
                    and self.is_module(part.instance)
                    or part.leaf is not None
                    or self.is_module(part)
                ):
                    self._collect(part, found, seen)
            elif isinstance(part, (Sequence, Mapping)):
                self._collect_container(part, found, seen)

        if instance.leaf is None and instance.cls is not None and len(found) == before:
            if self.is_module(instance) and self.is_opaque(instance):  # of bases that we do not see
                instance.leaf = self.leaf("param", "", instance.network)
                found[instance.leaf] = None

    def called_attributes(self, instance: Instance) -> frozenset[str]:
        """The attributes of a module that its own methods call: `self.backbone(x)`."""
        if instance.cls is None or not self.is_module_class(instance.cls):
            return frozenset()
        return called_on_self(instance.cls.node)

    def _collect_container(self, value: Any, found: dict[Node, None], seen: set[int]) -> None:
        """The modules, parameters and further lists of them in a list or dict."""
        parts = list(value.items) + [value.rest] if isinstance(value, Sequence) else list(value.entries.values())
        for part in parts:
            if isinstance(part, Instance) and self.is_module(part):
                self._collect(part, found, seen)
            elif isinstance(part, Node) and part.leaf is not None and part.leaf.kind == "param":
                found[part] = None
            elif isinstance(part, (Sequence, Mapping)) and id(part) not in seen:
                seen.add(id(part))
                self._collect_container(part, found, seen)

    def is_opaque(self, instance: Instance) -> bool:
        assert instance.cls is not None
        method = self._find_call_member(instance.cls)[0]
        return not isinstance(method, Function) or is_stub(method.node)

    def layer_leaf(self, instance: Instance) -> Node:
        if instance.leaf is None:
            keys, self.loop_keys = self.loop_keys, ()
            instance.leaf = self.leaf("param", "", instance.network)
            self.loop_keys = keys
        return instance.leaf

    def network_leaf(self, value: Any) -> Node:
        """The one leaf that stands for all parameters of a network whose inside is not known."""
        if isinstance(value, Unknown):
            if value.leaf is None:
                parent = value.parent
                owner = self.network_of(parent) if parent is not None and self.is_module(parent) else None
                value.network = Network(value.name, "", owner)
                keys, self.loop_keys = self.loop_keys, ()
                value.leaf = self.leaf("param", "", value.network)
                self.loop_keys = keys
                value.is_module = True
            return value.leaf
        if isinstance(value, Instance):
            if value.leaf is None:
                value.leaf = self.leaf("param", "", value.network)
            return value.leaf
        if isinstance(value, Node):
            return value
        return self.leaf("param", "network")

    def network_of(self, value: Any) -> Network | None:
        if isinstance(value, Instance):
            return value.network
        if isinstance(value, Unknown):
            if value.instance is not None:
                return value.instance.network
            self.network_leaf(value)
            return value.network
        return None

    # -- names and owners --------------------------------------------------------------------------------------------
    def adopt(self, owner: Any, name: str, value: Any) -> None:
        """A network gets its name and its owner from where it is first kept."""
        network = owner.network if isinstance(owner, Instance) and self.is_module(owner) else None
        if isinstance(value, Instance):
            if self.is_module(value):
                self.keep(owner, name, value)
            if (
                value is not owner
                and value.network.parent is None
                and network is not None
                and not _owns(value.network, network)
            ):
                value.network.parent = network
                value.network.name = name or value.network.name
            elif not value.network.name:
                value.network.name = name
            if value.children is not None:
                self.adopt_parts(value, value.children)
        elif isinstance(value, (Sequence, Mapping)):
            self.adopt_parts(owner, value, name)
        elif isinstance(value, Node) and value.leaf is not None and value.leaf.kind == "param":
            if not value.leaf.name:
                value.leaf.name = value.name = name
            if value.leaf.owner is None and network is not None and self.is_module(owner):
                value.leaf.owner = network
        elif isinstance(value, Node) and not value.name:
            value.name = name
        elif isinstance(value, OptimizerValue):
            value.optimizer.name = value.optimizer.name or name
        elif isinstance(value, Unknown) and value.call and value.instance is None and value.node is None:
            value.name = name
            value.parent = value.parent or (owner if isinstance(owner, Instance) else None)

    def adopt_parts(self, owner: Any, container: Any, name: str = "") -> None:
        if isinstance(container, Sequence):
            parts = [(str(index), part) for index, part in enumerate(container.items)]
        else:
            parts = [(str(key), part) for key, part in container.known().items()]
        for key, part in parts[:16]:
            if isinstance(part, (Instance, Sequence, Mapping)):
                self.adopt(owner, f"{name}.{key}" if name else key, part)

    # -- calls -------------------------------------------------------------------------------------------------------
    def _find_call_member(self, cls: ClassValue) -> tuple[Any, ClassValue | None]:
        for name in CALL_METHODS:
            method, owner = self.member(cls, name)
            if isinstance(method, Function):
                return method, owner
        return MISSING, None

    def call_module(self, instance: Any, args: Args, keywords: Keywords, method: str = "") -> Any:
        if instance.draw is not None and instance.draw not in self.draws:
            self.draws.append(instance.draw)
            try:
                return self.call_module(instance, args, keywords, method)
            finally:
                self.draws.pop()
        if instance.cls is None:
            return self._call_layer(instance, args, keywords)
        found, owner = self.member(instance.cls, method) if method else self._find_call_member(instance.cls)
        if not isinstance(found, Function) or is_stub(found.node):
            if self.is_module(instance):
                return self.call_module_opaquely(instance, args, keywords)
            return self.call_unknown(instance.network.name or instance.cls.name, args, keywords)
        bound = found.bind(instance, owner)
        if not self.is_module(instance):
            return self.call_function(bound, args, keywords)
        frame = self.frame
        self.frame = Frame(instance.network, tuple(self.argument_nodes(args, keywords)), frame)
        try:
            return self.call_function(bound, args, keywords)
        finally:
            self.frame = frame

    def argument_nodes(self, args: Args, keywords: Keywords) -> list[Node]:
        return [node for value in (*args, *keywords.values()) for node in self.nodes_of(value)][:40]

    def _call_layer(self, instance: Instance, args: Args, keywords: Keywords) -> Any:
        """An instance of a library class."""
        row: Row | None = instance.row
        if instance.children is not None:
            return self._call_container(instance, args, keywords)
        if row is not None and row.kind == "loss_module":
            return self.apply_row(row, args, keywords)
        if row is not None and row.kind == "plain_module":
            return self.apply_row(row, args, keywords, op=row.op or "activation")
        made = self.module_call(self.parameters_for(instance), instance.network, args, keywords)
        if instance.width is not None:
            self.shape_facts[made] = ("layer", (instance.width,))
        elif NORMALISERS.search(instance.network.class_name):
            self.shape_facts[made] = ("same", ())
        return self.shaped(made, row.result if row is not None else "tensor", args)

    def _call_container(self, instance: Instance, args: Args, keywords: Keywords) -> Any:
        children = instance.children
        if isinstance(children, Mapping):
            return Unknown("modules")
        assert isinstance(children, Sequence)
        frame = self.frame
        self.frame = Frame(instance.network, tuple(self.argument_nodes(args, keywords)), frame)
        try:
            value = args[0] if args else Unknown("input")
            for child in children.items:
                if not (isinstance(child, Const) and child.value is None):
                    value = self.call(child, [value], {})
            if children.rest is not None:
                value = self.call(children.rest, [value], {})
            return value
        finally:
            self.frame = frame

    def call_module_opaquely(self, receiver: Any, args: Args, keywords: Keywords) -> Any:
        if isinstance(receiver, Unknown) and receiver.instance is not None:
            receiver = receiver.instance
        if self.applied is not None:  # inside of `apply(params, ...)`: its parameters are a part of the tree
            inner = self.network_of(receiver) or Network("network")
            return self.module_call(self.part_of_tree(self.applied, inner), inner, args, keywords)
        leaves = self.parameters_of(receiver) if isinstance(receiver, Instance) else [self.network_leaf(receiver)]
        if not leaves and isinstance(receiver, Instance):
            leaves = [self.network_leaf(receiver)]
        network = self.network_of(receiver)
        return self.module_call(leaves[:12], network or Network("network"), args, keywords)

    def module_call(self, leaves: Node | list[Node], network: Network, args: Args, keywords: Keywords) -> Node:
        nodes = self.argument_nodes(args, keywords)
        if isinstance(leaves, Node):
            leaves = [leaves]
        edges = [Edge(leaf, not self.is_frozen(leaf), PARAMETER) for leaf in leaves] + [Edge(node) for node in nodes]
        edges += [self.index_edge(draw) for draw in self.draws]
        frame = self.frame
        self.frame = Frame(network, tuple(nodes), frame)
        made = self.node("module_call", edges, name=network.name)
        self.frame = frame
        return made

    # -- unknown callables -------------------------------------------------------------------------------------------
    def call_object(self, function: Unknown, args: Args, keywords: Keywords) -> Any:
        """Something that is not understood is called: a network, an optimizer's constructor, an environment's step."""
        parent, name = function.parent, function.name
        if name in ("apply_gradients", "replace") and not args and isinstance(parent, (Unknown, Instance)):
            return self.next_state(parent, name, keywords)
        if name == "init" and len(args) == 1 and isinstance(parent, Unknown) and isinstance(parent.flag_of, tuple):
            if parent.flag_of[0] == "optax":
                self.joined_state(str(parent.flag_of[1]), args[0])
        self.expose(*args, *keywords.values())
        if f"Generator.{name}" in DRAWS and isinstance(parent, Unknown) and not self.unknown_is_module(parent):
            return self.draw(f"Generator.{name}", args, keywords, self._foreign_result(function, name))
        made = self._optimizer_like(function, args, keywords)
        if made is not None:
            return made
        nodes = [node for value in (*args, *keywords.values()) for node in self.nodes_of(value)]
        applied = self.apply_opaquely(function, args, keywords)
        if applied is not None:
            return applied
        if name == "backward" and nodes:
            self.backward(nodes[0])
            return NONE
        closure = next((value for value in (*args, *keywords.values()) if isinstance(value, (Function, Partial))), None)
        if closure is not None and name in self.gradient_helpers():
            return self.differentiate_closure(closure, name)
        if name == "minimize" and nodes:
            self.backward(nodes[0], "minimize", keywords.get("var_list"))
            return NONE
        if name in ("gradient", "batch_jacobian") and len(args) == 2:  # a tape that came from outside
            return self.gradient_of(*args)
        if name in ("scale", "prepare", "unwrap", "unwrap_model", "setup") and len(args) == 1:
            return args[0]
        if name == "prepare" and len(args) > 1:
            return Sequence(args)
        if isinstance(parent, Instance) and function.call and name in self.called_attributes(parent):
            function.is_module = True
        if name in PARTS_OF and isinstance(parent, Unknown) and self.is_bag(parent):
            return Sequence((), parent) if name in ITERATED else parent
        if self.unknown_is_module(function):
            return self.call_module_opaquely(function, args, keywords)
        if len(args) == 1 and isinstance(args[0], Const) and isinstance(args[0].value, str) and not keywords:
            return self._selected(function, args[0].value)
        if (
            isinstance(parent, Unknown)
            and self.unknown_is_module(parent)
            or isinstance(parent, Instance)
            and self._opaque_owner(parent)
        ):
            return self._method_of_network(parent, name, args, keywords)
        if name in NO_RESULT_IN:
            return self._foreign_result(function, name)
        if any(is_computed(node) for node in nodes) and (not _makes_object(name) or carries_gradient(nodes)):
            return self.node("call", [Edge(node) for node in nodes[:40]], detail=name)
        made = Unknown(name)
        made.call = True
        return made

    def _selected(self, function: Unknown, key: str) -> Unknown:
        """`self.network.select("critic")`: the same thing whenever it is asked for."""
        found = function.attrs.get(("()", key))
        if found is None:
            found = function.attrs[("()", key)] = Unknown(key)
            found.call = True
        assert isinstance(found, Unknown)
        return found

    def _opaque_owner(self, parent: Instance) -> bool:
        """A module of the project with bases that we do not see: its methods can be anything."""
        return parent.cls is not None and self.is_module(parent) and self.is_opaque(parent)

    def _foreign_result(self, function: Unknown, name: str) -> Any:
        found = function.attrs.get("()")
        if found is None:
            found = Unknown(name)
            found.call = True
            if name == "step":
                found.flag_of = "env.step"
            elif name == "reset":
                found.marks = frozenset({"observation"})
            function.attrs["()"] = found
        return found

    def _method_of_network(self, parent: Any, name: str, args: Args, keywords: Keywords) -> Any:
        values = [*args, *keywords.values()]
        leaves = self.parameters_of(parent)
        if "freeze" in name:
            on = bool(values) and isinstance(values[0], Const) and values[0].value is False
            self.freeze(leaves, Const(on))
            return NONE
        if any(word in name for word in UPDATES):
            sources = [leaf for value in values if self.is_module(value) for leaf in self.parameters_of(value)]
            if sources:
                self.event("soft_update", leaves=tuple(leaves), sources=tuple(sources))
                return NONE
        if name.startswith(SETTERS) or name in NO_RESULT_IN and name not in ("sample", "get"):
            made = Unknown(name)
            made.call = True
            return made
        if not values and isinstance(parent, Unknown) and self.current_framework != "torch":
            return self._own_parameter(parent, name)
        return self.call_module_opaquely(parent, args, keywords)

    def _own_parameter(self, parent: Unknown, name: str) -> Node:
        """`agent.entropy_cost()`: what a network gives without an input is a parameter of its own."""
        known = parent.attrs.setdefault("parameters()", {})
        assert isinstance(known, dict)
        if name not in known:
            known[name] = self.leaf("param", name, self.network_of(parent), scalar=True)
        made: Node = known[name]
        return made

    def _optimizer_like(self, function: Unknown, args: Args, keywords: Keywords) -> Any:
        """Who is given parameters and is no clipping or counting function is an optimizer."""
        given = [value for value in (*args, *keywords.values()) if gives_parameters(value)]
        name = function.name.lower()
        if not given or any(word in name for word in NOT_OPTIMIZERS):
            for value in args:
                if isinstance(value, OptimizerValue) and name == "step":
                    return self.call_method(value, "step", [], {})
            return None
        return self.make_optimizer(given[0], "")

    def make_optimizer(self, given: Any, name: str) -> OptimizerValue:
        leaves = self.held_by(given)
        complete = bool(leaves)
        optimizer = Optimizer(name, set(leaves), complete, self.location())
        self.optimizers.append(optimizer)
        self.undecided += self.many
        self.event("hold", optimizer=optimizer, leaves=tuple(leaves))
        self.undecided -= self.many
        return OptimizerValue(optimizer)

    def looks_like_optimizer(self, unknown: Unknown) -> bool:
        if isinstance(unknown.annotation, External):
            return "ptim" in unknown.annotation.path
        return "optim" in unknown.name.lower() or self.hints.is_optimizer_name(unknown.name)

    def optimizer_of(self, unknown: Unknown) -> OptimizerValue:
        """An optimizer that came from outside: what it holds is not known."""
        found = unknown.attrs.get("optimizer()")
        if not isinstance(found, OptimizerValue):
            made = Optimizer(unknown.name, set(), False, self.location())
            self.optimizers.append(made)
            found = unknown.attrs["optimizer()"] = OptimizerValue(made)
        return found

    def held_by(self, value: Any) -> list[Node]:
        """The leaves in what an optimizer was given: parameters, lists, groups (dicts with "params"), a module."""
        if isinstance(value, Mapping):
            inner = value.entries.get("params")
            return self.parameters_of(inner if inner is not None else value)
        if isinstance(value, Sequence):
            found: dict[Node, None] = {}
            for part in (*value.items, value.rest):
                if part is None:
                    continue
                if isinstance(part, Sequence) and len(part.items) == 2 and isinstance(part.items[0], Unknown):
                    part = part.items[1]  # (name, parameter)
                if isinstance(part, Node):
                    self.adopt_parameter(part)
                if isinstance(part, Unknown) and part.leaf is None and not self.is_module(part):
                    continue
                found.update(dict.fromkeys(self.held_by(part)))
            return list(found)
        if isinstance(value, Node):
            self.adopt_parameter(value)
        if isinstance(value, Unknown) and value.leaf is None and value.instance is None and not self.is_module(value):
            return []
        return self.parameters_of(value)

    def adopt_parameter(self, node: Node) -> None:
        if node.leaf is None and node.op not in ("phi", "pack"):
            self.as_parameter(node, held=True)

    def lightning_optimizers(self, instance: Instance) -> Any:
        """`self.optimizers()`: what `configure_optimizers` returns."""
        found = instance.attrs.get("optimizers()")
        if found is None:
            instance.attrs["optimizers()"] = Unknown("optimizers")
            method, owner = self.member(instance.cls, "configure_optimizers") if instance.cls else (MISSING, None)
            result = (
                self.call_function(method.bind(instance, owner), [], {}) if isinstance(method, Function) else MISSING
            )
            found = Unknown("optimizers") if result is MISSING else _only_optimizers(result)
            instance.attrs["optimizers()"] = found
        return found

    def foreign_init(self, instance: Instance, args: Args, keywords: Keywords) -> None:
        """`super().__init__(...)` of a base we do not see: an optimizer's wrapper, an nn.Sequential, a flax module."""
        if instance.cls is not None and args:
            for base in self.mro(instance.cls):
                if isinstance(base, External) and base.tail == "Sequential":
                    instance.children = Sequence(args, None, "list")
                    self.adopt_parts(instance, instance.children)
        base = self.distribution_base(instance.cls) if instance.cls is not None else None
        if base is not None and (args or keywords):
            made = self.call_external(base.path, args, keywords)
            if isinstance(made, Node):
                self.put(instance.attrs, DISTRIBUTION, made)
        for key, value in keywords.items():
            instance.attrs.setdefault(key, value)

    def distribution_base(self, cls: ClassValue) -> External | None:
        """The library's distribution that a class of the project derives from."""
        for base in self.mro(cls):
            if isinstance(base, External):
                row = self.hints.models.function(base.path)
                if row is not None and row.op == "dist":
                    return base
        return None

    # -- copies and writes -------------------------------------------------------------------------------------------
    def clone(self, value: Any) -> Any:
        """deepcopy: new leaves, frozen where the old ones are."""
        pairs: list[tuple[Node, Node]] = []
        made = self._clone(value, {}, pairs)
        if pairs:
            self.event("copy", leaves=tuple(new for new, _ in pairs), sources=tuple(old for _, old in pairs))
        return made

    def independent(self, value: Instance) -> Instance:
        """The same network with leaves of its own; it counts as no copy of the other one."""
        made: Instance = self._clone(value, {}, [])
        made.network.name, made.network.parent = value.network.name, value.network.parent
        made.network.copied_from = None
        for leaf in self.parameters_of(made):
            assert leaf.leaf is not None
            leaf.leaf.copied_from = None
            for network in leaf.leaf.owner.chain() if leaf.leaf.owner is not None else ():
                network.copied_from = None
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
                if isinstance(copied, Instance) and copied is not part:
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


@functools.lru_cache(maxsize=4096)
def called_on_self(node: ast.ClassDef) -> frozenset[str]:
    return frozenset(
        call.func.attr
        for call in walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "self"
    )


ITERATED = frozenset({"split", "minibatches", "iterate", "batches", "chunk", "get_batches", "sample_minibatches"})
PARTS_OF = ITERATED | {"shuffle", "to", "copy", "clone", "flatten", "view", "reshape", "to_torch", "contiguous"}
NOT_OPTIMIZERS = (
    "clip", "norm", "polyak", "update", "soft", "sync", "copy", "hard", "zip", "len", "count", "sum", "print", "log",
    "schedul", "numel", "ema", "init", "vector", "grad", "step", "target", "backup", "list", "freeze", "enumerate",
)  # fmt: skip


def _makes_object(name: str) -> bool:
    """A constructor or a factory, by its name."""
    return name[:1].isupper() or name.startswith(("make", "build", "create", "get_")) or name.endswith("_class")


def gives_parameters(value: Any) -> bool:
    if isinstance(value, Parameters):
        return True
    if isinstance(value, Union):
        return any(gives_parameters(part) for part in value.alternatives)
    if isinstance(value, Sequence):
        return any(gives_parameters(part) for part in (*value.items, value.rest) if part is not None)
    if isinstance(value, Mapping):
        return "params" in value.entries and gives_parameters(value.entries["params"])
    return False


def _only_optimizers(value: Any) -> Any:
    if isinstance(value, Sequence) and value.items and isinstance(value.items[0], Sequence):
        return value.items[0]  # ([optimizers], [schedulers])
    if isinstance(value, Mapping) and "optimizer" in value.entries:
        return value.entries["optimizer"]
    if isinstance(value, Sequence) and len(value.items) == 1:
        return value.items[0]
    return value


def _know_as_modules(children: Any) -> None:
    """What is unknown in a container of modules is a module."""
    parts = (*children.items, children.rest) if isinstance(children, Sequence) else children.entries.values()
    for part in parts:
        if isinstance(part, Unknown) and part.instance is None and part.node is None:
            part.is_module = True


def _worth_cloning(value: Any) -> bool:
    return isinstance(value, (Instance, Sequence, Mapping, Union, Unknown, Node))


def _of_parameters(node: Node) -> bool:
    return any(edge.source.leaf is not None and edge.source.leaf.kind == "param" for edge in node.inputs)


def _owns(network: Network, other: Network) -> bool:
    return any(part is network for part in other.chain())
