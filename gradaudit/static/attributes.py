"""Attributes: of instances and their classes, of unknowns, modules, library names and tensors."""

from __future__ import annotations

import ast
import functools
from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.values import (
    DISTRIBUTION,
    FALSE,
    MISSING,
    TRUE,
    UNNAMED,
    Bound,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    ModuleValue,
    OptimizerValue,
    Parameters,
    Sequence,
    StateDict,
    Super,
    Transformed,
    Union,
    Unknown,
    foreign_network,
    plain,
)
from gradaudit.tape import DATA, Edge, Node

CONSTANT_ATTRIBUTES = frozenset({
    "shape", "device", "dtype", "ndim", "requires_grad", "is_cuda", "grad_fn", "is_leaf", "names", "layout", "nbytes",
})  # fmt: skip
PLAIN_ATTRIBUTES = frozenset({"shape", "device", "dtype", "ndim", "size", "requires_grad", "__name__", "training"})
BAG_METHODS = frozenset({"split", "items", "values", "keys", "get", "pop", "update", "to", "copy",
                         "clone", "to_torch", "to_numpy"})  # fmt: skip
MODULE_METHODS = frozenset({
    "parameters", "named_parameters", "state_dict", "load_state_dict", "train", "eval", "to", "cuda", "cpu", "apply",
    "requires_grad_", "register_buffer", "register_parameter", "add_module", "modules", "children", "named_modules",
    "named_children", "double", "float", "half", "bfloat16", "share_memory", "buffers", "named_buffers", "init", "bind",
    "zero_grad", "trainable_variables", "trainable_weights", "variables", "weights", "get_weights", "set_weights",
    "param", "variable", "tabulate", "__call__", "register_forward_hook", "register_module", "get_parameter", "copy",
    "__setattr__",
    "lazy_init", "init_with_output", "sow", "perturb", "has_variable", "is_initializing", "get_variable",
    "manual_backward",
    "optimizers", "log", "log_dict", "toggle_optimizer", "untoggle_optimizer", "clip_gradients", "save_hyperparameters",
    "lr_schedulers", "compile",
})  # fmt: skip
NETWORK_METHODS = frozenset({
    "parameters", "state_dict", "load_state_dict", "named_parameters", "trainable_variables", "trainable_weights",
    "requires_grad_", "get_weights", "set_weights", "zero_grad",
})  # fmt: skip
KERAS_VARIABLES = frozenset({"weights", "variables"})
TENSOR_METHODS = frozenset({
    "unsqueeze", "squeeze", "expand_as", "masked_fill", "clamp", "long", "gather", "index_select", "argmax", "astype",
    "type_as", "view", "view_as", "reshape", "permute",
})  # fmt: skip
"""Who is asked for one of these is an array, whatever it came from."""
ANSWERS = frozenset({"logits", "last_hidden_state", "hidden_states"})
"""What only the output of a language model has."""
METHODS = (Function, Bound, External, Unknown)
MAX_PATH = 8


