"""Tensors: model rows applied, methods, in-place writes."""

from __future__ import annotations

from typing import Any

from gradaudit.models import Row
from gradaudit.static.draws import DRAWS
from gradaudit.static.fills import fill_of
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.shapes import ASKED, asked
from gradaudit.static.state import GRAPHLESS
from gradaudit.static.updates import IN_PLACE
from gradaudit.static.values import (
    NONE,
    Bound,
    Const,
    External,
    Mapping,
    OptimizerValue,
    Parameters,
    Sequence,
    StateDict,
    Union,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, INDEX, Edge, Leaf, Node

KEEPS_CONSTANTS = frozenset({"pow", "mul", "add", "sub", "div", "where", "maximum", "minimum", "clamp"})
GRADIENT_FREE_TYPES = ("int", "long", "bool", "short", "byte", "char")
VIEWS = frozenset({"getitem", "reshape", "cast", "stop"})


class Tensors(Machine):
    def tensor(self, value: Any) -> Node:
        """Any value as one node."""
        if isinstance(value, Node):
            return self.current(value)
        if isinstance(value, Const):
            return self.node("const", detail=repr(value.value)[:40])
        if isinstance(value, Unknown):
            if value.plain:
                return self.node("const", detail=value.name)
            return self.current(self.input_node(value))
        if isinstance(value, StateDict) and value.leaves:
            whole = self.tensor(Parameters(value.leaves))
            return whole if value.live else self.stop(whole, "state_dict")
        nodes = self.nodes_of(value)
        if len(nodes) == 1 and not isinstance(value, (Sequence, Mapping)):
            return nodes[0]
        if not nodes:
            return self._unjoined(value)
        return self.node("pack", [Edge(node) for node in nodes[:64]])

    def _unjoined(self, value: Any) -> Node:
        """What has no node yet: data of several possible kinds, a field of what may be a batch, or no tensor at all."""
        for part in value.alternatives if isinstance(value, Union) else (value,):
            if isinstance(part, Unknown):
                return self.tensor(part)
            if isinstance(part, Bound):  # no method is a number: it is a field
                return self.tensor(Unknown(part.name))
        return self.node("const", detail=type(value).__name__)

    # -- rows --------------------------------------------------------------------------------------------------------
    def apply_row(self, row: Row, args: Args, keywords: Keywords, op: str = "") -> Any:
        """Record the operation that a model row describes."""
        op = op or row.op
        if "single" in row.extra and len(args) <= 1 and row.argument(1) not in keywords:
            op = row.extra["single"]  # a loss of a difference that was already taken
        edges, constants = self._edges(row, args, keywords, op)
        order = row.extra.get("order")
        if order is not None and not keywords:
            places = [int(place) for place in order.split()]
            if len(edges) == len(places):
                edges = [edges[place] for place in places]
        if keywords.get(row.extra.get("flag", "")) is not None:
            edges = self._unstopped(row, args, keywords, edges)
        passes = row.kind != "stop"
        detail = ",".join(constants)
        made = self.node(op, edges, passes=passes, detail=detail)
        if op in ASKED:
            self.shape_facts[made] = (row.path.rsplit(".", 1)[-1], asked(args[1:], keywords))
        return self.shaped(made, row.result, args)

    def _edges(self, row: Row, args: Args, keywords: Keywords, op: str) -> tuple[list[Edge], list[str]]:
        edges: list[Edge] = []
        constants: list[str] = []
        named = [(row.argument(index) or index, value) for index, value in enumerate(args)]
        named += list(keywords.items())
        for position, (name, value) in enumerate(named):
            if isinstance(value, Const):
                if op in KEEPS_CONSTANTS and isinstance(value.value, (int, float)):
                    edges.append(Edge(self.tensor(value), False))
                else:
                    constants.append(f"{name}={value.value!r}"[:24])
                continue
            if isinstance(value, External):
                constants.append(value.tail)
                continue
            key = name if position >= len(args) else (name if isinstance(name, str) else position)
            stopped = key in row.stops or (position < len(args) and position in row.stops)
            index = key in row.index or (position < len(args) and position in row.index)
            for node in self.nodes_of(value)[:64]:
                if index:
                    edges.append(self.index_edge(node))
                else:
                    edges.append(Edge(node, not stopped))
        return edges, constants

    def _unstopped(self, row: Row, args: Args, keywords: Keywords, edges: list[Edge]) -> list[Edge]:
        """A loss with a switch that the caller set: off, what it stops by default passes; on, nothing passes."""
        flag = keywords[row.extra["flag"]]
        if isinstance(flag, Const) and flag.value and not row.extra.get("default", True):
            return [Edge(edge.source, False, edge.kind, edge.guard) for edge in edges]
        if not isinstance(flag, Const) or bool(flag.value) or not row.extra.get("default", True):
            return edges
        names = set(row.extra.get("unstopped", "").split())
        open_nodes = {node for i, value in enumerate(args) if row.argument(i) in names for node in self.nodes_of(value)}
        open_nodes |= {node for key, value in keywords.items() if key in names for node in self.nodes_of(value)}
        return [Edge(e.source, True, e.kind, e.guard) if e.source in open_nodes else e for e in edges]

    def shaped(self, made: Node, result: str, args: Args) -> Any:
        """The python value around a result: a tuple of values and indices, an LSTM's output and state ..."""
        if result in ("tensor", "same", "list"):
            return made
        if result == "first":
            parts = Sequence([made, self.node("argmax", [Edge(made, False)], passes=False)])
            parts.names = ("values", "indices")
            return parts
        if result == "lstm":
            state = Sequence([self._part_node(made, 1), self._part_node(made, 2)])
            return Sequence([made, state])
        if result == "pair":
            return Sequence([self._part_node(made, 0), self._part_node(made, 1)])
        if result.startswith("tuple:"):
            return Sequence([self._part_node(made, index) for index in range(int(result[6:]))])
        if result == "input":
            return args[0] if args else made
        if result == "none":
            return NONE
        return made

    def _part_node(self, node: Node, index: int) -> Node:
        return self.node("getitem", [Edge(node)], detail=f"[{index}]")

    # -- methods -----------------------------------------------------------------------------------------------------
    def tensor_method(self, receiver: Node, name: str, args: Args, keywords: Keywords) -> Any:
        node = self.current(receiver)
        if name == "backward":
            given = args[0] if args and node.leaf is not None and node.leaf.kind == "input" else node
            self.backward(given, "backward", keywords.get("inputs"))  # `accelerator.backward(loss)`
            return NONE
        if name == "detach_":
            self._set_version(receiver, self.stop(node, "detach_"))
            return receiver
        if name == "requires_grad_":
            return self._requires_grad(node, args, keywords)
        if name in IN_PLACE and self.storage_of(receiver):
            return self._write_parameter(receiver, name, args, keywords)
        if node.op == "dist":
            return self.distribution_method(node, name, args, keywords)
        if node.op == "random" and f"Generator.{name}" in DRAWS:
            return self.draw(f"Generator.{name}", args, keywords, self.node("random", [], detail=name))
        if name == "step" and args and isinstance(args[0], OptimizerValue):
            return self.call_method(args[0], "step", args[1:], keywords)
        if name in ("scale", "prepare") and len(args) == 1 and isinstance(args[0], Node):
            return args[0]
        if node.op == "getitem" and name in AT_METHODS and node.inputs and node.inputs[0].source.detail == ".at":
            return self._updated_at(node, name, args, keywords)
        if name in ("to", "type", "astype"):
            return self._cast(node, name, args, keywords)
        row = self.hints.models.method("Tensor", name, self.framework())
        if row is None:
            return self._unmodelled(node, name, args, keywords)
        return self._by_row(receiver, node, row, name, args, keywords)

    def _updated_at(self, node: Node, name: str, args: Args, keywords: Keywords) -> Any:
        """jax's `x.at[i].set(y)`: the array with y written into it."""
        array = node.inputs[0].source.inputs[0].source
        if name == "get":
            return self.node("getitem", [Edge(array)], detail=node.detail)
        written = [part for value in (*args, *keywords.values()) for part in self.nodes_of(value)]
        op = "store" if name == "set" else name
        where = [edge for edge in node.inputs if edge.kind == INDEX] if name == "add" else []  # a sum for each index
        return self.node(op, [Edge(array)] + [Edge(part) for part in written[:8]] + where, detail=node.detail)

    def framework(self) -> str:
        return self.current_framework

    current_framework: str

    def _by_row(self, receiver: Node, node: Node, row: Row, name: str, args: Args, keywords: Keywords) -> Any:
        if row.extra.get("overloads") in ("max", "min"):
            return self.max_like(row, [node, *args], keywords)
        if row.extra.get("overloads") == "cast":
            return self._cast(node, name, args, keywords)
        if row.kind == "inplace":
            return self._in_place(receiver, node, row, args, keywords)
        if row.extra.get("overloads") == "median":
            return self.shaped(
                self.apply_row(row, [node, *args], keywords), "first" if args or keywords else "tensor", args
            )
        if row.kind == "transform":
            handler = row.extra.get("handler", "")
            if handler == "at_apply":
                return self.call(args[0], [node], {}) if args else node
            return self.node("call", [Edge(node)], detail="." + name)
        if row.kind == "identity":
            return node
        if row.kind == "constant":
            return plain(name)
        if row.kind in ("alloc", "random"):
            made = self.allocate(row.op, [])
            if row.kind == "alloc":
                made.detail = fill_of(name, args, keywords)
            return made
        if row.kind in ("none", "raises", "grad_mode"):
            return NONE
        result = self.apply_row(row, [node, *args], keywords)
        if isinstance(result, Node) and result.op in VIEWS and row.kind == "op":
            self.bases[result] = self.bases.get(receiver, receiver)
        return result

    def allocate(self, op: str, inputs: list[Node]) -> Node:
        """Fresh storage; what is written into it later is found under its version."""
        made = self.node(op, [Edge(node) for node in inputs])
        self.versions[made] = made
        return made

    def max_like(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """torch's max/min/median: elementwise of two tensors, values and indices along a dim, or one value."""
        second = args[1] if len(args) > 1 else keywords.get("dim", keywords.get("axis", keywords.get("other")))
        if second is None:
            return self.apply_row(row, args, keywords)
        if isinstance(second, Node) and second.op != "const":
            return self.apply_row(row, args, keywords, op={"max": "maximum", "min": "minimum"}.get(row.op, row.op))
        made = self.node(row.op, [Edge(self.tensor(args[0]))], detail=f"dim={getattr(second, 'value', '?')}")
        self.shape_facts[made] = (row.op, asked(args[1:], keywords))
        if self.framework() != "torch":
            return made
        return self.shaped(made, "first", args)

    def _cast(self, node: Node, name: str, args: Args, keywords: Keywords) -> Any:
        for value in (*args, *keywords.values()):
            text = value.tail if isinstance(value, External) else str(value.value) if isinstance(value, Const) else ""
            if any(text.startswith(kind) or text.startswith("u" + kind) for kind in GRADIENT_FREE_TYPES):
                return self.node("cast", [Edge(node, False)], passes=False, detail=text)
        return node

    def _unmodelled(self, node: Node, name: str, args: Args, keywords: Keywords) -> Any:
        """A method of an object that we took for a tensor: a distribution of the user's, an output struct ..."""
        known = DISTRIBUTION_LIKE.get(name)
        if known is not None:
            return self.distribution_method(node, name, args, keywords)
        if name in ("items",):
            return Sequence((), Sequence((plain("key"), node)))
        if name in ("keys",):
            return Sequence((), plain("key"))
        edges = [Edge(node)] + [
            Edge(part) for value in (*args, *keywords.values()) for part in self.nodes_of(value)[:16]
        ]
        return self.node("call", edges, detail=f".{name}({','.join(map(_spelled, args))})")

    def _requires_grad(self, node: Node, args: Args, keywords: Keywords) -> Any:
        value = args[0] if args else keywords.get("requires_grad", Const(True))
        if node.leaf is not None and node.leaf.kind == "param":
            self.freeze([node], value)
        elif not isinstance(value, Const) or value.value:
            self.as_parameter(node)
        return node

    def as_parameter(self, node: Node, held: bool = False) -> None:
        """Storage without a history that is made to require gradient is a parameter; anything else stays what it is."""
        if node.leaf is None and (held or not self._made_of_data(node)):
            node.op, node.inputs = "leaf", []
            node.leaf = Leaf("param", node.name, scalar=True)
            node.frame = None
            self.versions.pop(node, None)

    def _made_of_data(self, node: Node) -> bool:
        """Is it computed from inputs or parameters (a batch that wants gradient), and not from constants alone?"""
        todo, seen = [node], {node}
        while todo and len(seen) < 40:
            current = todo.pop()
            if current.leaf is not None and current.leaf.kind != "const":
                return True
            for edge in current.inputs:
                if edge.source not in seen:
                    seen.add(edge.source)
                    todo.append(edge.source)
        return False

    # -- distributions -----------------------------------------------------------------------------------------------
    def distribution_method(self, node: Node, name: str, args: Args, keywords: Keywords) -> Any:
        given = [Edge(part) for value in (*args, *keywords.values()) for part in self.nodes_of(value)[:16]]
        if name in ("sample", "sample_n", "_sample_n"):
            row = self.hints.models.method("Distribution", "sample", self.framework())
            if row is not None and row.kind == "op" and node.detail not in DISCRETE:
                return self.node("rsample", [Edge(node), *given])
            return self.node("sample", [Edge(node, False)], passes=False)
        if name in ("sample_and_log_prob", "experimental_sample_and_log_prob", "rsample_and_log_prob"):
            drawn = self.distribution_method(node, "sample", [], {})
            return Sequence([drawn, self.node("log_prob", [Edge(node), Edge(drawn)])])
        op = DISTRIBUTION_LIKE.get(name, "")
        if op:
            return self.node(op, [Edge(node), *given])
        if name in ("batch_shape", "event_shape", "support"):
            return Unknown(name)
        return self.node("call", [Edge(node), *given], detail="." + name)

    # -- in place ----------------------------------------------------------------------------------------------------
    def _in_place(self, receiver: Node, node: Node, row: Row, args: Args, keywords: Keywords) -> Any:
        if self.storage_of(receiver):
            return receiver  # `weight.uniform_()`, `weight.clamp_()`: a parameter stays one
        written = [part for value in (*args, *keywords.values()) for part in self._operand(value, row.op)]
        whole = row.op in ("fill", "zero", "normal", "uniform", "copy") and not row.path.endswith("fill_diagonal_")
        if whole and not written:
            fresh = self.node("alloc", detail=fill_of(row.path.rsplit(".", 1)[-1], args, keywords))
            self._set_version(receiver, fresh)
            return receiver
        self.write_in_place(receiver, row.op, written)
        return receiver

    def _operand(self, value: Any, op: str) -> list[Node]:
        if not isinstance(value, Const):
            return self.nodes_of(value)
        number = isinstance(value.value, (int, float)) and op in KEEPS_CONSTANTS
        return [self.tensor(value)] if number else []  # `y.mul_(0.9)`: a factor as in `y * 0.9`

    def write_in_place(self, target: Node, op: str, written: list[Node]) -> Node:
        """A new version of the storage behind `target`; reads from here on see it."""
        view = self.aliases.get(target, target)
        base = self.bases.get(view, view)
        before = self.current(base)
        edges = [Edge(before)] + [Edge(node) for node in written[:24] if node is not before]
        made = self.node("store" if op in ("store", "copy") else op, edges, name=base.name)
        unrecorded = view is not base and view.op == "stop"  # `x.data.copy_(y)`
        if base.detail == GRAPHLESS or unrecorded:
            made.inputs[1:] = [edge._replace(passes=False) for edge in made.inputs[1:]]
        if op in ("store", "copy"):
            # the old contents keep the gradient they have, whatever the mode of this write
            made.inputs[0] = Edge(before, True, guard=ALWAYS)
        self._set_version(base, made)
        if view is not base and view.op == "getitem":  # what it is a view of has changed, and so has the view
            self.put(self.versions, view, self.node("getitem", [Edge(made)], detail=view.detail, name=view.name))
        elif unrecorded:
            self.put(self.versions, view, self.node("stop", [Edge(made, False)], detail=view.detail, name=view.name))
        return made

    def _set_version(self, base: Node, made: Node) -> None:
        base = self.aliases.get(base, base)
        base = self.bases.get(base, base)
        self.put(self.versions, base, made)

    # -- parameters as tensors ---------------------------------------------------------------------------------------
    def storage_of(self, node: Node) -> list[Node]:
        """The parameter that a tensor is a view of."""
        for _ in range(6):
            if node.leaf is not None:
                return [node] if node.leaf.kind == "param" else []
            if node.op not in VIEWS or not node.inputs:
                return []
            node = node.inputs[0].source
        return []

    def _write_parameter(self, receiver: Node, name: str, args: Args, keywords: Keywords) -> Any:
        leaves = self.storage_of(receiver)
        write = self.write_in_parameters if _is_storage(receiver) else self.recorded_write
        write(leaves, name, args, keywords)
        return receiver


def _is_storage(view: Node) -> bool:
    """Is it `.data` of a parameter, or a part of it?"""
    while view.leaf is None and view.inputs:
        if view.op == "stop":
            return True
        view = view.inputs[0].source
    return False


def _spelled(value: Any, depth: int = 3) -> str:
    """What tells one argument from another, where it is no tensor: a key, a tuple of keys, an undecided object."""
    if isinstance(value, Const):
        return repr(value.value)[:40]
    if isinstance(value, Sequence) and depth:
        return f"({','.join(_spelled(item, depth - 1) for item in value.items[:8])})"
    return f"?{value.key}" if isinstance(value, Unknown) else ""


AT_METHODS = frozenset({"set", "add", "subtract", "multiply", "mul", "divide", "min", "max", "get", "power"})
DISCRETE = frozenset({
    "Categorical", "OneHotCategorical", "Bernoulli", "EpsilonGreedy", "Greedy", "Softmax", "Multinomial", "Binomial",
    "Poisson",
    "Geometric",
})  # fmt: skip
DISTRIBUTION_LIKE = {
    "sample": "sample", "rsample": "rsample", "log_prob": "log_prob", "entropy": "entropy", "mean": "getitem",
    "mode": "getitem", "kl_divergence": "kl_divergence", "logits": "getitem", "probs": "getitem", "stddev": "getitem",
    "scale": "getitem", "loc": "getitem", "prob": "log_prob", "log_cdf": "log_prob", "cdf": "log_prob",
    "variance": "getitem",
    "sample_and_log_prob": "sample",
}  # fmt: skip
