"""Transformations that model rows name: of functions, of trees, of parameters, of optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gradaudit.models import Row
from gradaudit.static.control import CONTROL
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.options import add_option
from gradaudit.static.standard import deepcopy, partial
from gradaudit.static.values import (
    NONE,
    ClassValue,
    Const,
    External,
    Gradient,
    Instance,
    Mapping,
    Parameters,
    Partial,
    Sequence,
    StateDict,
    Transformed,
    Unknown,
    foreign,
    plain,
)
from gradaudit.tape import Edge, Node


class Transforms(Machine):
    def _t_gradient(self, row: Row, args: Args, keywords: Keywords) -> Any:
        handler = row.path.rsplit(".", 1)[-1]
        function = args[0] if args else keywords.get("fun", keywords.get("f"))
        if function is None:
            return Partial(External(row.path), [], keywords)
        spec = keywords.get("argnums", args[1] if len(args) > 1 else None)
        aux = keywords.get("has_aux", args[2] if len(args) > 2 else None)
        has_aux = isinstance(aux, Const) and bool(aux.value)
        made = Gradient(function, _argnums(spec), has_aux, "value" in handler)
        made.filters = _filters(spec)
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

    def _t_map(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """tree_map and lax.map: the function on every leaf of the trees."""
        if len(args) < 2:
            return Unknown("tree")
        made = self._mapped(args[0], args[1:], 0)
        if (
            isinstance(made, Const)
            and isinstance(made.value, bool)
            and self.is_tree(module := self.known_object(args[1]))
        ):
            return Transformed(module, "mask", (made.value, ()))
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
        return self.call(function, self.mapped_states(trees), {})

    def _t_functional_call(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 2:
            return Unknown("output")
        given = args[2] if len(args) > 2 else keywords.get("args", Sequence(()))
        values = list(given.items) if isinstance(given, Sequence) else [given]
        parameters = args[1]
        if isinstance(parameters, (Parameters, StateDict, Unknown)) or isinstance(args[0], Unknown):
            return self.call(args[0], values, {})
        if isinstance(parameters, Mapping):
            parameters = Mapping({key: self.fetch(parameters.entries, key) for key in list(parameters.entries)})
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
        return deepcopy(self, args, keywords)

    def _t_kl(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.node("kl_divergence", [Edge(self.tensor(value)) for value in args[:2]])

    def _t_apply_updates(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.version(args[0]) if args else foreign("params")

    def _t_incremental(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """optax.incremental_update(new, old, step_size): a copy's update."""
        new, old, size = _named(("new_tensors", "old_tensors", "step_size"), args, keywords)
        if new is None or old is None:
            return foreign("target_params")
        averaged = self.averaged_states(new, old, size)
        if averaged is not None:
            return averaged
        weight = 1 - self.number(size) if size is not None else math.nan
        return self.follow(new, old, "soft_update", None if math.isnan(weight) else round(weight, 9))

    def _t_periodic(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """optax.periodic_update(new, old, steps, period)."""
        new, old, *_ = _named(("new_tensors", "old_tensors"), args, keywords)
        if new is None or old is None:
            return foreign("target_params")
        renewed = self.renewed_states(new, old)
        return self.follow(new, old, "copy", 0.0) if renewed is None else renewed

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
        spec = args[1] if len(args) > 1 else keywords.get("filter_spec", NONE)
        if isinstance(spec, External):
            return Sequence([args[0], plain("static")])
        module = self.known_object(args[0]) if args else NONE
        return Sequence([self.trainable_part(module, spec), plain("static")])

    def _t_is_array(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """equinox's filters, asked of a leaf in a mapped function: what matters here are the arrays."""
        return Const(True)

    def _t_combine(self, row: Row, args: Args, keywords: Keywords) -> Any:
        parts = [part.function if isinstance(part, Transformed) else part for part in args]
        return next((part for part in parts if isinstance(part, Instance)), parts[0] if parts else Unknown("model"))

    def _t_unroll(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """haiku's `dynamic_unroll(core, inputs, state)`: what the core makes of the whole sequence, and its state."""
        core, inputs, state = _named(("core", "input_sequence", "initial_state"), args, keywords)
        if core is None or inputs is None or state is None:
            return Unknown("unrolled")
        made = self.call(core, [inputs, state], {})
        return made if isinstance(made, Sequence) else Sequence([self.get_item(made, Const(i)) for i in (0, 1)])

    def _t_train_state(self, row: Row, args: Args, keywords: Keywords) -> Any:
        made = Unknown("state")
        made.attrs.update(self.distinct_entries(keywords))
        return made

    def _t_optimizer_method(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """`torch.optim.Optimizer.step(opt)`, `scaler.step(opt)`."""
        for value in args:
            if hasattr(value, "optimizer"):
                return self.call_method(value, row.path.rsplit(".", 1)[-1], [], {})
        return NONE

    def _t_averaged(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """torch's AveragedModel and its like: a copy with a method that follows the original. `frozen`: some switch
        its gradient off themselves."""
        so_far = len(self.events)
        made = self.clone(args[0]) if args else NONE
        if row.extra.get("frozen"):
            copied = [leaf for event in self.events[so_far:] for leaf in event.leaves]
            self.freeze(list(dict.fromkeys([*self.parameters_of(made), *copied])), Const(False))
        if isinstance(made, (Instance, Unknown)):
            made.attrs["update_parameters"] = Transformed(made, "averaging")
            if row.extra.get("frozen"):
                made.attrs["update"] = Transformed(made, "averaging", args[0])
        return made

    def _t_tape(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return Transformed(NONE, "gradient_tape")

    def _t_haiku(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.transform_haiku(args[0] if args else NONE, row.path.rsplit(".", 1)[-1])

    def _t_without_rng(self, row: Row, args: Args, keywords: Keywords) -> Any:
        return self.without_rng(args[0]) if args else NONE

    def call_transformed(self, value: Transformed, args: Args, keywords: Keywords) -> Any:
        if value.how == "decorator":
            return self.call(value.function, args, {**(value.extra or {}), **keywords})
        if value.how == "averaging":
            followed = args[0] if args else value.extra
            sources = self.parameters_of(followed) if followed is not None else []
            self.updated(self.parameters_of(value.function), sources, "soft_update")
            return NONE
        if value.how == "autograd_function":
            return self._autograd_function(value.function, args)
        if value.how == "haiku_part" and args:
            return self.apply_haiku(value, args, keywords)
        if value.how == "constant":
            return value.function
        if value.how == "option":
            add_option(self, value.function, args, keywords)
            return NONE
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
    if isinstance(spec, Transformed) and spec.how == "diff_state":
        return _argnums(spec.function)
    if isinstance(spec, Sequence):
        return tuple(
            number for part in spec.items if isinstance(part, (Const, Transformed)) for number in _argnums(part)
        ) or (0,)
    return (0,)


def _filters(spec: Any) -> dict[Any, Any]:
    """nnx: what is differentiated of an argument, by its position."""
    parts = spec.items if isinstance(spec, Sequence) else [spec]
    states = [part for part in parts if isinstance(part, Transformed) and part.how == "diff_state"]
    return {number: part.extra for part in states for number in _argnums(part)}


def _nth(tree: Any, index: int) -> Any:
    return tree.items[index] if isinstance(tree, Sequence) and index < len(tree.items) else tree


def _entry(tree: Any, key: Any) -> Any:
    return tree.entries.get(key, tree) if isinstance(tree, Mapping) else tree


TRANSFORMS: dict[str, Callable[[Any, Row, Args, Keywords], Any]] = {
    "grad": Transforms._t_gradient,
    "value_and_grad": Transforms._t_gradient,
    "vjp": Transforms._t_direct,
    "jvp": Transforms._t_direct,
    "linearize": Transforms._t_direct,
    "jit": Transforms._t_same,
    "vmap": Transforms._t_same,
    "pmap": Transforms._t_same,
    "checkpoint": Transforms._t_same,
    "custom_vjp": Transforms._t_same,
    "custom_jvp": Transforms._t_same,
    "stop_module": Transforms._t_same,
    "tf_scan": lambda machine, row, args, keywords: machine.tf_scan(row, args, keywords),
    "tf_while": lambda machine, row, args, keywords: machine.tf_while(row, args, keywords),
    "tape_gradient": lambda machine, row, args, keywords: machine.tape_gradient(row, args, keywords),
    "tree_map": Transforms._t_map,
    "partial": lambda machine, row, args, keywords: partial(machine, args, keywords),
    "functional_call": Transforms._t_functional_call,
    "autograd_grad": Transforms._t_autograd_grad,
    "backward": Transforms._t_backward,
    "deepcopy": Transforms._t_deepcopy,
    "kl_divergence": Transforms._t_kl,
    "apply_updates": Transforms._t_apply_updates,
    "incremental_update": Transforms._t_incremental,
    "periodic_update": Transforms._t_periodic,
    "haiku_transform": Transforms._t_haiku,
    "without_apply_rng": Transforms._t_without_rng,
    "manual_backward": Transforms._t_backward,
    "gradient_tape": Transforms._t_tape,
    "jacobian_transform": Transforms._t_jacobian,
    "jacrev": Transforms._t_jacobian,
    "jacfwd": Transforms._t_jacobian,
    "hessian": Transforms._t_jacobian,
    "jacobian": Transforms._t_jacobian,
    "linear_transpose": Transforms._t_jacobian,
    "grad_and_value": Transforms._t_gradient,
    "dataclass": Transforms._t_first,
    "tree_transpose": Transforms._t_first,
    "combine": Transforms._t_combine,
    "unroll": Transforms._t_unroll,
    "module_scan": Transforms._t_first,
    "module_method": Transforms._t_first,
    "nnx_state": Transforms._t_first,
    "nnx_filter": lambda machine, row, args, keywords: machine.nnx_filter(row, args, keywords),
    "diff_state": lambda machine, row, args, keywords: machine.diff_state(args, keywords),
    "nnx_update": lambda machine, row, args, keywords: machine.nnx_update(args),
    "nnx_split": lambda machine, row, args, keywords: machine.nnx_split(args),
    "nnx_merge": lambda machine, row, args, keywords: machine.nnx_merge(args),
    "replace": Transforms._t_first,
    "apply_gradients": Transforms._t_first,
    "stack_module_state": Transforms._t_first,
    "tree_at": lambda machine, row, args, keywords: machine.tree_at(args, keywords),
    "tree_unflatten": Transforms._t_second,
    "partition": Transforms._t_partition,
    "tree_leaves": Transforms._t_leaves,
    "tree_flatten": Transforms._t_flatten,
    "tree_reduce": Transforms._t_reduce,
    "ravel_pytree": Transforms._t_ravel,
    "parameters_to_vector": Transforms._t_vector,
    "vector_to_parameters": Transforms._t_write_vector,
    "is_array": Transforms._t_is_array,
    "train_state": Transforms._t_train_state,
    "optimizer_step": Transforms._t_optimizer_method,
    "scaler_step": Transforms._t_optimizer_method,
    "zero_grad": Transforms._t_optimizer_method,
    "averaged_model": Transforms._t_averaged,
    "map": Transforms._t_map,
    "remat": Transforms._t_same,
    "shard_map": Transforms._t_same,
    **CONTROL,
}
