"""Where losses are differentiated: backward, jax.grad and its kin, tapes, minimize."""

from __future__ import annotations

import ast
import re
from typing import Any

from gradaudit.entries import entries_taken
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import (
    MISSING,
    NONE,
    Const,
    Function,
    Gradient,
    Instance,
    Mapping,
    Partial,
    Sequence,
    Transformed,
    Union,
    Unknown,
)
from gradaudit.tape import Edge, Node, Optimizer, Sink

GRADIENT = frozenset({"gradient"})


class Differentiation(Machine):
    differentiated_groups: list[set[Node]]
    tapes: int

    def backward(self, loss: Any, kind: str = "backward", differentiated: Any = None) -> None:
        """A sink. `differentiated`: what the gradient is taken for (None: everything that requires it)."""
        if isinstance(loss, Sequence) and loss.items:
            for part in loss.items:
                self.backward(part, kind, differentiated)
            return
        if isinstance(loss, (Const, Function)) or loss is MISSING:
            return
        if isinstance(loss, Unknown) and loss.node is None and loss.instance is None:
            self.event("backward", sink=self.make_sink(self.tensor(loss), kind, None))
            return
        leaves = None
        if differentiated is not None and not (isinstance(differentiated, Const) and differentiated.value is None):
            found = self.parameters_of(differentiated)
            leaves = frozenset(found)  # not understood: nothing is known to be reached
        self.event("backward", sink=self.make_sink(self.tensor(loss), kind, leaves))

    def make_sink(self, loss: Node, kind: str, differentiated: frozenset[Node] | None) -> Sink:
        made = Sink(
            loss, kind, self.location(), self.tick(), differentiated, None, self.loop_keys,
            frozenset(self.assumed.items()), self.function,
        )  # fmt: skip
        self.sinks.append(made)
        self.heard()
        return made

    def minimize(self, optimizer: Optimizer, args: Args, keywords: Keywords) -> None:
        """TF1/Keras: `optimizer.minimize(loss, var_list)`."""
        loss = args[0]
        if isinstance(loss, Function):
            loss = self.call(loss, [], {})
        variables = keywords.get("var_list", args[1] if len(args) > 1 else None)
        self.backward(loss, "minimize", variables)

    # -- jax ---------------------------------------------------------------------------------------------------------
    def call_gradient(self, gradient: Gradient, args: Args, keywords: Keywords) -> Any:
        """Enter the function with fresh leaves for the differentiated arguments; everything else is constant, but for
        the loss around it, if there is one."""
        gradient.called = True
        inner, began = bool(self.differentiated_groups), self.tick()
        constant = (lambda value: value) if inner else self.strip
        moved: list[Node] = []
        function = gradient.function
        argnums = gradient.argnums if gradient.argnums is not None else (0,)
        group: set[Node] = set()
        fresh: list[Any] = []
        for index, value in enumerate(args):
            if index in argnums or index - len(args) in argnums:
                chosen = gradient.filters.get(index, gradient.filters.get(index - len(args)))
                moved += self.nodes_of(value) if inner else ()
                fresh.append(self._filtered(value, _parameter_name(function, index), group, chosen))
            else:
                fresh.append(constant(value))
        passed = {}
        for key, value in keywords.items():
            named = key in argnums or any(_parameter_name(function, i) == key for i in argnums if isinstance(i, int))
            moved += self.nodes_of(value) if inner and named else ()
            passed[key] = self._differentiable(value, key, group) if named else constant(value)
        self.differentiated_groups.append(group)
        at = self.line_node
        saved, self.grad_on = self.grad_on, True
        try:
            result = self.call(function, fresh, passed)
        finally:
            self.grad_on = saved
            self.differentiated_groups.pop()
        self.line_node = at
        edges = self._moved_by(moved, _loss_of(gradient, result), group, began) if inner else []
        return self._gradient_result(gradient, result, group, argnums, edges)

    def _moved_by(self, moved: list[Node], loss: Any, group: set[Node], began: int) -> list[Edge]:
        """What moves a gradient: what it is taken for (`moved`), and what was there before (`began`) that gradient of
        its loss reaches. What enters the loss through stops alone is a part of it and does not."""
        inside = self.nodes_of(loss)
        reached = _reached(inside)
        given = {edge.source for node in reached for edge in node.inputs if edge.passes and node.time >= began}
        given.update(inside)
        fresh = {node for node in given if node.time >= began and (node.leaf is None or node in group)}
        others = sorted(given - fresh - set(moved), key=lambda node: node.time)
        return [*map(Edge, (*moved, *others)), *(Edge(node, False) for node in inside if node not in others)]

    def differentiate_closure(self, function: Any, name: str) -> Any:
        """`state.apply_gradient(loss_fn)` of an object that is not known: the loss by its first argument."""
        gradient = Gradient(function, (0,), True, True)
        self.call_gradient(gradient, self.unknown_arguments(function), {})
        made = Unknown(name)
        made.call = True
        return made

    def unknown_arguments(self, function: Any) -> list[Any]:
        """Something for each argument of a function that we call in place of whoever will."""
        if isinstance(function, Partial):
            return self.unknown_arguments(function.function)[len(function.args) :]
        if isinstance(function, Function):
            spec = function.node.args
            names = [*spec.posonlyargs, *spec.args][1 if function.self_value is not None else 0 :]
            return [self.entry_argument(parameter, None, function) for parameter in names]
        return [Unknown("params"), Unknown("batch")]

    def gradient_helpers(self) -> frozenset[str]:
        return self.hints.gradient_helpers(self.main_file)

    def _gradient_result(
        self, gradient: Gradient, result: Any, group: set[Node], argnums: Any, behind: list[Edge]
    ) -> Any:
        loss, aux, sink = result, None, None
        if isinstance(result, Sequence) and result.items and (gradient.has_aux or len(result.items) == 2):
            loss, aux = result.items[0], result.items[1] if len(result.items) > 1 else NONE
        elif gradient.has_aux and isinstance(result, Node):
            loss = self.get_item(result, Const(0))
            aux = self.get_item(result, Const(1))
        if group and not isinstance(loss, (Const, Function, Unknown)) and not _any_of_several(loss, group):
            sink = self.make_sink(self.tensor(loss), "grad", frozenset(group))
            taken = self._entries_taken(gradient, argnums)
            self.gradient_sinks.append((sink, group, taken))
            given = [
                (leaf, original)
                for leaf in sorted(group, key=lambda leaf: leaf.time)
                if (original := self.given_for(leaf)) is not None
            ]
            self.event("backward", sink=sink, leaves=tuple(a for a, _ in given), sources=tuple(b for _, b in given))
        grads: Any = self._gradients(behind)
        if sink is not None:
            self.gradient_of_sink[grads] = sink
        if isinstance(argnums, tuple) and len(argnums) > 1:
            grads = Sequence([self._gradients(behind) for _ in argnums])
        # inside of another loss, its gradient goes on to what this one computes
        finished = (lambda part: part) if self.differentiated_groups else self.strip
        value = finished(loss)
        extra = finished(aux) if aux is not None else None
        if gradient.style in ("vjp", "linearize"):
            return Sequence([value, Unknown("pullback"), *([extra] if extra is not None else [])])
        if gradient.style == "jvp":
            return Sequence([value, Unknown("tangents")])
        if gradient.with_value:
            return Sequence([Sequence([value, extra]) if gradient.has_aux else value, grads])
        return Sequence([grads, extra]) if gradient.has_aux else grads

    gradient_sinks: list[tuple[Sink, set[Node], frozenset[str] | None]]
    gradient_of_sink: dict[Unknown, Sink]

    def _entries_taken(self, gradient: Gradient, argnums: Any) -> frozenset[str] | None:
        if gradient.style != "grad" or len(argnums) != 1 or not isinstance(self.line_node, ast.Call):
            return None
        module = self.files.module(self.main_file)
        around = self.stack[-1] if self.stack else module.tree if module is not None else None
        if around is None:
            return None
        return entries_taken(self.line_node, around, gradient.with_value, gradient.has_aux)

    def _gradients(self, behind: list[Edge]) -> Unknown:
        """What differentiating gives; inside of another loss it depends on what the inner one was given (`behind`)."""
        made = Unknown("grads")
        made.marks = GRADIENT
        if behind:
            made.node = self.node("gradient", list(behind), name="grads", marks=GRADIENT)
        return made

    def given_for(self, leaf: Node) -> Node | None:
        """The tree that was passed for a differentiated argument, or for the one that it is an entry of."""
        whole = self.part_of.get(leaf, leaf)
        return self.trees.get(whole) or self.stands_for.get(whole)

    def _filtered(self, value: Any, name: str, group: set[Node], chosen: Any) -> Any:
        """An argument of which a filter, if there is one, says what is differentiated."""
        leaves: set[Node] = set()
        made = self._differentiable(value, name, leaves)
        group.update(leaves if chosen is None else self.selected(made, leaves, chosen))
        return made

    def _differentiable(self, value: Any, name: str, group: set[Node]) -> Any:
        known = self.known_object(value)
        if self.is_tree(known) or self.has_variables(known):
            value = known
        if isinstance(value, Mapping):
            if set(value.entries) <= {MISSING}:  # its keys are not known: one leaf, whose parts are made when asked for
                return self._differentiable(Unknown(name), name, group)
            return Mapping(
                {
                    key: self._differentiable(part, name if key is MISSING else f"{name}.{key}", group)
                    for key, part in value.entries.items()
                }
            )
        if isinstance(value, Sequence) and value.items:
            names = tuple(f"{name}[{index}]" for index in range(len(value.items)))
            if value.names:
                names = tuple(f"{name}.{part}" for part in value.names)
            made = Sequence([self._differentiable(v, n, group) for v, n in zip(value.items, names, strict=False)])
            made.names, made.kind = value.names, value.kind
            return made
        if isinstance(value, Instance):
            return self._differentiable_instance(value, group)
        if isinstance(value, Transformed) and value.how == "part":
            return value.function  # nothing is known to be differentiated of it
        leaf = self.leaf("arg", name)
        group.add(leaf)
        for tree in self.trees_of(value)[:1]:
            self.trees[leaf] = tree
            self.differentiated_trees[tree] = None
        return leaf

    def _differentiable_instance(self, value: Instance, group: set[Node]) -> Instance:
        """A module (equinox, nnx) or a struct: a copy whose parameters are the leaves; the frame stays its own."""
        if self.is_module(value):
            self.differentiated_value(value)
            made = self.independent(value)  # `target = model` is a copy here: only what comes in here is differentiated
            group.update(self.parameters_of(made))
            for key, part in value.attrs.items():
                if self.is_unknown_part(value, key, part):
                    made.attrs[key] = self._differentiable(part, f"{value.network.name}.{key}".strip("."), group)
            return made
        made = Instance(value.cls, name=value.network.name)
        for key, part in value.attrs.items():
            made.attrs[key] = (
                self._differentiable(part, str(key), group)
                if isinstance(part, (Node, Unknown, Mapping, Sequence))
                else part
            )
        return made

    def strip(self, value: Any, depth: int = 0) -> Any:
        """The value as a constant, containers and structs included."""
        if isinstance(value, Node):
            if value.op in ("const", "stop") or value.leaf is not None and value.leaf.kind in ("input", "const"):
                return value
            return self.stop(self.current(value), "constant")
        if depth > 4:
            return value
        if isinstance(value, Sequence):
            made = Sequence(
                [self.strip(part, depth + 1) for part in value.items],
                self.strip(value.rest, depth + 1) if value.rest is not None else None,
                value.kind,
            )
            made.names = value.names
            return made
        if isinstance(value, Mapping):
            return Mapping({key: self.strip(part, depth + 1) for key, part in value.entries.items()})
        if isinstance(value, Union):
            return Union(tuple(self.strip(part, depth + 1) for part in value.alternatives))
        if isinstance(value, Instance) and not self.is_module(value) and value.cls is not None:
            made_instance = Instance(value.cls, name=value.network.name)
            made_instance.attrs = {key: self.strip(part, depth + 1) for key, part in value.attrs.items()}
            return made_instance
        return value

    def stop_value(self, value: Any) -> Any:
        """`stop_gradient(x)`: a stop of every tensor in x."""
        if isinstance(value, Node):
            return self.stop(self.current(value), "stop_gradient")
        if isinstance(value, Unknown):
            return self.stop(self.tensor(value), "stop_gradient") if value.node is not None else value
        if isinstance(value, (Sequence, Mapping, Union, Instance)):
            return self._stop_parts(value)
        return value

    def _stop_parts(self, value: Any) -> Any:
        if isinstance(value, Sequence):
            rest = self.stop_value(value.rest) if value.rest is not None else None
            made = Sequence([self.stop_value(part) for part in value.items], rest, value.kind)
            made.names = value.names
            return made
        if isinstance(value, Mapping):
            return Mapping({key: self.stop_value(part) for key, part in value.entries.items()})
        if isinstance(value, Union):
            return Union(tuple(self.stop_value(part) for part in value.alternatives))
        if self.is_module(value):
            made_module = self.clone(value)
            for leaf in self.parameters_of(made_module):
                self.put(self.frozen, leaf, True)
            return made_module
        return self.strip(value)

    frozen: dict[Any, Any]