class Attributes(Machine):
    def get_attribute(self, value: Any, name: str) -> Any:
        reader = READERS.get(type(value))
        if reader is not None:
            return reader(self, value, name)
        if isinstance(value, Sequence) and value.names and name in value.names:
            position = value.names.index(name)
            return value.items[position] if position < len(value.items) else Unknown(name)
        if (
            isinstance(value, Mapping)
            and name in value.entries
            and name not in ("items", "keys", "values", "get", "pop")
        ):
            return value.entries[name]
        if isinstance(value, OptimizerValue) and name in value.attrs:
            return value.attrs[name]
        if isinstance(value, (Parameters, StateDict)):
            if name == "data":
                return StateDict(value.leaves, True) if isinstance(value, Parameters) else value
            if name in CONSTANT_ATTRIBUTES or name == "grad":
                return plain(name)
        if isinstance(value, Function) and name in ("__name__", "__qualname__"):
            return Const(value.name)
        return Bound(value, name)

    def _of_external(self, value: External, name: str) -> External:
        return External(f"{value.path}.{name}")

    def _of_transformed(self, value: Transformed, name: str) -> Any:
        return self.attribute_of_transformed(value, name)

    # -- tensors -----------------------------------------------------------------------------------------------------
    def _of_tensor(self, node: Node, name: str) -> Any:
        if name in CONSTANT_ATTRIBUTES:
            return plain(name)
        if name == "data":
            if self._is_packed(node):
                return self.node("reshape", [Edge(node)], detail=".data")
            made = self.stop(self.current(node), ".data")
            if made is not node and not self.storage_of(node) and not self.reaches_parameters(node):
                self.bases[made] = self.bases.get(node, node)  # what is written there is written in the tensor
            return made
        if name == "grad":
            return plain("grad")
        if name in ANSWERS and node.op == "call":
            answer = self.answer_of(node)
            if answer is not None:
                return self.get_attribute(answer, name)
        if node.leaf is not None and node.leaf.kind == "arg" and self.hints.models.method("Tensor", name) is None:
            return self.part_of_leaf(node, name)
        if name == "at" and self.current_framework == "jax":
            return self.node("getitem", [Edge(self.current(node))], detail=".at")
        if name in ("T", "mT", "H", "real", "imag"):
            return self.node("reshape", [Edge(self.current(node))], detail="." + name)
        return Bound(node, name)

    def _is_packed(self, node: Node, depth: int = 0) -> bool:
        """Is it a packed sequence, or what a recurrent network made of one?"""
        if node in self.packed:
            return True
        if depth > 6 or not self.packed or node.op not in ("module_call", "getitem", "phi", "identity"):
            return False
        return any(self._is_packed(edge.source, depth + 1) for edge in node.inputs if edge.kind == DATA)

    def part_of_leaf(self, node: Node, key: object) -> Any:
        """An entry of a differentiated argument that is a struct: a leaf of its own."""
        parts = self.leaf_parts.setdefault(node, {})
        if key not in parts:
            assert node.leaf is not None
            owner = self.leaf_networks.get(node)
            if owner is None:
                from gradaudit.tape import Network

                owner = self.leaf_networks[node] = Network(node.leaf.name, "", node.leaf.owner)
            keys, self.loop_keys = self.loop_keys, node.loops
            made = self.leaf("arg", str(key), owner)
            self.loop_keys = keys
            parts[key] = made
            self.part_of[made] = self.part_of.get(node, node)
            for group in self.differentiated_groups:
                if node in group:
                    group.add(made)
        return parts[key]

    leaf_parts: dict[Node, dict[object, Node]]
    part_of: dict[Node, Node]  # an entry, or one of an entry -> the argument
    leaf_networks: dict[Node, Any]
    differentiated_groups: list[set[Node]]

    # -- instances ---------------------------------------------------------------------------------------------------
    def _of_instance(self, instance: Instance, name: str) -> Any:
        value = self.fetch(instance.attrs, name)
        if value is not MISSING:
            return value if self.applied is None or not isinstance(value, Node) else self.in_tree(value)
        cls = instance.cls
        if cls is None:
            if name in ("weight", "bias") and instance.leaf is not None:
                return instance.leaf
            return Bound(instance, name)
        if self.is_record(cls):
            return self._of_record(instance, cls, name)
        found, owner = self.member(cls, name)
        if found is not MISSING:
            return self._member_bind(instance, found, owner, name)
        if DISTRIBUTION in instance.attrs:
            return self.get_attribute(instance.attrs[DISTRIBUTION], name)
        annotation = self.annotation_of(cls, name)
        if annotation is not None:
            made = Unknown(name, instance, annotation)
            instance.attrs[name] = made
            return made
        if name == "__class__":
            return cls
        if name == "__dict__":
            return Mapping(instance.attrs)
        if name == "variables" and self.applied is not None and self.is_module(instance):
            return self.applied_variables(instance)
        if self.is_module(instance) and name in MODULE_METHODS or name in ("_replace", "replace"):
            return Bound(instance, name)
        if name == "backward" and self.is_module(instance) or name == "step" and id(instance) in self.engines:
            return Bound(instance, name)
        if self.has_foreign_base(cls) and name in ("_fields", "_asdict"):
            return Bound(instance, name)
        result = self._delegated(instance, cls, name)
        if result is None:
            result = instance.attrs[name] = Unknown(name, instance)
        return result

    def _delegated(self, instance: Instance, cls: ClassValue, name: str) -> Any:
        """What the object's own `__getattr__` finds, if that is anything; methods are looked for once."""
        known = self.delegated.get((instance, name))
        if known is not None:
            return known
        getter, owner = self.member(cls, "__getattr__")
        if not isinstance(getter, Function) or name.startswith("__"):
            return None
        result = self.call_function(getter.bind(instance, owner), [Const(name)], {})
        if all(isinstance(part, METHODS) for part in getattr(result, "alternatives", (result,))):
            self.delegated[instance, name] = result
        return None if isinstance(result, Unknown) else result

    def has_foreign_base(self, cls: ClassValue) -> bool:
        return any(isinstance(base, External) for base in self.mro(cls))

    def _of_record(self, instance: Instance, cls: ClassValue, name: str) -> Any:
        found, _ = self.member(cls, name)
        if isinstance(found, Function) or name in BAG_METHODS:
            return Bound(instance, name)
        made = Unknown(name, instance)
        instance.attrs[name] = made
        return made

    def _member_bind(self, instance: Instance, found: Any, owner: ClassValue | None, name: str) -> Any:
        if isinstance(found, Function):
            kinds = decorators_of(found.node)
            if "property" in kinds or "cached_property" in kinds:
                return self.call_function(found.bind(instance, owner), [], {})
            if "staticmethod" in kinds:
                return found
            return found.bind(instance.cls if "classmethod" in kinds else instance, owner)  # type: ignore[arg-type]
        if isinstance(found, Const) and isinstance(found.value, (bool, int, float)):
            return self.hyper(instance.attrs, name, found)
        if isinstance(found, Const) and found.value is None:
            annotation = self.annotation_of(instance.cls, name)  # type: ignore[arg-type]
            if annotation is not None:
                made = Unknown(name, instance, annotation)
                instance.attrs[name] = made
                return made
        return found

    def hyper(self, container: dict[Any, Any], name: str, constant: Const) -> Any:
        """A number or switch that is stored in an object is a hyper-parameter: its value is only the default."""
        made = Unknown(name)
        made.default = constant.value
        container[name] = made
        return made

    # -- unknowns ----------------------------------------------------------------------------------------------------
    def _of_unknown(self, unknown: Unknown, name: str) -> Any:
        if self.recognised and unknown.annotation is None:
            self.recognise(unknown)
        if unknown.annotation is not None and unknown.instance is None:
            self.materialise(unknown)
        if unknown.instance is not None:
            return self.get_attribute(unknown.instance, name)
        value = self.fetch(unknown.attrs, name)
        if value is not MISSING:
            return value
        if (
            isinstance(unknown.flag_of, tuple)
            and unknown.flag_of[0] == "of"
            and name not in ("apply_gradients", "replace")
        ):
            return self.get_attribute(unknown.flag_of[1], name)  # a later state of it
        answer = self.answer_of(unknown) if name in ANSWERS else None
        if answer is not None:
            return self.get_attribute(answer, name)
        if name in NETWORK_METHODS or name == "step" and self.looks_like_optimizer(unknown):
            return Bound(unknown, name)
        if name in KERAS_VARIABLES and unknown.leaf is not None and self.current_framework == "tensorflow":
            return Bound(unknown, name)  # of a network, that is; a batch may have `weights`, too
        if name == "step" and id(unknown) in self.engines or name == "backward" and self.unknown_is_module(unknown):
            return Bound(unknown, name)
        if name in ("get", "pop", "to", "cuda", "cpu", "train", "eval", "items", "keys", "values", "float"):
            return Bound(unknown, name)
        if unknown.node is not None and self._is_tensor_method(name):
            return Bound(unknown.node, name)
        if name in TENSOR_METHODS and unknown.leaf is None and not self.is_bag(unknown):
            return Bound(self.input_node(unknown), name)
        made = Unknown(name, unknown)
        made.plain = unknown.plain or name in PLAIN_ATTRIBUTES
        if _depth(unknown) > MAX_PATH:
            return unknown
        unknown.attrs[name] = made
        return made

    def _is_tensor_method(self, name: str) -> bool:
        """Is it a method of tensors here? Those of torch have many names that other libraries use freely."""
        row = self.hints.models.method("Tensor", name, self.current_framework)
        return row is not None and (self.current_framework in ("", "torch") or not row.path.startswith("torch."))

    # -- modules, classes, super, unions -----------------------------------------------------------------------------
    def _of_module(self, value: ModuleValue, name: str) -> Any:
        found = self.module_name(value.module, name)
        if found is not MISSING:
            return found
        if value.module.file.endswith("__init__.py"):
            import os

            folder = os.path.dirname(value.module.file)
            for part in (os.path.join(folder, name + ".py"), os.path.join(folder, name, "__init__.py")):
                if os.path.isfile(part):
                    inner = self.files.module(part)
                    if inner is not None:
                        return ModuleValue(inner)
        return Unknown(name)

    def _of_class(self, cls: ClassValue, name: str) -> Any:
        found, owner = self.member(cls, name)
        if isinstance(found, Function):
            return found.bind(cls, owner) if "classmethod" in decorators_of(found.node) else _unbound(found, owner)
        if found is not MISSING:
            return found
        if name == "__name__":
            return Const(cls.name)
        for base in self.mro(cls):
            if isinstance(base, External) and base.tail in ("Function",) and name == "apply":
                return Transformed(cls, "autograd_function")
        return Bound(cls, name) if name in ("_make", "create") else Unknown(name)

    def _of_super(self, value: Super, name: str) -> Any:
        instance = value.self_value
        cls = instance.cls if isinstance(instance, Instance) and instance.cls is not None else value.cls
        if isinstance(instance, ClassValue):
            cls = instance
        found, owner = self.member(cls, name, after=value.cls)
        if isinstance(found, Function):
            if "property" in decorators_of(found.node):
                return self.call_function(found.bind(instance, owner), [], {})
            return found.bind(instance, owner)
        if found is not MISSING:
            return found
        if isinstance(instance, Instance) and DISTRIBUTION in instance.attrs and not name.startswith("__"):
            return self.get_attribute(instance.attrs[DISTRIBUTION], name)
        return Bound(value, name)

    def _of_union(self, value: Union, name: str) -> Any:
        parts = [(self.get_attribute(part, name), value.guard_of(part)) for part in informed(self.possible(value))]
        joined = self.join(parts)
        return Unknown(name) if joined is MISSING else joined

    def possible(self, value: Union) -> tuple[Any, ...]:
        """What it can be where we are: `isinstance` has ruled out some of the alternatives."""
        if not self.without:
            return value.alternatives
        return tuple([part for part in value.alternatives if part not in self.without]) or value.alternatives

    # -- writing -----------------------------------------------------------------------------------------------------
    def set_attribute(self, value: Any, name: str, new: Any) -> None:
        if isinstance(value, Union):
            for part in value.alternatives:
                self.set_attribute(part, name, new)
        elif isinstance(value, Unknown):
            if value.annotation is not None and value.instance is None:
                self.materialise(value)
            if value.instance is not None:
                self.set_attribute(value.instance, name, new)
            elif name == "requires_grad":
                self.freeze([self.network_leaf(value)], new)
            else:
                self.put(value.attrs, name, self._stored(new, name))
        elif isinstance(value, Instance):
            self._set_on_instance(value, name, new)
        elif isinstance(value, Parameters) and name == "requires_grad":
            self.freeze(list(value.leaves), new)
        elif isinstance(value, Parameters) and name == "data":
            self.data_write(list(value.leaves), new)
        elif isinstance(value, Node):
            if name == "requires_grad":
                self.freeze([value], new)
            elif name == "data":
                self.data_write([value], new)
        elif isinstance(value, ClassValue):
            self.put(value.attrs, name, new)
        elif isinstance(value, OptimizerValue):
            self.put(value.attrs, name, new)
        elif isinstance(value, Mapping):
            self.put(value.entries, name, new)

    def _set_on_instance(self, instance: Instance, name: str, new: Any) -> None:
        if isinstance(new, Node) and new.op == "module_call" and self.hints.has_parameters(name):
            new = foreign_network(name)  # `self.net = q(size)`: what is asked for its parameters is one, q makes it
        if instance.cls is not None and instance.cls.members is not None:
            setter = self._setter(instance.cls, name)
            if setter is not None:
                self.call_function(setter.bind(instance, instance.cls), [new], {})
                return
        if isinstance(new, Unknown) and new.instance is None and instance.cls is not None and new.annotation is None:
            annotation = self.annotation_of(instance.cls, name)
            if annotation is not None:
                new.annotation = annotation
        if self.current_framework == "jax":
            new = self.learnt_array(instance, name, new)
            if name in instance.attrs:
                self.succeeded(instance.attrs[name], new)
            elif any(new is other for other in instance.attrs.values()):
                new = self.second_name(new)
            if self.originals:
                self.named_tree(new, name)
        self.adopt(instance, name, new)
        self.put(instance.attrs, name, self._stored(new, name))

    def set_unnamed(self, instance: Instance, new: Any) -> None:
        """`setattr(self, f"layer{i}", new)`: one of those that `getattr` with such a name may give."""
        self.adopt(instance, "", new)
        kept = instance.attrs.get(UNNAMED)
        old = kept.items if isinstance(kept, Sequence) else ()
        self.put(instance.attrs, UNNAMED, Sequence((*old, new), None, "modules"))

    def _setter(self, cls: ClassValue, name: str) -> Function | None:
        if cls.setters is None:
            cls.setters = {}
            for base in self.mro(cls):
                if isinstance(base, ClassValue):
                    for known, statement in setters(base.node).items():
                        cls.setters.setdefault(known, (statement, base))
        if name not in cls.setters:
            return None
        statement, base = cls.setters[name]
        return Function(statement, base.module, base.scope, None, base)

    def _stored(self, new: Any, name: str) -> Any:
        if isinstance(new, Const) and isinstance(new.value, (bool, int, float)):
            known = self.hypers.get(id(new))
            if known is not None:
                return known[1]
            made = Unknown(name)
            made.default = new.value
            if new is not TRUE and new is not FALSE:  # this one default, in however many objects it is kept
                self.hypers[id(new)] = (new, made)
            return made
        return new

    hypers: dict[int, tuple[Const, Unknown]]


