"""Networks: what a module is, which parameters it has, who owns it, and what its call gives."""

from __future__ import annotations

import ast
import functools
import re
from typing import Any

from gradaudit.models import Row
from gradaudit.static.classes import CALL_METHODS, is_stub
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.shapes import NORMALISERS
from gradaudit.static.syntax import walk
from gradaudit.static.values import (
    MISSING,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Sequence,
    Union,
    Unknown,
)
from gradaudit.tape import PARAMETER, Edge, Frame, Network, Node

SETTINGS = re.compile(
    r"(^|_)(cfg|config|configuration|conf|hparams|h_?params|hyper_?params|settings|specs?|args|opts|options)$"
)
DICTIONARIES = frozenset({"dict", "Dict", "UserDict", "OrderedDict", "DictConfig", "ConfigDict", "EasyDict"})


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
                value.is_module = self.hints.is_network_name(value.name) and not self._is_setting(value)
        return value.is_module

    def _is_setting(self, value: Unknown) -> bool:
        """An entry of a configuration: what it says of a network is no network."""
        parent = value.parent
        if isinstance(parent, Instance) and isinstance(parent.cls, ClassValue):
            return any(isinstance(base, External) and base.tail in DICTIONARIES for base in self.mro(parent.cls))
        return isinstance(parent, Unknown) and bool(SETTINGS.search(parent.name.lower()))

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
            if self.recognised and value.annotation is None:
                self.recognise(value)
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
        torch = self.current_framework == "torch" and self.is_module(instance)  # it looks into no plain list
        for part in list(instance.attrs.values()):
            if isinstance(part, Node):
                if part.leaf is not None and part.leaf.kind == "param" or part.op == "phi" and _of_parameters(part):
                    self._collect(part, found, seen)
            elif isinstance(part, Instance):
                if self.is_module(part):
                    self._collect(part, found, seen)
            elif isinstance(part, Union):
                for one in part.alternatives:
                    if self.is_module(one):
                        self._collect(one, found, seen)
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
            elif isinstance(part, Mapping) or isinstance(part, Sequence) and not (torch and part.kind == "list"):
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
        parts += [one for part in parts if isinstance(part, Union) for one in part.alternatives]
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
                if isinstance(parent, Instance) and self._is_frozen_beside(parent, value.leaf):
                    self.put(self.frozen, value.leaf, True)  # so was what turns out to be another part of it
            return value.leaf
        if isinstance(value, Instance):
            if value.leaf is None:
                value.leaf = self.leaf("param", "", value.network)
            return value.leaf
        if isinstance(value, Node):
            return value
        return self.leaf("param", "network")

    def _is_frozen_beside(self, network: Instance, part: Node) -> bool:
        leaves = [leaf for leaf in self.parameters_of(network) if leaf is not part]
        return bool(leaves) and all(self.frozen.get(leaf) for leaf in leaves)

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
        elif isinstance(value, Union):
            for part in value.alternatives:
                if isinstance(part, Instance):
                    self.adopt(owner, name, part)
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
            if value.network is not None and value.network.copied_from is not None and value.parent is None:
                value.network.name = name or value.network.name  # a copy is called by where it is kept
            if not isinstance(value.parent, Instance):  # it is called by where it was kept first
                value.name = name
                value.parent = value.parent or (owner if isinstance(owner, Instance) else None)

    adopting: tuple[Any, ...] = ()  # containers around us: one may hold itself

    def adopt_parts(self, owner: Any, container: Any, name: str = "") -> None:
        around = self.adopting
        if any(container is outer for outer in around):
            return
        self.adopting = (*around, container)
        try:
            self._adopt_each(owner, container, name)
        finally:
            self.adopting = around

    def _adopt_each(self, owner: Any, container: Any, name: str) -> None:
        if isinstance(container, Sequence):
            parts = [(str(index), part) for index, part in enumerate(container.items)]
            parts += [("*", container.rest)] if container.rest is not None else []
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
        own = self.parameters_of(instance) if "layers" in instance.attrs else self.parameters_for(instance)
        made = self.module_call(own, instance.network, args, keywords)
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
        applied = receiver.applied if isinstance(receiver, Instance) and receiver.applied is not None else self.applied
        if applied is not None:  # inside of `apply(params, ...)`: its parameters are a part of the tree
            inner = self.network_of(receiver) or Network("network")
            return self.module_call(self.part_of_tree(applied, inner), inner, args, keywords)
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


def _of_parameters(node: Node) -> bool:
    return any(edge.source.leaf is not None and edge.source.leaf.kind == "param" for edge in node.inputs)


def _owns(network: Network, other: Network) -> bool:
    return any(part is network for part in other.chain())
