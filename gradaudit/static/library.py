"""Calls of library names: a handler for each kind of model row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradaudit.models import Row
from gradaudit.static.calls import COMPARES, carries_gradient, is_computed
from gradaudit.static.draws import DRAWS
from gradaudit.static.fills import fill_of
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.networks import gives_parameters
from gradaudit.static.shapes import sizes, width
from gradaudit.static.standard import STANDARD
from gradaudit.static.state import GRAPHLESS
from gradaudit.static.successions import INTEGERS
from gradaudit.static.transforms import TRANSFORMS
from gradaudit.static.trees import ZERO
from gradaudit.static.updates import IN_PLACE
from gradaudit.static.values import (
    NONE,
    Const,
    External,
    Function,
    GradMode,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Unknown,
    foreign,
    foreign_network,
    plain,
)
from gradaudit.tape import Edge, Network, Node

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
DIVERGENCES = frozenset({"kl_divergence", "kl_div"})
SILENT_ROOTS = frozenset({
    "random", "time", "os", "logging", "warnings", "gym", "gymnasium", "sys", "json", "re", "pathlib", "argparse",
    "wandb",
    "absl", "tqdm", "pickle", "datetime", "shutil", "glob", "yaml", "hydra", "omegaconf", "matplotlib", "math",
    "mlflow",
})  # fmt: skip


def _computed(nodes: list[Node]) -> bool:
    return any(is_computed(node) for node in nodes)


MOST_LAYERS = 2000


def _with_decay(tail: str, keywords: Keywords) -> str:
    """What a transformation is called, and what else it is if it was told to decay weights, or not to."""
    decay = keywords.get("weight_decay", keywords.get("weight_decay_rate"))
    if decay is None:
        return tail
    return f"{tail}_without_decay" if isinstance(decay, Const) and not decay.value else f"{tail} add_decayed_weights"


def _by_label(name: str, args: Args, keywords: Keywords) -> tuple[str, dict[str, list[Any]]] | None:
    """`multi_transform({"fit": adam, "keep": set_to_zero()}, {"online": "fit", "target": "keep"})`: which
    entries of a tree each of them steps, where that is known."""
    transforms = args[0] if args else keywords.get("transforms")
    labels = args[1] if len(args) > 1 else keywords.get("param_labels")
    if name not in ("multi_transform", "partition") or not isinstance(transforms, Mapping):
        return None
    found: dict[str, list[Any]] = {}
    for key, label in labels.entries.items() if isinstance(labels, Mapping) else ():
        chosen = transforms.entries.get(label.value) if isinstance(label, Const) else None
        flag = getattr(chosen, "flag_of", None)
        if isinstance(flag, tuple) and flag[0] == "optax":
            found.setdefault(str(flag[1]), []).append(key)
        elif isinstance(chosen, Unknown) and chosen.attrs.get(ZERO):
            found.setdefault(ZERO, []).append(key)
    return "labelled", found


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
        if row.extra.get("packed") and isinstance(made, Node):
            self.packed.add(made)
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
                if self.managing is not None and self.managing is self.line_node:
                    return foreign(tail)  # what is entered for a block steps nothing: it gathers or swaps them
                return self.make_optimizer(value, "")
        if root in SILENT_ROOTS:
            return foreign(tail)
        if root in FRAMEWORK_ROOTS and tail[:1].isupper() and (".nn." in path or ".layers." in path):
            return self._new_module(Row(path, tail, "module"), args, keywords)
        nodes = [node for value in (*args, *keywords.values()) for node in self.nodes_of(value)]
        made_of = carries_gradient(nodes) if tail[:1].isupper() and root not in FRAMEWORK_ROOTS else _computed(nodes)
        if nodes and (root in FRAMEWORK_ROOTS and not tail[:1].isupper() or made_of):
            return self.node(_said(tail, args), [Edge(node) for node in nodes[:40]], detail=tail)
        made = foreign(tail)
        if tail[:1].isupper() and root not in FRAMEWORK_ROOTS:
            made.attrs.update(keywords)
        return made

    # -- kinds of rows -----------------------------------------------------------------------------------------------
    def _operation(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if args and self.written_in(keywords.get("out")):
            self.write_into(keywords["out"], row.path.rsplit(".", 1)[-1], args, keywords)
            return keywords["out"]
        if "out" in keywords and self.current_framework == "torch":  # what is written there has no graph
            plain_call = {name: value for name, value in keywords.items() if name != "out"}
            return self.stop_value(self._operation(row, args, plain_call))
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
            return TRANSFORMS["select"](self, row, [*args, *keywords.values()], {})
        if row.op in ("sample", "rsample", "log_prob") and args and isinstance(args[0], Node) and args[0].op == "dist":
            return self.distribution_method(args[0], row.op, args[1:], keywords)
        return self.apply_row(row, args, keywords)

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
        if row.path.startswith("numpy."):
            made.detail = GRAPHLESS
        elif any(map(_is_integer, (*args, keywords.get("dtype")))):
            made.detail = INTEGERS
        else:
            made.detail = fill_of(row.path.rsplit(".", 1)[-1], args, keywords)
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

    def _wired(self, row: Row, inputs: Any, outputs: Any) -> Instance:
        """A model that is told by its inputs and outputs: it has the parameters of the layers between them."""
        made = Instance(None, row.path)
        made.row = row
        leaves = self._parameters_between(self.nodes_of(inputs), self.nodes_of(outputs))
        for leaf in leaves:
            assert leaf.leaf is not None
            if leaf.leaf.owner is not None and leaf.leaf.owner.parent is None:
                leaf.leaf.owner.parent = made.network
        made.attrs["layers"] = Sequence(leaves, None, "list")
        if not leaves:
            self.layer_leaf(made)
        return made

    def _parameters_between(self, inputs: list[Node], outputs: list[Node]) -> list[Node]:
        found: list[Node] = []
        seen, waiting = {*inputs, *outputs}, list(outputs)
        while waiting and len(seen) < MOST_LAYERS:
            for edge in waiting.pop().inputs:
                if edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
                    if edge.source.leaf is not None and edge.source.leaf.kind == "param":
                        found.append(edge.source)
        return sorted(found, key=lambda leaf: leaf.time)

    def _container(self, row: Row, args: Args, keywords: Keywords) -> Any:
        tail = row.path.rsplit(".", 1)[-1]
        if tail == "Model" and (len(args) > 1 or "outputs" in keywords):
            given = dict(zip(("inputs", "outputs"), args, strict=False)) | keywords
            return self._wired(row, given.get("inputs", NONE), given["outputs"])
        values = list(args) or list(keywords.values())
        if tail in ("ModuleDict", "ParameterDict"):
            made_dict = args[0] if args and isinstance(args[0], Mapping) else Mapping()
            for value in made_dict.entries.values() if tail == "ParameterDict" else ():
                if isinstance(value, Node):
                    self.as_parameter(value, held=True)
            return made_dict
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
        if tail != "ParameterList":
            parts, rest = [_layer(part) for part in parts], _layer(rest)
        if tail in ("ModuleList", "ParameterList"):
            made_list = Sequence(parts, rest, "modules")
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
            made = foreign(row.op)
            tail = row.path.rsplit(".", 1)[-1]
            parts = [part for value in args for part in getattr(value, "items", (value,))]
            if tail not in SELECTIVE and all(getattr(part, "flag_of", "") != "selective" for part in parts):
                inner = [flag[1] for part in parts if isinstance(flag := getattr(part, "flag_of", None), tuple)]
                made.flag_of = ("optax", " ".join([_with_decay(tail, keywords), *map(str, inner)]))
            else:
                made.flag_of = _by_label(tail, args, keywords) or "selective"
                made.attrs.update({ZERO: True} if tail == ZERO else {})
            return made
        wrt = keywords.get("wrt", args[2] if len(args) > 2 else None) if "wrt" in row.args else None
        every = self.parameters_of(given) if wrt is not None else []
        held = self.selected(given, every, wrt)
        return self.make_optimizer(given if len(held) == len(every) else Parameters(tuple(held)), "")

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


def _is_integer(dtype: Any) -> bool:
    """Does an argument say that an array holds integers or booleans?"""
    name = dtype.tail if isinstance(dtype, External) else getattr(dtype, "value", None)
    return isinstance(name, str) and name.startswith(("int", "uint", "bool"))


def _layer(part: Any) -> Any:
    """What a network is made of is a layer, whatever gave it: a builder that is not understood, told some sizes."""
    return foreign_network("layers") if isinstance(part, Node) else part


def _said(name: str, args: Args) -> str:
    """What a function of a library that is not known computes of two tensors, if its name says it."""
    if len(args) != 2 or not all(isinstance(value, Node) for value in args):
        return "call"
    return name if name in DIVERGENCES else "unknown_loss" if COMPARES.search(name) else "call"
