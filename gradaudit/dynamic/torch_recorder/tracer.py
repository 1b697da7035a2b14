"""Recording one run: every torch function becomes a node, its edges are read off autograd's graph.

The mode sees each call before torch's own dispatch, with the user's line still on the stack. After it the result's
`grad_fn` is followed back through nodes that nobody has claimed yet; what it meets (another operation's node, a leaf)
is where gradient goes, and what it meets none of is data only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.autograd.function import BackwardCFunction
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from gradaudit.dynamic.lines import Lines
from gradaudit.dynamic.torch_recorder.composites import parameters_of
from gradaudit.dynamic.torch_recorder.ops import FLAT, FROM_DATA, OF_TWO, Kind, kind_of
from gradaudit.dynamic.torch_recorder.updates import Updates
from gradaudit.tape import DATA, INDEX, PARAMETER, Edge, Frame, Leaf, Network, Node, Tape

_ACCUMULATE = type(torch.zeros(1, requires_grad=True).expand(1).grad_fn.next_functions[0][0])  # type: ignore[union-attr]

Key = tuple[Any, int]
"""What autograd calls a value: its `grad_fn` and output number."""


def base(tensor: Tensor) -> Tensor:
    """The tensor below the wrappers of vmap and grad: autograd's graph of the loss is at the bottom."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def tensors_in(value: Any, into: list[Tensor] | None = None) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts and slices, in order."""
    found: list[Tensor] = [] if into is None else into
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, list | tuple):
        for one in value:
            tensors_in(one, found)
    elif isinstance(value, dict):
        for one in value.values():
            tensors_in(one, found)
    elif isinstance(value, slice):
        tensors_in((value.start, value.stop, value.step), found)
    return found


def operands_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors of a call in order; a distribution stands for the tensors it is made of."""
    found: list[Tensor] = []
    for one in args:
        if isinstance(one, Distribution):
            found += parameters_of(one)
        else:
            tensors_in(one, found)
    if kwargs:
        tensors_in(kwargs, found)
    return found


def maker(tensor: Tensor) -> Any:
    """Its `grad_fn`. A view made under `no_grad` refuses to say once its base is written in place: it has none."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


