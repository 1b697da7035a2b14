"""Methods that the project's text does not define: of containers, networks, optimizers, unknown objects."""

from __future__ import annotations

from typing import Any

from gradaudit.static.calls import is_computed
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.updates import IN_PLACE
from gradaudit.static.values import (
    MISSING,
    NONE,
    NOWHERE,
    ClassValue,
    Const,
    External,
    Function,
    Gradient,
    GradMode,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Partial,
    Sequence,
    StateDict,
    Super,
    Transformed,
    Union,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Edge, Node

SAME_OBJECT = frozenset({
    "to", "train", "eval", "cuda", "cpu", "float", "double", "half", "bfloat16", "share_memory", "requires_grad_",
    "compile", "unwrap_model", "module",
})  # fmt: skip
PARAMETER_METHODS = frozenset({"parameters", "trainable_variables", "trainable_weights", "variables", "weights"})
OF_ANY_MODULE = PARAMETER_METHODS | {"state_dict", "named_parameters", "optimizers", "manual_backward"}
"""What `super()` of a module answers as the module does: the library's own."""
LIKE_A_MODULE = PARAMETER_METHODS | {
    "named_parameters", "state_dict", "get_weights", "load_state_dict", "set_weights", "zero_grad", "requires_grad_",
    "train", "eval", "to", "cuda", "cpu", "modules", "named_modules",
}  # fmt: skip
PARTS = frozenset({"modules", "named_modules"})
REGISTERS = frozenset({"register_buffer", "register_parameter", "add_module", "register_module", "__setattr__"})
COMPUTES = frozenset({"add", "sub", "mul", "div", "lerp", "neg", "pow"})
VIEWS = frozenset({"data", "detach", "view", "view_as", "reshape"})
RECORD_SELVES = frozenset({"split", "values", "__iter__"})

MOVES = frozenset({"insert", "clear", "pop", "popleft", "remove", "sort", "reverse", "appendleft", "extendleft"})


class Methods(Machine):
    def call_method(self, receiver: Any, name: str, args: Args, keywords: Keywords) -> Any:
        if isinstance(receiver, Node):
            return self.tensor_method(receiver, name, args, keywords)
        handler = RECEIVERS.get(type(receiver))
        if handler is None:
            return self.call_unknown(name, args, keywords, self.nodes_of(receiver))
        return handler(self, receiver, name, args, keywords)

    # -- containers --------------------------------------------------------------------------------------------------
    def _on_sequence(self, seq: Sequence, name: str, args: Args, keywords: Keywords) -> Any:
        if name in MOVES:  # no entry is where it was
            self.put(seq.cell, "at", NOWHERE)
        if name in LIKE_A_MODULE:  # a ModuleList, or networks in a list of one's own
            return self._on_networks(seq, name, args, keywords)
        if name in ("append", "appendleft", "add", "push") and args:
            self._append(seq, args[0])
            return NONE
        if name in ("extend", "extendleft", "update") and args:
            other = args[0]
            if isinstance(other, Sequence):
                for item in other.items:
                    self._append(seq, item)
                if other.rest is not None:
                    self._append_rest(seq, other.rest)
            else:
                self._append_rest(seq, self.element(other))
            return NONE
        if name == "insert" and len(args) > 1:
            if self._growing(seq):
                self._append_rest(seq, args[1])
            else:
                self.put(seq.cell, "items", (args[1], *seq.items))
            return NONE
        if name in ("clear",):
            self.put(seq.cell, "items", ())
            self.put(seq.cell, "rest", None)
            return NONE
        if name in ("pop", "popleft"):
            return self.get_item(seq, args[0] if args else Const(-1 if name == "pop" else 0))
        if name == "_replace":
            self.succeeded_in(seq, keywords)
            self.renews(keywords)
            made = Sequence(
                [keywords.get(n, v) for n, v in zip(seq.names or (), seq.items, strict=False)] or seq.items, seq.rest
            )
            made.names = seq.names
            return made
        if name == "_asdict" and seq.names:
            return Mapping(dict(zip(seq.names, seq.items, strict=False)))
        if name == "copy":
            return Sequence(seq.items, seq.rest, seq.kind)
        if name in ("index", "count", "sort", "reverse", "remove", "discard"):
            return NONE if name in ("sort", "reverse") else Unknown(name)
        return self.call_unknown(name, args, keywords, self.nodes_of(seq))

    def _growing(self, seq: Sequence) -> bool:
        """Is this list older than a loop that we are in? Then it gets any number of such items."""
        return bool(self.loops) and seq.time < self.loops[-1].start or len(seq.items) > 40

    def _append(self, seq: Sequence, value: Any) -> None:
        if self._growing(seq):
            self._append_rest(seq, value)
        else:
            self.put(seq.cell, "items", (*seq.items, value))

    def _append_rest(self, seq: Sequence, value: Any) -> None:
        rest = seq.rest
        self.put(seq.cell, "rest", value if rest is None else self.join([(rest, ALWAYS), (value, ALWAYS)]))

    def _on_networks(self, networks: Any, name: str, args: Args, keywords: Keywords) -> Any:
        leaves = self.parameters_of(networks)
        if name in PARAMETER_METHODS:
            return Parameters(tuple(leaves), whole=True)
        if name == "named_parameters":
            return Parameters(tuple(leaves), named="", whole=True)
        if name in PARTS:
            return walked(name, networks)
        if name in ("state_dict", "get_weights"):
            return StateDict(tuple(leaves))
        if name in ("load_state_dict", "set_weights"):
            return self._load(leaves, args[0], keywords) if args else NONE
        if name == "zero_grad":
            self.event("clear", leaves=tuple(leaves))
            return NONE
        if name == "requires_grad_":
            self.freeze(leaves, args[0] if args else keywords.get("requires_grad", Const(True)))
        return networks

    def _mapping(self, mapping: Mapping, name: str, args: Args, keywords: Keywords) -> Any:
        if name in LIKE_A_MODULE and name != "to":
            return self._on_networks(mapping, name, args, keywords)
        if name == "items":
            pairs = [Sequence((Const(key), value)) for key, value in mapping.known().items()]
            rest = mapping.rest
            return Sequence(pairs, Sequence((plain("key"), rest)) if rest is not None else None)
        if name == "values":
            return Sequence(list(mapping.known().values()), mapping.rest)
        if name == "keys":
            return Sequence([Const(key) for key in mapping.known()], plain("key") if mapping.rest is not None else None)
        if name in ("get", "pop", "setdefault"):
            key = args[0] if args else NONE
            if isinstance(key, Const) and key.value in mapping.entries:
                return self.fetch(mapping.entries, key.value)
            if name == "setdefault" and len(args) > 1:
                self.set_item(mapping, key, args[1])
                return args[1]
            if len(args) > 1 and self.is_blank(mapping.entries, MISSING):
                return args[1]
            return self.get_item(mapping, key)
        if name == "update":
            for other in args:
                if isinstance(other, Mapping):
                    for key, value in other.entries.items():
                        self.put(mapping.entries, key, value)
                elif isinstance(other, Instance):
                    for key, value in other.attrs.items():
                        self.put(mapping.entries, key, value)
            for key, value in keywords.items():
                self.put(mapping.entries, key, value)
            return NONE
        if name in ("copy", "unfreeze", "freeze", "to", "clone", "exclude", "select"):
            return Mapping(dict(mapping.entries), batch=mapping.batch)
        if name in SAME_ROWS:
            return Mapping(dict(mapping.entries), batch=True)
        if name in ("split", "chunk", "unbind"):
            return Sequence((), Mapping(dict(mapping.entries), batch=True))
        if name == "clear":
            for key in list(mapping.entries):
                self.drop(mapping.entries, key)
            return NONE
        return Unknown(name)

    # -- networks and other objects ----------------------------------------------------------------------------------
    def _on_instance(self, instance: Instance, name: str, args: Args, keywords: Keywords) -> Any:
        if name in PARAMETER_METHODS:
            return Parameters(tuple(self.parameters_of(instance)), whole=True)
        if name == "named_parameters":
            return Parameters(tuple(self.parameters_of(instance)), named=instance.network.path, whole=True)
        if name in ("modules", "named_modules") and self.is_module(instance):
            return walked(name, instance)
        if name == "state_dict":
            return StateDict(tuple(self.parameters_of(instance)), True)
        if name in ("load_state_dict", "set_weights") and args:
            return self._load(self.parameters_of(instance), args[0], keywords)
        if name == "get_weights":
            return StateDict(tuple(self.parameters_of(instance)))
        if name == "requires_grad_":
            # What a class without parts in sight (one that stands in for an optional package's) holds is frozen, too.
            leaves = self.parameters_of(instance) or [self.network_leaf(instance)]
            self.freeze(leaves, args[0] if args else keywords.get("requires_grad", Const(True)))
            return instance
        if name == "zero_grad":
            self.event("clear", leaves=tuple(self.parameters_of(instance)))
            return NONE
        if name in ("backward", "step") and self._is_engine(instance, name, args):
            return self._on_engine(instance, name, args)
        if name in SAME_OBJECT:
            self._switch_mode(instance, name)
            return instance
        if name in ("__call__", "forward", "call"):
            return self.call_module(instance, args, keywords)
        if name == "apply":
            return self.apply_with_parameters(instance, args, keywords)
        if name in REGISTERS and len(args) > 1:
            return self.call_builtin("setattr", [instance, *args], {})
        if name == "variable" and instance.cls is not None and args and not _of_parameters(args[0]):
            return self.declared_statistic(instance, args)
        if name in ("param", "variable") and instance.cls is not None:
            return self.declared_parameter(instance, args)
        if name in ("_replace", "replace"):
            self.succeeded_in(instance, keywords)
            self.renews(keywords)
            made = self._of_its_own(instance)
            made.attrs.update(keywords)
            return made
        if name == "manual_backward" and args:
            self.backward(args[0])
            return NONE
        if name == "optimizers":
            return self.lightning_optimizers(instance)
        if instance.children is not None and name in (
            "append",
            "extend",
            "insert",
            "items",
            "values",
            "keys",
            "update",
            "pop",
        ):
            self.adopt(instance, "", args[-1] if args else NONE)
            return self.call_method(instance.children, name, args, keywords)
        if name in ("modules", "children", "named_modules", "named_children"):
            return Sequence((), Unknown("module"))
        if self.is_record_instance(instance):
            return self._record(instance, name, args, keywords)
        if name == "update_parameters" and args:  # of an averaged model
            self.updated(self.parameters_of(instance), self.parameters_of(args[0]), "soft_update")
            return NONE
        if name in ("init", "lazy_init") and self.current_framework == "jax" and self.is_module(instance):
            return self.initial_tree()
        self.expose(instance, *args)
        if self.is_module(instance):
            return (
                self.call_module_opaquely(instance, args, keywords) if self._computed(args, keywords) else Unknown(name)
            )
        return self.call_unknown(name, args, keywords)

    def _computed(self, args: Args, keywords: Keywords) -> bool:
        return any(is_computed(node) for value in (*args, *keywords.values()) for node in self.nodes_of(value))

    def is_record_instance(self, instance: Instance) -> bool:
        return instance.cls is not None and self.is_record(instance.cls)

    def _record(self, record: Instance, name: str, args: Args, keywords: Keywords) -> Any:
        """A bag of attributes: every entry is kept; splitting, moving and stacking it give it again."""
        key = args[0].value if args and isinstance(args[0], Const) else None
        if name in ("pop", "get", "__getitem__") and isinstance(key, str):
            found = self.fetch(record.attrs, key)
            if name == "pop" and found is not MISSING:
                self.drop(record.attrs, key)
            if found is not MISSING:
                return found
            return args[1] if len(args) > 1 else self.get_attribute(record, key)
        if name in RECORD_SELVES:
            return Sequence((), record)
        if name == "items":
            return Sequence((), Sequence((plain("key"), record)))
        if name in ("update", "__setitem__", "set", "set_"):
            if isinstance(key, str) and len(args) > 1:
                self.put(record.attrs, key, args[1])
            for value in args:
                entries = (
                    value.known() if isinstance(value, Mapping) else value.attrs if isinstance(value, Instance) else {}
                )
                for entry, part in entries.items():
                    self.put(record.attrs, entry, part)
            for entry, part in keywords.items():
                self.put(record.attrs, entry, part)
            return NONE
        if name in ("keys", "is_empty", "__len__", "numel", "size"):
            return Unknown(name)
        if name.endswith("_") or name in ("add", "append"):
            return NONE
        return self._of_its_own(record) if self._is_written_out(record, name) else record

    def _is_written_out(self, record: Instance, name: str) -> bool:
        return record.cls is not None and isinstance(self.member(record.cls, name)[0], Function)

    def _of_its_own(self, record: Instance) -> Instance:
        """A record with the same entries: what `buffer.sample()` gives is written on its own."""
        made = Instance(record.cls, name=record.network.name)
        made.attrs = dict(record.attrs)
        return made

    def _load(self, leaves: list[Node], source: Any, keywords: Keywords) -> Any:
        if isinstance(source, (StateDict, Parameters, Mapping, Sequence, Node)):
            assign = keywords.get("assign")  # torch: the parameters themselves are taken over
            write = self.data_write if isinstance(assign, Const) and assign.value is True else self.parameter_write
            write(leaves, source)
        elif self.sinks:  # a file, a message: what is in it is not on the tape
            self.expose(Parameters(tuple(leaves)))
        return NONE

    def _switch_mode(self, network: Any, name: str) -> None:
        """`train()` and `eval()`: who is put into evaluation mode for good is not trained."""
        if name in ("train", "eval") and self.is_module(network):
            leaves = [leaf for leaf in self.parameters_of(network) if leaf.leaf is not None]
            self.event(name, leaves=tuple(leaves))

    def _is_engine(self, network: Any, name: str, args: Args) -> bool:
        """A network that differentiates a loss and then steps itself: `engine.backward(loss)`, `engine.step()`."""
        if not self.is_module(network):
            return False
        return bool(args) if name == "backward" else not args and id(network) in self.engines

    def _on_engine(self, network: Any, name: str, args: Args) -> Any:
        if name == "backward":
            if args:  # `value.backward()` is no engine's
                self.engines[id(network)] = network
                self.backward(args[0])
        else:
            leaves = tuple(self.parameters_of(network))
            self.event("step", leaves=leaves)
            self.event("clear", leaves=leaves)
        return NONE

    # -- unknown objects ---------------------------------------------------------------------------------------------
    def _on_unknown(self, unknown: Unknown, name: str, args: Args, keywords: Keywords) -> Any:
        if unknown.instance is not None:
            return self.call(self.get_attribute(unknown.instance, name), args, keywords)
        if name in ("get", "pop"):
            if args and isinstance(args[0], Const) and isinstance(args[0].value, str):
                return self.get_attribute(unknown, args[0].value)
            return Unknown(name, unknown)
        if name in ("items", "keys", "values"):
            element = self.element(unknown)
            if name == "items":
                element = Sequence((plain("key"), element))
            return Sequence((), plain("key") if name == "keys" else element)
        if name in ("to", "cuda", "cpu", "float"):
            if unknown.node is None or unknown.leaf is not None or unknown.node not in self.versions:
                return unknown
            return self.tensor_method(unknown.node, name, args, keywords)
        if name in ("step", "zero_grad") and self.looks_like_optimizer(unknown):
            return self._on_optimizer(self.optimizer_of(unknown), name, args, keywords)
        if name in ("train", "eval"):
            unknown.is_module = True
            self._switch_mode(unknown, name)
            return unknown
        if name in ("backward", "step"):
            return self._on_engine(unknown, name, args)
        unknown.is_module = True
        leaf = self.network_leaf(unknown)
        if name in PARAMETER_METHODS:
            return Parameters((leaf,))
        if name == "named_parameters":
            return Parameters((leaf,), named=leaf.leaf.path if leaf.leaf is not None else "")
        if name in ("modules", "named_modules"):
            return walked(name, unknown)
        if name in ("state_dict", "get_weights"):
            return StateDict((leaf,))
        if name in ("load_state_dict", "set_weights") and args:
            return self._load([leaf], args[0], keywords)
        if name == "zero_grad":
            self.event("clear", leaves=(leaf,))
        elif name == "requires_grad_":
            self.freeze([leaf], args[0] if args else keywords.get("requires_grad", Const(True)))
            return unknown
        return NONE

    # -- optimizers and what they are given --------------------------------------------------------------------------
    def _on_optimizer(self, value: OptimizerValue, name: str, args: Args, keywords: Keywords) -> Any:
        optimizer = value.optimizer
        if name == "step":
            for closure in [*args, *keywords.values()]:
                if isinstance(closure, Function):
                    self.call(closure, [], {})
            self.event("step", optimizer=optimizer)
        elif name == "zero_grad":
            self.event("clear", optimizer=optimizer)
        elif name == "add_param_group" and args:
            leaves = self.held_by(args[0])
            optimizer.leaves.update(leaves)
            self.event("hold", optimizer=optimizer, leaves=tuple(leaves))
        elif name == "minimize" and args:
            self.minimize(optimizer, args, keywords)
        elif name in ("compute_gradients",) and args:
            self.backward(args[0], "minimize", args[1] if len(args) > 1 else keywords.get("var_list"))
            return Unknown("gradients")
        elif name == "apply_gradients":
            leaves = self.variables_in(args[0]) if args else []
            if leaves:
                optimizer.leaves.update(leaves)
                optimizer.complete = True
                self.event("hold", optimizer=optimizer, leaves=tuple(leaves))
            self.event("step", optimizer=optimizer)
        elif name in ("backward",) and args:
            self.backward(args[0])
        elif name in ("update", "init"):
            return Sequence((Unknown("updates"), Unknown("state"))) if name == "update" else Unknown("state")
        return NONE

    def variables_in(self, value: Any, depth: int = 0) -> list[Node]:
        """The variables in `zip(gradients, variables)`."""
        if isinstance(value, Parameters):
            return list(value.leaves)
        if not isinstance(value, Sequence) or depth > 3:
            return []
        parts = [part for part in (*value.items, value.rest) if part is not None]
        return list(dict.fromkeys(leaf for part in parts for leaf in self.variables_in(part, depth + 1)))

    def _parameters(self, value: Parameters, name: str, args: Args, keywords: Keywords) -> Any:
        if name in IN_PLACE:
            self.recorded_write(list(value.leaves), name, args, keywords)
            return value
        if name in ("append", "extend", "__add__") and args:
            return NONE
        if name in ("requires_grad_",):
            self.freeze(list(value.leaves), args[0] if args else Const(True))
            return value
        if name in ("detach", "clone", "to", "data", "cpu"):
            return StateDict(value.leaves, name == "detach") if name != "to" else value
        if name in ("numel", "size", "norm"):
            return Unknown(name)
        if len(value.leaves) == 1:
            return self.tensor_method(value.leaves[0], name, args, keywords)
        return self.node("call", [Edge(leaf) for leaf in value.leaves[:40]], detail="." + name)

    def _state_dict(self, value: StateDict, name: str, args: Args, keywords: Keywords) -> Any:
        if name in IN_PLACE:
            self.write_in_parameters(list(value.leaves), name, args, keywords)
            return value
        if name == "items":
            return Sequence((), Sequence((plain("key"), value.entry)))
        if name == "values":
            return Sequence((), value.entry)
        if name in ("get", "pop"):
            return value.entry
        if name == "keys":
            return Sequence((), plain("key"))
        if name in COMPUTES:
            return self.tensor_method(self.tensor(value), name, args, keywords)
        if name == "requires_grad_" and not (args and isinstance(args[0], Const) and not args[0].value):
            return self.leaves_like(value)
        return value.copied() if value.shares and name not in VIEWS else value

    def _on_function(self, function: Function, name: str, args: Args, keywords: Keywords) -> Any:
        if name in ("apply", "init", "__call__", "lower", "func"):
            return self.call(function, args[1:] if name == "apply" else args, keywords)
        if name in ("defvjp", "defjvp", "defjvps", "def_fwd", "def_bwd"):
            return NONE
        return Unknown(name)

    def _callable(self, value: Any, name: str, args: Args, keywords: Keywords) -> Any:
        if isinstance(value, Transformed) and value.how == "gradient_tape":
            return self._on_tape(name, args, keywords)
        if isinstance(value, Transformed) and value.how == "haiku":
            if name == "apply" and args:
                return self.apply_haiku(value, args, keywords)
            return self.initial_tree()
        if name in ("__call__", "apply"):
            return self.call(value, args, keywords)
        if name == "_make" and args and isinstance(value, Transformed) and value.how == "namedtuple":
            return self._made_of(value, args[0])
        return Unknown(name)

    def _on_tape(self, name: str, args: Args, keywords: Keywords) -> Any:
        """TensorFlow's GradientTape: what is recorded in it is differentiated for the variables that are named."""
        if name in ("gradient", "jacobian", "batch_jacobian") and args:
            variables = args[1] if len(args) > 1 else keywords.get("sources", NONE)
            self.backward(args[0], "grad", variables)
            return self.gradient_of(args[0], variables)
        if name == "stop_recording":
            return GradMode("off")
        return NONE

    def _on_super(self, value: Super, name: str, args: Args, keywords: Keywords) -> Any:
        instance = value.self_value
        if name in ("forward", "__call__", "call") and isinstance(instance, Instance):
            return self.call_module_opaquely(instance, args, keywords)
        if name.startswith("__") and name not in READS or name in ("setup", "setUp", "train", "eval"):
            if name == "__init__" and isinstance(instance, Instance):
                self.foreign_init(instance, args, keywords)
            return NONE
        if isinstance(instance, Instance) and self.is_module(instance) and name in OF_ANY_MODULE:
            return self._on_instance(instance, name, args, keywords)
        made = Unknown(name)
        made.call = True
        if name == "step":
            made.flag_of = "env.step"
        return made

    def _on_class(self, cls: ClassValue, name: str, args: Args, keywords: Keywords) -> Any:
        if name == "_make" and args:
            return self._made_of(cls, args[0])
        return self.call(cls, args, keywords)

    def _made_of(self, cls: Any, fields: Any) -> Any:
        """`Step._make(columns)` is `Step(*columns)`."""
        if isinstance(fields, Sequence):
            return self.call(cls, list(fields.items), {}, fields.rest)
        return self.call(cls, [], {}, self.element(fields))

    def _const(self, value: Const, name: str, args: Args, keywords: Keywords) -> Any:
        if isinstance(value.value, str):
            try:
                if all(isinstance(part, Const) for part in (*args, *keywords.values())) and name in STRING_METHODS:
                    return Const(getattr(value.value, name)(*(part.value for part in args)))
            except Exception:  # noqa: BLE001 - the user's own text handling: not known
                return Unknown(name)
        return self.call_unknown(name, args, keywords)

    def _on_external(self, value: External, name: str, args: Args, keywords: Keywords) -> Any:
        return self.call_external(f"{value.path}.{name}", args, keywords)

    def _on_union(self, value: Union, name: str, args: Args, keywords: Keywords) -> Any:
        return self.call(self.get_attribute(value, name), args, keywords)

    # -- asked of the other parts ------------------------------------------------------------------------------------


SAME_ROWS = frozenset({
    "flatten", "reshape", "view", "unflatten", "contiguous", "cpu", "cuda", "squeeze", "unsqueeze", "permute", "expand",
})  # fmt: skip
"""What gives a batch of named arrays with the same names, and is no method of a dictionary."""
READS = frozenset({"__getattr__", "__getattribute__", "__getitem__", "__missing__", "__iter__", "__next__", "__len__"})
"""What a library's class answers to one of these, its subclass does not tell."""
STRING_METHODS = frozenset({"lower", "upper", "strip", "startswith", "endswith", "replace", "split", "join"})

RECEIVERS: dict[type, Any] = {
    Sequence: Methods._on_sequence,
    Mapping: Methods._mapping,
    Instance: Methods._on_instance,
    Unknown: Methods._on_unknown,
    OptimizerValue: Methods._on_optimizer,
    Parameters: Methods._parameters,
    StateDict: Methods._state_dict,
    Function: Methods._on_function,
    Gradient: Methods._callable,
    Partial: Methods._callable,
    Transformed: Methods._callable,
    Super: Methods._on_super,
    ClassValue: Methods._on_class,
    Const: Methods._const,
    External: Methods._on_external,
    Union: Methods._on_union,
}


def _of_parameters(collection: Any) -> bool:
    """Is it the collection that is differentiated, or one that is not known?"""
    return not isinstance(collection, Const) or collection.value == "params"


def walked(name: str, network: Any) -> Sequence:
    """`modules()` and `named_modules()`: the network itself is the first, and has whatever the others have."""
    return Sequence((Sequence((Const(""), network)) if name == "named_modules" else network,))
