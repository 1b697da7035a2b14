"""Calls of what the text does not define: networks, optimizers and factories told by how they are used."""

from __future__ import annotations

import re
from typing import Any

from gradaudit.static.calls import COMPARES, NO_RESULT_IN, carries_gradient, is_computed
from gradaudit.static.draws import DRAWS
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.networks import gives_parameters
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
    foreign,
)
from gradaudit.tape import ALWAYS, Edge, Guard, Node, Optimizer

HELD_BY = frozenset({"Sequential", "ModuleList", "ModuleDict"})
"""Containers whose constructor takes what they hold."""
SETTERS = ("set_", "enable", "init", "save", "load", "reset", "get_spec", "reduce", "broadcast", "random", "update",
           "register", "clear", "close", "log", "record", "seed", "share", "add_", "track", "watch",
           "summary")  # fmt: skip
MAKERS = ("make", "build", "create")
UPDATES = ("update", "sync", "soft", "hard", "copy", "polyak", "load", "ema", "assign")
ITERATED = frozenset({"split", "minibatches", "iterate", "batches", "chunk", "get_batches", "sample_minibatches"})
AUGMENTS = re.compile(r"(^|_)(aug|augment(s|er|or|ation|ations)?|transforms?)\d*($|_)")
"""What makes a view of its input: two of them are two, whatever it is that makes them."""
PARTS_OF = ITERATED | {"shuffle", "to", "copy", "clone", "flatten", "view", "reshape", "to_torch", "contiguous"}
NOT_OPTIMIZERS = (
    "clip", "norm", "polyak", "update", "soft", "sync", "copy", "hard", "zip", "len", "count", "sum", "print", "log",
    "schedul", "numel", "ema", "init", "vector", "grad", "step", "target", "backup", "list", "freeze", "enumerate",
)  # fmt: skip