class Tracer(TorchFunctionMode):
    """Puts a run on `tape`. `leaf_of` says what a tensor is that comes from outside; `network_of` names modules."""

    def __init__(
        self,
        tape: Tape,
        lines: Lines,
        leaf_of: Callable[[Tensor], Leaf],
        network_of: Callable[[torch.nn.Module], Network],
        original_of: Callable[[Tensor, Iterable[torch.nn.Module]], Tensor],
        stop: CodeType,
        updates: Updates,
    ) -> None:
        super().__init__()
        self.tape = tape
        self.lines = lines
        self.leaf_of = leaf_of
        self.network_of = network_of
        self.original_of = original_of
        self.stop = stop
        self.updates = updates
        updates.now, updates.node_of, updates.differentiated = self.tick, self.node_of, self.differentiated
        self.clock = 0
        self.count = 0
        self.frame: Frame | None = None
        self.modules: list[torch.nn.Module] = []
        self.outer_modules: dict[int, torch.nn.Module] = {}
        self.kinds: dict[Any, Kind | None] = {}
        self.known: dict[int, tuple[Node, Any]] = {}
        self.keep: list[Any] = []
        self.tags: dict[Any, dict[int, Node]] = {}
        self.inner: dict[Any, Node] = {}
        self.opaque: dict[Any, Node] = {}
        self.place: dict[Node, tuple[int, int]] = {}
        self.operands: dict[Node, list[int]] = {}
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.escapes: list[Node] = []
        self.adopted: list[tuple[Node, Tensor]] = []
        self.sites: list[str] = []
        self.unseen_leaves: list[tuple[Node, Tensor]] = []

    # -- calls ---------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            kind = self.kinds[func]
        except KeyError:
            kind = self.kinds[func] = kind_of(func)
        if kind is None or self.updates.paused:
            if func is Tensor.backward:
                return self.updates.backward(func, args, kwargs or {})
            return func(*args, **kwargs) if kwargs else func(*args)
        return self.run(kind, func, args, kwargs or {})

    def run(self, kind: Kind, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the call and record it."""
        number = self.count
        self.count += 1
        self.sites.append(kind.name)
        operands = operands_of(args, kwargs)
        before = [(tensor, self.node_of(tensor), base(tensor)) for tensor in operands]
        keys = [_key(one) for _, _, one in before]
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        if kind.inplace and operands and not outputs:
            outputs = [args[0]]
        if not outputs:
            if kind.escape and operands:
                self.escaped(kind, before)
            return result
        if not kind.inplace and len(outputs) == 1 and any(outputs[0] is tensor for tensor in operands):
            return result
        self.record(kind, number, args, kwargs, before, keys, outputs)
        return result

    def record(
        self,
        kind: Kind,
        number: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: list[tuple[Tensor, Node, Tensor]],
        keys: list[Key | None],
        outputs: list[Tensor],
    ) -> Node:
        location, call = self.lines.here(2, self.stop)
        node = Node(kind.op, [], location, self.tick(), detail=_detail(kind, args, kwargs), call=call)
        node.frame = self.frame
        if kind.name in FROM_DATA and not before and outputs[0].dim():
            node.op, node.leaf = "leaf", Leaf("input")
        node.grad_mode = torch.is_grad_enabled()
        self.place[node] = (number, -1)
        several = len(outputs) > 1
        found: set[Any] = set()
        rows: list[tuple[Tensor, Node, bool]] = []
        for position, output in enumerate(outputs):
            if several and not kind.inplace and any(output is tensor for tensor, _, _ in before):
                continue  # given back as it came
            low = base(output)
            function = maker(low)
            reached = self.claim(function, low.output_nr, node) if function is not None else set()
            found |= reached
            part = node
            if several:
                source, op, detail = node, "getitem", f"[{position}]"
                if kind.name == "broadcast_tensors" and len(outputs) == len(before):
                    source, op, detail = before[position][1], "reshape", "expand"  # each is its own operand
                part = Node(op, [Edge(source, bool(reached))], location, self.tick(), detail, call=call)
                part.frame, part.grad_mode = node.frame, node.grad_mode
                self.place[part] = (number, position)
            if function is not None:
                self.tags.setdefault(function, {})[low.output_nr] = part
            rows.append((output, part, bool(reached)))
        self.connect(node, kind, args, before, keys, found)
        self.tape.nodes.append(node)
        for output, part, _ in rows:
            if part is not node:
                self.tape.nodes.append(part)
            if kind.inplace and maker(output) is None and _is_parameter(before, output):
                continue  # new numbers, and as much a leaf as before
            self.known[id(output)] = (part, maker(base(output)))
            self.keep.append(output)
            self.shapes[part] = tuple(output.shape)
        if kind.inplace:
            self.written(outputs[0], node)
        return node

    def differentiated(self, loss: Tensor, made: Iterable[Tensor | None]) -> None:
        """A gradient without a graph of its own: constants, made of what was differentiated."""
        location, call = self.lines.here(3, self.stop)
        node = Node("gradient", [Edge(self.node_of(loss), False)], location, self.tick(), call=call, frame=self.frame)
        node.grad_mode = torch.is_grad_enabled()
        self.tape.nodes.append(node)
        for tensor in made:
            if tensor is not None:
                self.known[id(tensor)] = (node, maker(base(tensor)))
                self.keep.append(tensor)

    def connect(
        self,
        node: Node,
        kind: Kind,
        args: tuple[Any, ...],
        before: list[tuple[Tensor, Node, Tensor]],
        keys: list[Key | None],
        found: set[Any],
    ) -> None:
        """Edges from what was passed, then from what gradient reaches besides (a saved tensor, a hidden parameter)."""
        edges: list[Edge] = []
        positions: list[int] = []
        met: set[Any] = set()
        layered = False
        flat = kind.op in FLAT
        written = len(before) - 1 if kind.name == "__setitem__" and isinstance(args[2], Tensor) else 0
        for position, ((tensor, source, _), key) in enumerate(zip(before, keys, strict=True)):
            passes = key in found
            if passes:
                met.add(key)
            edge_kind = DATA
            if position in kind.index or (kind.subscript and 0 < position != written):
                edge_kind = INDEX
            elif isinstance(tensor, torch.nn.Parameter) and self.in_layer():
                edge_kind, layered = PARAMETER, True
            edges.append(Edge(source, passes and not flat, edge_kind))
            positions.append(position)
        if kind.swapped and len(edges) == 2:
            edges.reverse()
            positions.reverse()
        if len(before) == 2:
            node.op = OF_TWO.get(node.op, node.op)
        if layered:
            node.op, node.detail = "module_call", type(self.modules[-1]).__name__
        if kind.constants and len(edges) < 2:
            self.add_constants(kind, args, edges, positions)
        for key in found - met:
            edges.append(Edge(self.source_of(key), True, DATA))
            positions.append(-1)
        node.inputs = edges
        self.operands[node] = positions

    def add_constants(self, kind: Kind, args: tuple[Any, ...], edges: list[Edge], positions: list[int]) -> None:
        for place, value in enumerate(args):
            if isinstance(value, int | float) and not isinstance(value, bool):
                constant = Node("const", [], self.lines.nowhere, self.tick(), detail=repr(value))
                self.tape.nodes.append(constant)
                first = (place == 0) != kind.swapped
                edges.insert(0 if first else len(edges), Edge(constant, False))
                positions.insert(0 if first else len(positions), -1)

    def escaped(self, kind: Kind, before: list[tuple[Tensor, Node, Tensor]]) -> None:
        location, call = self.lines.here(2, self.stop)
        edges = [Edge(source, False) for _, source, _ in before]
        node = Node("stop", edges, location, self.tick(), detail=kind.name, call=call, frame=self.frame)
        self.tape.nodes.append(node)
        self.escapes.append(node)

    def written(self, target: Tensor, node: Node) -> None:
        """A write into a view is a write into its base."""
        whole = target._base
        if whole is None or whole is target:
            return
        old = self.known.get(id(whole))
        function = maker(whole)
        inputs = [Edge(old[0], False)] if old else []
        reached = self.claim(function, whole.output_nr, node) if function is not None else set()
        store = Node("store", [*inputs, Edge(node, function is not None)], node.location, self.tick(), call=node.call)
        for key in reached:
            source = self.source_of(key)
            if source is not node:
                store.inputs.append(Edge(source, True))
        store.frame, store.grad_mode = node.frame, node.grad_mode
        self.place[store] = self.place[node]
        self.tape.nodes.append(store)
        if function is not None:
            self.tags.setdefault(function, {})[whole.output_nr] = store
        self.known[id(whole)] = (store, function)
        self.shapes[store] = tuple(whole.shape)
        self.keep.append(whole)

    # -- autograd's graph ----------------------------------------------------------------------------------------

    def claim(self, function: Any, number: int, node: Node) -> set[Any]:
        """Follow `function` back to what was recorded before; everything on the way belongs to `node`."""
        found: set[Any] = set()
        known = self.tags.get(function)
        if known is not None and number in known:
            return {(function, number)}
        stack = [function]
        seen = {function}
        while stack:
            one = stack.pop()
            if one is not function or known is None:
                self.inner.setdefault(one, node)
            if isinstance(one, BackwardCFunction):
                self.opaque.setdefault(one, node)
            for below, place in one.next_functions:
                if below is None:
                    continue
                if type(below) is _ACCUMULATE:
                    found.add(("leaf", id(below.variable)))
                    self.leaf_node(below.variable)
                elif below in self.tags and place in self.tags[below]:
                    found.add((below, place))
                elif below in self.inner and self.inner[below] is not node:
                    found.add((below, -1))
                elif below not in seen:
                    seen.add(below)
                    stack.append(below)
        return found

    def source_of(self, key: Any) -> Node:
        first, number = key
        if first == "leaf":
            return self.known[number][0]
        return self.inner[first] if number == -1 else self.tags[first][number]

    def node_of(self, tensor: Tensor) -> Node:
        """The node of a value that is used now."""
        known = self.known.get(id(tensor))
        low = base(tensor)
        if known is not None and known[1] is maker(low):
            return known[0]
        function = maker(low)
        if function is None:
            node = self.leaf_node(low)
        elif function in self.tags and low.output_nr in self.tags[function]:
            node = self.tags[function][low.output_nr]
        else:
            node = self.adopt(low, known[0] if known else None)
        self.known[id(tensor)] = (node, function)
        self.keep.append(tensor)
        return node

    def adopt(self, tensor: Tensor, old: Node | None) -> Node:
        """A value whose history was not made before our eyes: a custom function, or a graph from before the loss."""
        location, call = self.lines.here(2, self.stop)
        function = maker(tensor)
        node = Node("call", [], location, self.tick(), detail=str(function.name()), call=call, frame=self.frame)
        if old is not None:
            node.inputs.append(Edge(old, False))
        for key in self.claim(function, tensor.output_nr, node):
            node.inputs.append(Edge(self.source_of(key), True))
        self.tags.setdefault(function, {})[tensor.output_nr] = node
        self.shapes[node] = tuple(tensor.shape)
        self.tape.nodes.append(node)
        if old is None:
            self.adopted.append((node, tensor))
        return node

    def leaf_node(self, tensor: Tensor) -> Node:
        known = self.known.get(id(tensor))
        if known is not None:
            return known[0]
        original = self.original_of(tensor, reversed(self.modules))
        if original is not tensor:
            node = self.leaf_node(original)
            self.known[id(tensor)] = (node, None)
            self.keep.append(tensor)
            return node
        leaf = self.leaf_of(tensor)
        node = Node("leaf", [], self.lines.nowhere, self.tick(), leaf=leaf)
        self.tape.nodes.append(node)
        self.known[id(tensor)] = (node, None)
        self.keep.append(tensor)
        self.shapes[node] = tuple(tensor.shape)
        self.unseen_leaves.append((node, tensor))
        return node

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    # -- modules -------------------------------------------------------------------------------------------------

    def enter_module(self, module: torch.nn.Module, args: Any) -> None:
        nodes = tuple(self.node_of(tensor) for tensor in tensors_in(args))
        location, call = self.lines.here(2, self.stop)
        self.frame = Frame(self.network_of(module), nodes, self.frame, location if location.line else None, call)
        if not self.modules:
            self.outer_modules.setdefault(id(module), module)
        self.modules.append(module)

    def leave_module(self, module: torch.nn.Module, args: Any, result: Any) -> None:
        if self.modules and self.modules[-1] is module:
            self.modules.pop()
            self.frame = self.frame.parent if self.frame is not None else None

    def in_layer(self) -> bool:
        """Inside a layer of torch's own, whose parameters are its business."""
        return bool(self.modules) and type(self.modules[-1]).__module__.startswith("torch.")

    def __enter__(self) -> Tracer:
        hooks = torch.nn.modules.module
        self._hooks = [
            hooks.register_module_forward_pre_hook(self.enter_module),
            hooks.register_module_forward_hook(self.leave_module, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)


def _is_parameter(before: list[tuple[Tensor, Node, Tensor]], output: Tensor) -> bool:
    """Whether an operation wrote into a parameter: its first operand, which it returns."""
    if not before or before[0][0] is not output:
        return False
    leaf = before[0][1].leaf
    return leaf is not None and leaf.kind == "param"


def _key(tensor: Tensor) -> Any:
    """What autograd calls this value before an operation changes it; None where it carries no gradient."""
    if not tensor.requires_grad:
        return None
    function = maker(tensor)
    return ("leaf", id(tensor)) if function is None else (function, tensor.output_nr)


def _detail(kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The constants of a call, short; of a draw, what it is drawn from."""
    if kind.op == "random":
        return kind.name
    if kind.subscript:
        return f"[{_text(args[1])}]"
    if kind.op == "alloc":
        return _filled(kind.name, args, kwargs)
    rest = [_text(value) for value in args if not isinstance(value, Tensor)]
    rest += [f"{name}={_text(value)}" for name, value in kwargs.items() if not isinstance(value, Tensor)]
    if kind.op in ("call", "reshape", "const") or kind.name == "lerp_":
        return kind.name + (f"({', '.join(rest)})" if rest else "")
    return ", ".join(rest) if kind.op != "store" else kind.name


def _filled(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The number that a fresh array is full of."""
    kind = name.removeprefix("new_").removesuffix("_like")
    if kind == "full":
        return _text(kwargs.get("fill_value", args[-1] if args else None))
    return {"zeros": "0.0", "ones": "1.0"}.get(kind, "")


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        return "..."
    if isinstance(value, slice):
        return ":".join("" if one is None else _text(one) for one in (value.start, value.stop)) + (
            f":{_text(value.step)}" if value.step is not None else ""
        )
    if isinstance(value, tuple | list):
        return ", ".join(_text(one) for one in value[:8])
    if value is None or value is Ellipsis or isinstance(value, int | float | str):
        return repr(value)[:60]
    return type(value).__name__ if not isinstance(value, torch.dtype) else str(value)
