"""Calls of library names: a handler for each kind of model row, and for each transformation that rows name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gradaudit.models import Row
from gradaudit.static.calls import carries_gradient, is_computed
from gradaudit.static.draws import DRAWS
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.networks import gives_parameters
from gradaudit.static.shapes import sizes, width
from gradaudit.static.updates import IN_PLACE
from gradaudit.static.values import (
    MISSING,
    NONE,
    ClassValue,
    Const,
    External,
    Function,
    Gradient,
    GradMode,
    Instance,
    Mapping,
    Parameters,
    Partial,
    Sequence,
    StateDict,
    Transformed,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Edge, Network, Node

SELECTIVE = frozenset({
    "multi_transform", "partition", "masked", "freeze", "selective_transform", "set_to_zero", "conditionally_mask",
    "conditionally_transform", "GradientTransformation", "GradientTransformationExtraArgs", "stateless",
})  # fmt: skip
"""Transformations that need not touch everything in a tree."""

SIZES = {"zeros": 0, "ones": 0, "empty": 0, "rand": 0, "randn": 0, "full": 0, "normal": 0, "uniform": 0}
"""Where the size is given, by the name of what allocates; in `jax.random` after a key."""

FUNCTIONAL_LAYERS = ("tf.layers.", "tf.contrib.layers.", "tf.contrib.slim.", "tf.slim.", "tf.compat.v1.layers.")
FRAMEWORK_ROOTS = frozenset({
    "torch", "jax", "tensorflow", "tf", "flax", "haiku", "optax", "rlax", "equinox", "distrax", "einops", "keras",
    "tensordict", "torchrl", "kornia", "chex", "tensorflow_probability",
})  # fmt: skip
SILENT_ROOTS = frozenset({
    "random", "time", "os", "logging", "warnings", "gym", "gymnasium", "sys", "json", "re", "pathlib", "argparse",
    "wandb",
    "absl", "tqdm", "pickle", "datetime", "shutil", "glob", "yaml", "hydra", "omegaconf", "matplotlib", "math",
    "mlflow",
})  # fmt: skip


def _computed(nodes: list[Node]) -> bool:
    return any(is_computed(node) for node in nodes)


class Library(Machine):
    def call_external(self, path: str, args: Args, keywords: Keywords) -> Any:
        root, _, rest = path.partition(".")
        if root == "builtins":
            return self.call_builtin(rest, args, keywords)
        special = STANDARD.get(path)
        if special is not None:
            return special(self, args, keywords)
        row = self.hints.models.function(path)
        if row is None:
            made = self._unmodelled_name(path, root, args, keywords)
            return self.draw(path, args, keywords, made) if path in DRAWS else made
        made = KINDS[row.kind](self, row, args, keywords)
        if row.path in DRAWS:
            made = self.draw(row.path, args, keywords, made)
        wants = keywords.get("requires_grad")
        if isinstance(made, Node) and made.leaf is None and isinstance(wants, Const) and wants.value:
            self.as_parameter(made, held=True)
        return made

    def _unmodelled_name(self, path: str, root: str, args: Args, keywords: Keywords) -> Any:
        tail = path.rsplit(".", 1)[-1]
        self.expose(*args, *keywords.values())
        if tail[:1].isupper() and tail.endswith(
            ("Optimizer", "Adam", "AdamW", "SGD", "RMSprop", "Lion", "Muon", "Adafactor")
        ):
            return self.make_optimizer(args[0] if args else keywords.get("params", NONE), "")
        for value in (*args, *keywords.values()):
            if tail[:1].isupper() and gives_parameters(value):
                return self.make_optimizer(value, "")
        if root in SILENT_ROOTS:
            return _result(tail)
        if root in FRAMEWORK_ROOTS and tail[:1].isupper() and (".nn." in path or ".layers." in path):
            return self._new_module(Row(path, tail, "module"), args, keywords)
        nodes = [node for value in (*args, *keywords.values()) for node in self.nodes_of(value)]
        made_of = carries_gradient(nodes) if tail[:1].isupper() and root not in FRAMEWORK_ROOTS else _computed(nodes)
        if nodes and (root in FRAMEWORK_ROOTS and not tail[:1].isupper() or made_of):
            return self.node("call", [Edge(node) for node in nodes[:40]], detail=tail)
        made = _result(tail)
        if tail[:1].isupper() and root not in FRAMEWORK_ROOTS:
            made.attrs.update(keywords)
        return made

    # -- kinds of rows -----------------------------------------------------------------------------------------------
    def _operation(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if args and self.written_in(keywords.get("out")):
            self.write_into(keywords["out"], row.path.rsplit(".", 1)[-1], args, keywords)
            return keywords["out"]
        if row.extra.get("overloads") in ("max", "min"):
            return self.max_like(row, args, keywords)
        if row.extra.get("overloads") == "cast":
            return self.tensor_method(self.tensor(args[0]), "astype", args[1:], keywords) if args else NONE
        if row.extra.get("overloads") == "median":
            return self.shaped(
                self.apply_row(row, args, keywords), "first" if len(args) > 1 or keywords else "tensor", args
            )
        if row.op == "dist":
            return self._distribution(row, args, keywords)
        if row.op == "where" and len(args) + len(keywords) == 3:
            return self._t_select(row, [*args, *keywords.values()], {})
        if row.op in ("sample", "rsample", "log_prob") and args and isinstance(args[0], Node) and args[0].op == "dist":
            return self.distribution_method(args[0], row.op, args[1:], keywords)
        return self.apply_row(row, args, keywords)

    def _symbolic_choice(self, args: Args) -> Any:
        """`where(flag, a, b)` on a hyper-parameter is a switch."""
        if isinstance(args[0], Const):
            return args[1] if args[0].value else args[2]
        if isinstance(args[0], Unknown) and (args[0].node is None or args[0].parameter):
            truth, when_true, when_false = self.condition_of(args[0])
            if truth is not None:
                return args[1] if truth else args[2]
            if when_true and isinstance(args[0].default, bool):
                return self.join([(args[1], when_true), (args[2], when_false)], "switch")
        return None

    def _stop(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if row.op == "stop" and "tensor" not in row.path and "array" not in row.path:
            return self.stop_value(args[0]) if args else NONE
        nodes = [node for value in (*args, *keywords.values()) for node in self.nodes_of(value)]
        if not nodes:
            return self.node(row.op, [])
        if row.path.startswith("numpy.") and not any(is_computed(node) for node in nodes):
            return self.node(row.op, [Edge(node, False) for node in nodes[:24]], passes=False)
        return self.apply_row(row, args, keywords)

    def _row_constant(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if row.path.startswith(FUNCTIONAL_LAYERS) and args and self.nodes_of(args[0]):
            name = keywords.get("name", keywords.get("scope"))
            text = str(name.value) if isinstance(name, Const) else row.path.rsplit(".", 1)[-1]
            network = Network(text)
            return self.module_call(self.leaf("param", "", network), network, args[:1], {})
        return plain(row.path.rsplit(".", 1)[-1])

    def _alloc(self, row: Row, args: Args, keywords: Keywords) -> Any:
        made = self.allocate(row.op if row.op == "alloc" else "alloc", [])
        self._sized(made, row, args, keywords)
        wants = keywords.get("requires_grad")
        if wants is not None and (not isinstance(wants, Const) or wants.value):
            self.as_parameter(made)
        return made

    def _sized(self, made: Node, row: Row, args: Args, keywords: Keywords) -> None:
        """The axes of what is allocated: `zeros(n)`, `zeros((n, 1))`, `normal(key, (n,))`."""
        place = SIZES.get(row.path.rsplit(".", 1)[-1])
        if place is None:
            return
        place += row.path.startswith("jax.random.")
        given = keywords.get("size", keywords.get("shape"))
        values = [given] if given is not None else args[place : place + 1] if place else args
        if values:
            self.shape_facts[made] = ("alloc", sizes(values))

    def _random(self, row: Row, args: Args, keywords: Keywords) -> Any:
        made = self.node("random", [], detail=row.path.rsplit(".", 1)[-1])
        self._sized(made, row, args, keywords)
        if isinstance(keywords.get("requires_grad"), Const) and keywords["requires_grad"].value:
            self.as_parameter(made)
        elif row.path.endswith("split"):
            return made
        return made

    def _identity(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if not args:
            return next(iter(keywords.values()), NONE)
        if len(args) > 1 and row.path.rsplit(".", 1)[-1] == "prepare":
            return Sequence(args)
        return args[0]

    def _in_place_function(self, row: Row, args: Args, keywords: Keywords) -> Any:
        name = row.path.rsplit(".", 1)[-1].removeprefix("_foreach_")
        if args and isinstance(args[0], Node):
            return self.tensor_method(args[0], name, args[1:], keywords)
        if args and isinstance(args[0], (Parameters, StateDict, Sequence)) and name in IN_PLACE:
            write = self.recorded_write if isinstance(args[0], Parameters) else self.write_in_parameters
            write(self.written_in(args[0]), name, args[1:], keywords)
        return NONE

    def _new_module(self, row: Row, args: Args, keywords: Keywords) -> Any:
        made = Instance(None, row.path)
        made.row = row
        made.width = width(made.network.class_name, args, keywords)
        if row.kind == "module":
            if not row.path.startswith("torch."):
                name = keywords.get("name")
                if isinstance(name, Const) and isinstance(name.value, str):
                    made.network.name = name.value
            self.name_inside(made.network)
            self.layer_leaf(made)
            self._wrapped_cell(made, args)
        return made

    def _wrapped_cell(self, made: Instance, args: Args) -> None:
        for value in args:
            if isinstance(value, Instance) and self.is_module(value):
                made.attrs["cell"] = value

    def _container(self, row: Row, args: Args, keywords: Keywords) -> Any:
        tail = row.path.rsplit(".", 1)[-1]
        values = list(args) or list(keywords.values())
        if tail == "ModuleDict":
            return args[0] if args and isinstance(args[0], Mapping) else Mapping()
        parts: list[Any] = []
        rest = None
        for value in values:
            if isinstance(value, Sequence):
                parts += value.items
                rest = value.rest or rest
            elif isinstance(value, Mapping):
                parts += value.known().values()
            else:
                parts.append(value)
        if tail in ("ModuleList", "ParameterList"):
            made_list = Sequence(parts, rest, "list")
            made_list.time = self.tick()
            return made_list
        made = Instance(None, row.path)
        made.row = row
        made.children = Sequence(parts, rest, "list")
        self.name_inside(made.network)
        self.adopt_parts(made, made.children)
        return made

    def _parameter(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if self.applied is not None and args and isinstance(args[0], Const):  # haiku.get_parameter("w", ...)
            tree = self.part_of_tree(self.applied, self.frame.network) if self.frame is not None else self.applied
            return self.named_part(tree, str(args[0].value))
        leaf = self.leaf("param", "")
        assert leaf.leaf is not None
        leaf.leaf.scalar = True
        wants = keywords.get("requires_grad", keywords.get("trainable"))
        if wants is not None:
            self.freeze([leaf], wants)
        return leaf

    def _row_optimizer(self, row: Row, args: Args, keywords: Keywords) -> Any:
        given = args[0] if args else keywords.get("params", keywords.get("parameters"))
        if row.path.startswith(("optax.", "tf.", "keras.")) or given is None:
            if not row.path.startswith("optax."):
                return self.make_optimizer(Sequence(()), "")
            made = _result(row.op)
            tail = row.path.rsplit(".", 1)[-1]
            parts = [part for value in args for part in getattr(value, "items", (value,))]
            if tail not in SELECTIVE and all(getattr(part, "flag_of", "") != "selective" for part in parts):
                inner = [flag[1] for part in parts if isinstance(flag := getattr(part, "flag_of", None), tuple)]
                made.flag_of = ("optax", " ".join([tail, *map(str, inner)]))
            else:
                made.flag_of = "selective"
            return made
        return self.make_optimizer(given, "")

    def _distribution(self, row: Row, args: Args, keywords: Keywords) -> Any:
        edges = [Edge(node) for value in (*args, *keywords.values()) for node in self.nodes_of(value)]
        return self.node("dist", edges[:24], detail=row.path.rsplit(".", 1)[-1])

    def _row_grad_mode(self, row: Row, args: Args, keywords: Keywords) -> Any:
        mode = row.extra.get("mode", "off")
        if mode == "keep":
            return NONE
        if mode == "set":
            value = args[0] if args else keywords.get("mode", Const(True))
            return GradMode("set", value)
        if args and isinstance(args[0], Const) and args[0].value is False:
            return GradMode("on" if mode == "off" else "off")
        if args and isinstance(args[0], Function):
            made = args[0].bind(args[0].self_value, args[0].owner)  # type: ignore[arg-type]
            made.grad = mode
            return made
        return GradMode("off-block" if mode == "off" else mode)

    def _none(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return NONE

    def _transform(self, row: Row, args: Args, keywords: Keywords) -> Any:
        name = row.extra.get("handler", "")
        handler = TRANSFORMS.get(row.path.rsplit(".", 1)[-1] if name == "=" else name)
        if handler is None:
            return self._unmodelled_name(row.path, row.path.split(".", 1)[0], args, keywords)
        return handler(self, row, args, keywords)

    # -- transformations ---------------------------------------------------------------------------------------------
    def _t_gradient(self, row: Row, args: Args, keywords: Keywords) -> Any:
        handler = row.path.rsplit(".", 1)[-1]
        function = args[0] if args else keywords.get("fun", keywords.get("f"))
        if function is None:
            return Partial(External(row.path), [], keywords)
        spec = keywords.get("argnums", args[1] if len(args) > 1 else None)
        aux = keywords.get("has_aux", args[2] if len(args) > 2 else None)
        has_aux = isinstance(aux, Const) and bool(aux.value)
        made = Gradient(function, _argnums(spec), has_aux, "value" in handler)
        self.gradients.append(made)
        return made

    def _t_jacobian(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """jacrev and kin: the function itself, for what its derivative depends on."""
        return args[0] if args else Unknown("jacobian")

    def _t_direct(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """vjp, jvp, linearize: differentiated where they are called."""
        handler = row.path.rsplit(".", 1)[-1].removeprefix("filter_")
        if not args:
            return Unknown(handler)
        aux = keywords.get("has_aux")
        values = args[1:]
        if handler == "jvp" and values and isinstance(values[0], Sequence):
            values = list(values[0].items)
        made = Gradient(args[0], tuple(range(len(values))), isinstance(aux, Const) and bool(aux.value), True, handler)
        return self.call_gradient(made, values, {})

    def _t_same(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """jit, vmap, remat ...: the function itself; as a decorator factory, itself later."""
        if not args:
            return Transformed(External(row.path), "decorator", keywords) if "fun" not in keywords else keywords["fun"]
        function = args[0]
        if isinstance(function, (Node, Unknown)) and row.extra.get("handler") == "checkpoint" and len(args) > 1:
            return self.call(function, args[1:], {})
        if row.extra.get("handler") == "checkpoint" and row.path.startswith("torch") and len(args) > 1:
            passed = {
                k: v for k, v in keywords.items() if k not in ("use_reentrant", "preserve_rng_state", "context_fn")
            }
            return self.call(function, args[1:], passed)
        return function

    def _t_scan(self, row: Row, args: Args, keywords: Keywords) -> Any:
        function = args[0] if args else keywords.get("f", NONE)
        carry = args[1] if len(args) > 1 else keywords.get("init", NONE)
        rows = args[2] if len(args) > 2 else keywords.get("xs", NONE)
        return self.carried(carry, lambda state: self.call(function, [state, self.row_of(rows)], {}), stacked=True)

    def _t_while(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 3:
            return Unknown("loop")
        self.call(args[0], [args[2]], {})
        return self.carried(args[2], lambda state: self.call(args[1], [state], {}), stacked=False)

    def _t_fori(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 4:
            return Unknown("loop")
        return self.carried(args[3], lambda state: self.call(args[2], [plain("i"), state], {}), stacked=False)

    def carried(self, carry: Any, body: Callable[[Any], Any], stacked: bool) -> Any:
        """A loop as a function: the carry is a phi with a back edge."""
        from gradaudit.static.state import Loop

        self.loop_counter += 1
        loop, keys = Loop(self.loop_counter, start=self.time + 1), self.loop_keys
        self.loops.append(loop)
        self.loop_keys = (*keys, loop.key)
        head = self._carry_head(carry)
        result = body(head)
        outputs: Any = Unknown("outputs")
        end = result
        if stacked:
            if isinstance(result, Sequence) and len(result.items) == 2:
                end, outputs = result.items
            elif isinstance(result, Node):
                end, outputs = self.get_item(result, Const(0)), self.get_item(result, Const(1))
        self._carry_back(head, end)
        self.loops.pop()
        self.loop_keys = keys
        final = self.join([(carry, ALWAYS), (end, ALWAYS)], "exit") if end is not MISSING else carry
        if not stacked:
            return final
        return Sequence([final, self._stacked(outputs)])

    def _stacked(self, outputs: Any) -> Any:
        if isinstance(outputs, Node):
            return self.node("stack", [Edge(outputs)])
        if isinstance(outputs, Sequence):
            made = Sequence([self._stacked(part) for part in outputs.items], outputs.rest, outputs.kind)
            made.names = outputs.names
            return made
        if isinstance(outputs, Mapping):
            return Mapping({key: self._stacked(part) for key, part in outputs.entries.items()})
        return outputs

    def _carry_head(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Node):
            return self.phi([(self.current(value), ALWAYS)], "loop", value.name)
        if depth > 4:
            return value
        if isinstance(value, Sequence):
            made = Sequence([self._carry_head(part, depth + 1) for part in value.items], value.rest, value.kind)
            made.names = value.names
            return made
        if isinstance(value, Mapping):
            return Mapping({key: self._carry_head(part, depth + 1) for key, part in value.entries.items()})
        if isinstance(value, Instance) and value.cls is not None and not self.is_module(value):
            made_instance = Instance(value.cls, name=value.network.name)
            made_instance.attrs = {key: self._carry_head(part, depth + 1) for key, part in value.attrs.items()}
            return made_instance
        return value

    def _carry_back(self, head: Any, end: Any) -> None:
        if isinstance(head, Node):
            if head.op == "phi" and not isinstance(end, (Function, ClassValue)):
                for node in self.nodes_of(end)[:8]:
                    if node is not head:
                        head.inputs.append(Edge(node, True))
        elif isinstance(head, Sequence) and isinstance(end, Sequence):
            for one, other in zip(head.items, end.items, strict=False):
                self._carry_back(one, other)
        elif isinstance(head, Mapping) and isinstance(end, Mapping):
            for key, one in head.entries.items():
                if key in end.entries:
                    self._carry_back(one, end.entries[key])
        elif isinstance(head, Instance) and isinstance(end, Instance):
            for key, one in head.attrs.items():
                if key in end.attrs:
                    self._carry_back(one, end.attrs[key])

    def row_of(self, value: Any) -> Any:
        """What a scanned body sees of its inputs: one row of each."""
        if isinstance(value, Node):
            return self.node("getitem", [Edge(self.current(value))], detail="[t]", name=value.name)
        if isinstance(value, Sequence):
            made = Sequence([self.row_of(part) for part in value.items], value.rest, value.kind)
            made.names = value.names
            return made
        if isinstance(value, Mapping):
            return Mapping({key: self.row_of(part) for key, part in value.entries.items()})
        return value

    def _t_cond(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 3:
            return Unknown("cond")
        truth, when_true, when_false = self.condition_of(args[0])
        operands = args[3:]
        if truth is not None:
            return self.call(args[1] if truth else args[2], operands, {})
        results = [(self.call(args[1], operands, {}), when_true), (self.call(args[2], operands, {}), when_false)]
        return self.join(results, "switch" if when_true else "")

    def _t_switch(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 2 or not isinstance(args[1], Sequence):
            return Unknown("switch")
        return self.join([(self.call(branch, args[2:], {}), ALWAYS) for branch in args[1].items])

    def _t_select(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) == 3:
            chosen = self._symbolic_choice(args)
            if chosen is not None:
                return chosen
            inputs = [self.index_edge(node) for node in self.nodes_of(args[0])[:2]]
            inputs += [Edge(self.tensor(args[1])), Edge(self.tensor(args[2]))]
            return self.node("where", inputs)
        return self.apply_row(row, args, keywords, op="where")

    def _t_map(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """tree_map and lax.map: the function on every leaf of the trees."""
        if len(args) < 2:
            return Unknown("tree")
        made = self._mapped(args[0], args[1:], 0)
        return self.mapped_trees(args[0], args[1:], made) if self.current_framework == "jax" else made

    def _mapped(self, function: Any, trees: list[Any], depth: int) -> Any:
        first = trees[0]
        if depth < 4:
            if isinstance(first, Sequence) and (first.items or first.rest is not None):
                items = [
                    self._mapped(function, [_nth(tree, index) for tree in trees], depth + 1)
                    for index in range(len(first.items))
                ]
                rest = self._mapped(function, [first.rest], depth + 1) if first.rest is not None else None
                made = Sequence(items, rest, first.kind)
                made.names = first.names
                return made
            if isinstance(first, Mapping):
                return Mapping(
                    {
                        key: self._mapped(function, [part, *(_entry(tree, key) for tree in trees[1:])], depth + 1)
                        for key, part in first.entries.items()
                    }
                )
            if isinstance(first, Instance) and first.cls is not None and not self.is_module(first):
                made_instance = Instance(first.cls, name=first.network.name)
                for key, part in first.attrs.items():
                    made_instance.attrs[key] = (
                        self._mapped(function, [part], depth + 1) if isinstance(part, (Node, Unknown)) else part
                    )
                return made_instance
        return self.call(function, trees, {})

    def _t_functional_call(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 2:
            return Unknown("output")
        given = args[2] if len(args) > 2 else keywords.get("args", Sequence(()))
        values = list(given.items) if isinstance(given, Sequence) else [given]
        parameters = args[1]
        if isinstance(parameters, (Parameters, StateDict, Unknown)) or isinstance(args[0], Unknown):
            return self.call(args[0], values, {})
        tree = self.tensor(parameters)
        saved, self.applied = self.applied, tree
        try:
            return self.call(args[0], values, {})
        finally:
            self.applied = saved

    def _t_autograd_grad(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if not args:
            return Unknown("gradients")
        inputs = args[1] if len(args) > 1 else keywords.get("inputs", NONE)
        loss = self.tensor(args[0])
        leaves = frozenset(self.parameters_of(inputs)) if not isinstance(inputs, Const) else frozenset()
        if leaves:
            self.event("backward", sink=self.make_sink(loss, "grad", leaves))
        create = keywords.get("create_graph")
        if isinstance(create, Const) and not create.value or create is None:
            return self.node("gradient", [Edge(loss, False)], passes=False)
        return self.node("gradient", [Edge(loss)])

    def _t_backward(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if args:
            self.backward(args[0])
        return NONE

    def _t_deepcopy(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return _deepcopy(self, args, keywords)

    def _t_kl(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.node("kl_divergence", [Edge(self.tensor(value)) for value in args[:2]])

    def _t_apply_updates(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.version(args[0]) if args else _result("params")

    def _t_incremental(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """optax.incremental_update(new, old, step_size): a copy's update."""
        new, old, size = _named(("new_tensors", "old_tensors", "step_size"), args, keywords)
        if new is None or old is None:
            return _result("target_params")
        weight = 1 - self.number(size) if size is not None else math.nan
        return self.follow(new, old, "soft_update", None if math.isnan(weight) else round(weight, 9))

    def _t_periodic(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """optax.periodic_update(new, old, steps, period)."""
        new, old, *_ = _named(("new_tensors", "old_tensors"), args, keywords)
        return self.follow(new, old, "copy", 0.0) if new is not None and old is not None else _result("target_params")

    def _t_first(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """Reshapes a tree and keeps what is in it."""
        return args[0] if args else next(iter(keywords.values()), NONE)

    def _t_second(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return args[1] if len(args) > 1 else NONE

    def _t_leaves(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if not args:
            return NONE
        if isinstance(args[0], (Instance, Unknown)):
            return args[0]
        return Sequence(self.nodes_of(args[0])[:24], None, "list")

    def _t_flatten(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return Sequence([self._t_leaves(row, args, keywords), plain("treedef")])

    def _t_ravel(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return Sequence([self.tensor(args[0]) if args else NONE, Unknown("unravel")])

    def _t_reduce(self, row: Row, args: Args, keywords: Keywords) -> Any:
        nodes = [node for value in args[1:] for node in self.nodes_of(value)]
        return self.node("sum", [Edge(node) for node in nodes[:40]])

    def _t_vector(self, row: Row, args: Args, keywords: Keywords) -> Any:
        leaves = self.parameters_of(args[0]) if args else []
        return self.node("cat", [Edge(leaf) for leaf in leaves[:40]])

    def _t_write_vector(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) > 1:
            self.event("step", leaves=tuple(self.parameters_of(args[1])))
        return NONE

    def _t_partition(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """equinox: the differentiated half of a model and the rest; which is which is known for the usual filters."""
        spec = args[1] if len(args) > 1 else NONE
        if isinstance(spec, External):
            return Sequence([args[0], plain("static")])
        return Sequence([Unknown("trainable"), Unknown("static")])

    def _t_combine(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return Unknown("model") if not args or isinstance(args[0], (Node, Unknown)) else args[0]

    def _t_train_state(self, row: Row, args: Args, keywords: Keywords) -> Any:
        made = Unknown("state")
        made.attrs.update(keywords)
        return made

    def _t_optimizer_method(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """`torch.optim.Optimizer.step(opt)`, `scaler.step(opt)`."""
        for value in args:
            if hasattr(value, "optimizer"):
                return self.call_method(value, row.path.rsplit(".", 1)[-1], [], {})
        return NONE

    def _t_averaged(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.clone(args[0]) if args else NONE

    def _t_tape(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return Transformed(NONE, "gradient_tape")

    def _t_haiku(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.transform_haiku(args[0] if args else NONE, row.path.rsplit(".", 1)[-1])

    def _t_without_rng(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.without_rng(args[0]) if args else NONE

    def call_transformed(self, value: Transformed, args: Args, keywords: Keywords) -> Any:
        if value.how == "decorator":
            return self.call(value.function, args, {**(value.extra or {}), **keywords})
        if value.how == "autograd_function":
            return self._autograd_function(value.function, args)
        if value.how == "namedtuple":
            names = value.function.value
            made = Sequence([args[i] if i < len(args) else keywords.get(n, NONE) for i, n in enumerate(names)])
            made.names = names
            return made
        return self.call_unknown("transformed", args, keywords)

    def _autograd_function(self, cls: ClassValue, args: Args) -> Any:
        """A custom autograd.Function: its backward is written by hand, so gradient passes to every tensor given."""
        edges = [Edge(node) for value in args for node in self.nodes_of(value)]
        return self.node("custom", edges, detail=cls.name)

    gradients: list[Gradient]


def _named(names: tuple[str, ...], args: Args, keywords: Keywords) -> list[Any]:
    """The arguments of these names, in order; None for one that is not given."""
    return [args[i] if i < len(args) else keywords.get(name) for i, name in enumerate(names)]


def _argnums(spec: Any) -> tuple[Any, ...]:
    if isinstance(spec, Const) and isinstance(spec.value, (int, str)):
        return (spec.value,)
    if isinstance(spec, Sequence):
        return tuple(part.value for part in spec.items if isinstance(part, Const)) or (0,)
    return (0,)


def _nth(tree: Any, index: int) -> Any:
    return tree.items[index] if isinstance(tree, Sequence) and index < len(tree.items) else tree


def _entry(tree: Any, key: Any) -> Any:
    return tree.entries.get(key, tree) if isinstance(tree, Mapping) else tree


def _result(name: str) -> Unknown:
    made = Unknown(name)
    made.call = True
    return made


def _partial(machine: Any, args: Args, keywords: Keywords) -> Any:
    return Partial(args[0], args[1:], keywords) if args else Unknown("partial")


def _deepcopy(machine: Any, args: Args, keywords: Keywords) -> Any:
    if machine.current_framework == "jax" and args and isinstance(args[0], (Node, Mapping, Unknown)):
        return machine.copied_tree(args[0])
    return machine.clone(args[0]) if args else NONE


def _shallow(machine: Any, args: Args, keywords: Keywords) -> Any:
    value = args[0] if args else NONE
    if machine.current_framework == "tensorflow" and machine.is_module(value):
        return machine.clone(value)  # a builder of layers, whose copy gets another name and variables of its own
    return machine.call_method(value, "copy", [], {}) if isinstance(value, (Sequence, Mapping)) else value


def _chain(machine: Any, args: Args, keywords: Keywords) -> Any:
    leaves: dict[Any, None] = {}
    for value in args:
        if isinstance(value, (Parameters, Sequence)):
            leaves.update(dict.fromkeys(machine.held_by(value)))
    if leaves:
        return Parameters(tuple(leaves))
    parts = [part for value in args for part in machine.iterate(value)[0]]
    rests = [(rest, ALWAYS) for value in args if (rest := machine.iterate(value)[1]) is not None]
    return Sequence(parts, machine.join(rests) if rests else None, "list")


def _cast(machine: Any, args: Args, keywords: Keywords) -> Any:
    return args[1] if len(args) > 1 else Unknown("cast")


def _type_var(machine: Any, args: Args, keywords: Keywords) -> Any:
    made = Unknown("TypeVar")
    made.flag_of = "TypeVar"
    bound = keywords.get("bound")
    if isinstance(bound, ClassValue):
        made.annotation = bound
    return made


def _named_tuple(machine: Any, args: Args, keywords: Keywords) -> Any:
    fields = args[1] if len(args) > 1 else keywords.get("field_names", NONE)
    names: list[str] = []
    if isinstance(fields, Sequence):
        for part in fields.items:
            name = part.items[0] if isinstance(part, Sequence) and part.items else part
            names.append(str(name.value) if isinstance(name, Const) else "?")
    elif isinstance(fields, Const) and isinstance(fields.value, str):
        names = fields.value.replace(",", " ").split()
    return Transformed(Const(tuple(names)), "namedtuple")


def _defaultdict(machine: Any, args: Args, keywords: Keywords) -> Any:
    return Mapping()


def _deque(machine: Any, args: Args, keywords: Keywords) -> Any:
    made = Sequence(args[0].items if args and isinstance(args[0], Sequence) else (), None, "list")
    made.time = machine.tick()
    return made


def _reduce(machine: Any, args: Args, keywords: Keywords) -> Any:
    if len(args) < 2:
        return Unknown("reduce")
    return machine.call(args[0], [machine.element(args[1]), machine.element(args[1])], {})


def _namespace(machine: Any, args: Args, keywords: Keywords) -> Any:
    made = Unknown("namespace")
    made.attrs.update(keywords)
    return made


STANDARD: dict[str, Callable[[Any, Args, Keywords], Any]] = {
    "functools.partial": _partial,
    "functools.reduce": _reduce,
    "jax.tree_util.Partial": _partial,
    "copy.deepcopy": _deepcopy,
    "copy.copy": _shallow,
    "itertools.chain": _chain,
    "itertools.chain.from_iterable": lambda machine, args, keywords: machine.element(args[0]) if args else NONE,
    "typing.cast": _cast,
    "typing.TypeVar": _type_var,
    "collections.namedtuple": _named_tuple,
    "typing.NamedTuple": _named_tuple,
    "collections.defaultdict": _defaultdict,
    "collections.OrderedDict": lambda machine, args, keywords: machine.call_builtin("dict", args, keywords),
    "collections.deque": _deque,
    "types.SimpleNamespace": _namespace,
    "contextlib.nullcontext": lambda machine, args, keywords: NONE,
    "itertools.count": lambda machine, args, keywords: Sequence((), plain("i")),
    "itertools.zip_longest": lambda machine, args, keywords: machine.call_builtin("zip", args, {}),
}

KINDS: dict[str, Callable[[Any, Row, Args, Keywords], Any]] = {
    "op": Library._operation,
    "stop": Library._stop,
    "constant": Library._row_constant,
    "alloc": Library._alloc,
    "random": Library._random,
    "identity": Library._identity,
    "inplace": Library._in_place_function,
    "module": Library._new_module,
    "plain_module": Library._new_module,
    "loss_module": Library._new_module,
    "container": Library._container,
    "parameter": Library._parameter,
    "optimizer": Library._row_optimizer,
    "distribution": Library._distribution,
    "grad_mode": Library._row_grad_mode,
    "transform": Library._transform,
    "raises": Library._none,
    "none": Library._none,
}

TRANSFORMS: dict[str, Callable[[Any, Row, Args, Keywords], Any]] = {
    "grad": Library._t_gradient,
    "value_and_grad": Library._t_gradient,
    "vjp": Library._t_direct,
    "jvp": Library._t_direct,
    "linearize": Library._t_direct,
    "jit": Library._t_same,
    "vmap": Library._t_same,
    "pmap": Library._t_same,
    "checkpoint": Library._t_same,
    "custom_vjp": Library._t_same,
    "custom_jvp": Library._t_same,
    "stop_module": Library._t_same,
    "scan": Library._t_scan,
    "tf_scan": lambda machine, row, args, keywords: machine.tf_scan(row, args, keywords),
    "tf_while": lambda machine, row, args, keywords: machine.tf_while(row, args, keywords),
    "tape_gradient": lambda machine, row, args, keywords: machine.tape_gradient(row, args, keywords),
    "while_loop": Library._t_while,
    "fori_loop": Library._t_fori,
    "cond": Library._t_cond,
    "switch": Library._t_switch,
    "select": Library._t_select,
    "where": Library._t_select,
    "tree_map": Library._t_map,
    "partial": lambda machine, row, args, keywords: _partial(machine, args, keywords),
    "functional_call": Library._t_functional_call,
    "autograd_grad": Library._t_autograd_grad,
    "backward": Library._t_backward,
    "deepcopy": Library._t_deepcopy,
    "kl_divergence": Library._t_kl,
    "apply_updates": Library._t_apply_updates,
    "incremental_update": Library._t_incremental,
    "periodic_update": Library._t_periodic,
    "haiku_transform": Library._t_haiku,
    "without_apply_rng": Library._t_without_rng,
    "manual_backward": Library._t_backward,
    "gradient_tape": Library._t_tape,
    "jacobian_transform": Library._t_jacobian,
    "jacrev": Library._t_jacobian,
    "jacfwd": Library._t_jacobian,
    "hessian": Library._t_jacobian,
    "jacobian": Library._t_jacobian,
    "linear_transpose": Library._t_jacobian,
    "grad_and_value": Library._t_gradient,
    "dataclass": Library._t_first,
    "tree_transpose": Library._t_first,
    "combine": Library._t_combine,
    "module_scan": Library._t_first,
    "module_method": Library._t_first,
    "nnx_state": Library._t_first,
    "replace": Library._t_first,
    "apply_gradients": Library._t_first,
    "stack_module_state": Library._t_first,
    "tree_at": Library._t_second,
    "tree_unflatten": Library._t_second,
    "partition": Library._t_partition,
    "tree_leaves": Library._t_leaves,
    "tree_flatten": Library._t_flatten,
    "tree_reduce": Library._t_reduce,
    "ravel_pytree": Library._t_ravel,
    "parameters_to_vector": Library._t_vector,
    "vector_to_parameters": Library._t_write_vector,
    "train_state": Library._t_train_state,
    "optimizer_step": Library._t_optimizer_method,
    "scaler_step": Library._t_optimizer_method,
    "zero_grad": Library._t_optimizer_method,
    "averaged_model": Library._t_averaged,
    "map": Library._t_map,
    "remat": Library._t_same,
    "shard_map": Library._t_same,
}