READERS: dict[type, Any] = {
    Node: Attributes._of_tensor,
    Instance: Attributes._of_instance,
    Unknown: Attributes._of_unknown,
    External: Attributes._of_external,
    ModuleValue: Attributes._of_module,
    ClassValue: Attributes._of_class,
    Super: Attributes._of_super,
    Transformed: Attributes._of_transformed,
    Union: Attributes._of_union,
}


def _unbound(function: Function, owner: ClassValue | None) -> Function:
    made = Function(function.node, function.module, function.scope, None, owner)
    made.grad = function.grad
    return made


def _depth(unknown: Unknown) -> int:
    depth = 0
    parent = unknown.parent
    while isinstance(parent, Unknown):
        depth += 1
        parent = parent.parent
    return depth


def decorators_of(node: Any) -> frozenset[str]:
    """The last names of a function's decorators."""
    found = getattr(node, "_decorators", None)
    if found is None:
        names = set()
        for decorator in getattr(node, "decorator_list", ()):
            head = getattr(decorator, "func", decorator)
            names.add(getattr(head, "attr", getattr(head, "id", "")))
        found = node._decorators = frozenset(names)
    return found


@functools.lru_cache(maxsize=4096)
def setters(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    """The setters of a class's properties; of several the first."""
    found: dict[str, ast.FunctionDef] = {}
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and "setter" in decorators_of(statement):
            found.setdefault(statement.name, statement)
    return found


def informed(alternatives: tuple[Any, ...]) -> list[Any]:
    """Of several values, those that are understood, if any are; `None` has no attributes."""
    known = [
        part
        for part in alternatives
        if isinstance(part, (Instance, ClassValue, Function, OptimizerValue, Node, Mapping, Sequence))
        or (isinstance(part, Unknown) and part.annotation is not None)
    ]
    rest = [part for part in alternatives if not isinstance(part, Const)]
    return (known or rest)[:4]