def stepped_entries(group: set[Node], entries: frozenset[str] | None) -> frozenset[Node] | None:
    """Of what is differentiated, these entries and their parts. None where all of it is meant, or where some of it has
    a name of its own. Of a whole, nobody knows its entries."""
    names = {leaf: re.split(r"[.\[]", leaf.leaf.path) for leaf in group if leaf.leaf is not None}
    if entries is None or len({parts[0] for parts in names.values()}) != 1:
        return None
    return frozenset(leaf for leaf, parts in names.items() if len(parts) == 1 or parts[1] in entries) or None


def _any_of_several(loss: Any, group: set[Node]) -> bool:
    """`losses[index]` of whichever index, each of which learns something else: of which one a gradient is, and of what
    it is used for, nobody can tell."""
    if isinstance(loss, Sequence):
        return len(loss.items) > 1 or loss.rest is not None
    if isinstance(loss, Mapping):
        return True
    if not isinstance(loss, Node) or loss.op != "phi" or loss.detail or any(edge.guard for edge in loss.inputs):
        return False
    return len({frozenset(_learning(edge.source, group)) for edge in loss.inputs}) > 1


def _loss_of(gradient: Gradient, result: Any) -> Any:
    return result.items[0] if gradient.has_aux and isinstance(result, Sequence) and result.items else result


def _learning(value: Node, group: set[Node]) -> set[Node]:
    """What of `group` gradient reaches from a value."""
    return _reached([value]) & group


def _reached(values: list[Node]) -> set[Node]:
    """Everything that gradient reaches from these values."""
    seen, waiting = set(values), list(values)
    while waiting:
        fresh = [edge.source for edge in waiting.pop().inputs if edge.passes and edge.source not in seen]
        seen.update(fresh)
        waiting += fresh
    return seen


def _parameter_name(function: Any, index: Any) -> str:
    if isinstance(function, Partial):
        return _parameter_name(function.function, index + len(function.args) if isinstance(index, int) else index)
    if isinstance(function, Transformed):
        return _parameter_name(function.function, index)
    if isinstance(function, Function) and isinstance(index, int):
        names = [argument.arg for argument in (*function.node.args.posonlyargs, *function.node.args.args)]
        index += 1 if function.self_value is not None else 0
        if index < len(names):
            return names[index]
    return f"argument {index}"