class Callables(Machine):
    def call_object(self, function: Unknown, args: Args, keywords: Keywords) -> Any:
        """Something that is not understood is called: a network, an optimizer's constructor, an environment's step."""
        parent, name = function.parent, function.name
        self.note_applied(name, args, keywords)
        if name in ("apply_gradients", "replace") and not args and isinstance(parent, (Unknown, Instance)):
            return self.next_state(parent, name, keywords)
        if name == "init" and len(args) == 1 and isinstance(parent, Unknown) and isinstance(parent.flag_of, tuple):
            if parent.flag_of[0] == "optax":
                self.joined_state(str(parent.flag_of[1]), args[0])
            elif parent.flag_of[0] == "labelled" and isinstance(args[0], Mapping):
                for name, keys in parent.flag_of[1].items():
                    self.joined_state(name, Sequence([args[0].entries.get(key, NONE) for key in keys]))
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
        if _compares(function, args, keywords):
            return self.node("unknown_loss", [Edge(node) for node in nodes], detail=name)
        if nodes and function.leaf is None and AUGMENTS.search(name):
            return self.node("augment", [Edge(node) for node in nodes[:40]], detail=name)
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
            self.ask_in_vain(parent, name)
            return self._method_of_network(parent, name, args, keywords)
        if name in NO_RESULT_IN:
            return self._foreign_result(function, name)
        if any(is_computed(node) for node in nodes):
            self.ask_in_vain(parent, name)
        if any(is_computed(node) for node in nodes) and (not _makes_object(name) or carries_gradient(nodes)):
            receiver = f"{parent.name}." if isinstance(parent, Unknown) and parent.name else ""
            result = self.node("call", [Edge(node) for node in nodes[:40]], detail=receiver + name)
            self._remember_call(result, function, args, keywords)
            return result
        made = foreign(name)
        made.flag_of = "torch.nn" if function.flag_of == "torch.nn" else None
        self._remember_call(made, function, args, keywords)
        return made

    made_by: dict[int, Any]

    def _remember_call(self, result: Any, function: Unknown, args: Args, keywords: Keywords) -> None:
        if self.current_framework == "torch":
            self.made_by[id(result)] = result, function, args, keywords, self.grad_on, self.grad_guard, []

    def answer_of(self, result: Any) -> Any:
        """`model(**batch).logits`: who is asked for logits was a network, called in the mode of that time."""
        known = self.made_by.get(id(result))
        if known is None:
            return None
        _, function, args, keywords, grad_on, grad_guard, answers = known
        if not answers:
            function.is_module = True
            saved = self.grad_on, self.grad_guard
            self.grad_on, self.grad_guard = grad_on, grad_guard
            answers.append(self.call_module_opaquely(function, args, keywords))
            self.grad_on, self.grad_guard = saved
        return answers[0]

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
        if name.lstrip("_").startswith(MAKERS) and not carries_gradient(self.argument_nodes(args, keywords)):
            return foreign(name)  # `self.make_features_extractor()` of a base that we do not see: another object
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
        makes_one = name.startswith(MAKERS) and "optim" in name
        if not given and ("lr" in keywords or makes_one):
            given = [value for value in args[:1] if _are_parameters(value)]
        if not given or not makes_one and any(word in name for word in NOT_OPTIMIZERS):
            for value in args:
                if isinstance(value, OptimizerValue) and name == "step":
                    return self.call_method(value, "step", [], {})
            return None
        return self.make_optimizer(given[0], "")

    def make_optimizer(self, given: Any, name: str) -> OptimizerValue:
        leaves = self.held_by(given)
        complete = bool(leaves)
        optimizer = Optimizer(name, set(leaves), complete, self.location(), _as_a_whole(given))
        self.optimizers.append(optimizer)
        self.undecided += self.many
        assumed = self.assumed
        for part, guard in self._ways(given):
            self.assumed = {**assumed, **dict(guard)}
            self.event("hold", optimizer=optimizer, leaves=tuple(leaves if part is given else self.held_by(part)))
        self.assumed = assumed
        self.undecided -= self.many
        return OptimizerValue(optimizer)

    def _ways(self, given: Any) -> list[tuple[Any, Guard]]:
        """What an optimizer is given, by the settings that decide it (`master if use_fp16 else own`)."""
        if isinstance(given, Union) and all(given.guard_of(part) for part in given.alternatives):
            return [(part, given.guard_of(part)) for part in given.alternatives]
        return [(given, ALWAYS)]

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
                if isinstance(base, External) and base.tail in HELD_BY:
                    given = Sequence(args, None, "list") if base.tail == "Sequential" else args[0]
                    if isinstance(given, (Sequence, Mapping)):
                        instance.children = given
                        self.adopt_parts(instance, given)
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


def _are_parameters(value: Any) -> bool:
    """A list of tensors that are trained: `[self.log_alpha]`."""
    items = value.items if isinstance(value, Sequence) and value.rest is None else ()
    return bool(items) and all(
        isinstance(item, Node) and item.leaf is not None and item.leaf.kind == "param" for item in items
    )


def _compares(function: Unknown, args: Args, keywords: Keywords) -> bool:
    """Is it a loss of two tensors: of torch's own, or by its name?"""
    given = [*args, *keywords.values()]
    if function.leaf is not None or len(given) != 2 or not all(isinstance(value, Node) for value in given):
        return False
    return function.flag_of == "torch.nn" or bool(COMPARES.search(function.name.lower()))


def _makes_object(name: str) -> bool:
    """A constructor or a factory, by its name."""
    if name == "attribute":  # `getattr(nets, spec["type"])`: chosen by a configuration
        return True
    return name[:1].isupper() or name.startswith((*MAKERS, "get_")) or name.endswith("_class")


def _only_optimizers(value: Any) -> Any:
    if isinstance(value, Sequence) and value.items and isinstance(value.items[0], Sequence):
        return value.items[0]  # ([optimizers], [schedulers])
    if isinstance(value, Mapping) and "optimizer" in value.entries:
        return value.entries["optimizer"]
    if isinstance(value, Sequence) and len(value.items) == 1:
        return value.items[0]
    return value


def _as_a_whole(given: Any) -> bool:
    """`net.parameters()`, or those of them that a condition lets through."""
    if isinstance(given, Sequence) and not given.items:
        given = given.rest
    return isinstance(given, Parameters) and given.whole
