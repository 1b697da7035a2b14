"""Tapes written by hand: a few lines of a program, without a recorder."""

from __future__ import annotations

from gradaudit.tape import (
    ALWAYS,
    DATA,
    INDEX,
    PARAMETER,
    Call,
    Edge,
    Event,
    Frame,
    Guard,
    Leaf,
    Location,
    Network,
    Node,
    Optimizer,
    Sink,
    Symbol,
    Tape,
)


class TapeBuilder:
    """Records one node a call. `line` moves on by itself unless it is set; `at(line)` sets it for what follows.

    >>> t = TapeBuilder()
    >>> q, target = t.network("q"), t.network("target")
    >>> obs, reward = t.input("obs"), t.input("reward")
    >>> loss = t.op("mse_loss", t.module(q, obs), t.op("add", reward, t.module(target, obs)))
    """

    def __init__(self, framework: str = "torch", path: str = "program.py") -> None:
        self.tape = Tape(framework=framework, entry="program", path=path)
        self.clock = 0
        self.line = 0
        self.fixed = False
        self.function = ""
        self.call: Call | None = None
        self.frame: Frame | None = None
        self.loops: tuple[int, ...] = ()
        self.grad = True

    def at(self, line: int) -> TapeBuilder:
        self.line, self.fixed = line, True
        return self

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def here(self) -> Location:
        if not self.fixed:
            self.line += 1
        return Location(self.tape.path, self.line, 1, self.line, 20, self.function)

    def add(self, node: Node) -> Node:
        self.tape.nodes.append(node)
        return node

    def leaf(self, kind: str, name: str, owner: Network | None = None, scalar: bool = False) -> Node:
        """A leaf node; parameters of a network are made by `network`."""
        leaf = Leaf(kind, name, owner, scalar)
        return self.add(Node("leaf", [], self.here(), self.tick(), name=name, leaf=leaf, call=self.call))

    def param(self, name: str, scalar: bool = False) -> Node:
        return self.leaf("param", name, scalar=scalar)

    def arg(self, name: str, owner: Network | None = None) -> Node:
        return self.leaf("arg", name, owner)

    def input(self, name: str, *marks: str) -> Node:
        node = self.leaf("input", name)
        node.marks = frozenset(marks)
        return node

    def const(self, value: object) -> Node:
        leaf = Leaf("const", repr(value))
        return self.add(Node("const", [], self.here(), self.tick(), detail=repr(value), leaf=leaf))

    def network(self, name: str, parent: Network | None = None, copy_of: Node | None = None) -> Node:
        """The parameter leaf of a new network; `copy_of` records the copy event of a deepcopy or load_state_dict."""
        owner = Network(name, "MLP", parent, copy_of.leaf.owner if copy_of is not None and copy_of.leaf else None)
        node = self.leaf("param", "weight", owner)
        if copy_of is not None and node.leaf is not None:
            node.leaf.copied_from = copy_of.leaf
            self.event("copy", leaves=(node,), sources=(copy_of,))
        return node

    def op(self, op: str, *inputs: Node | Edge, detail: str = "", name: str = "", passes: bool = True) -> Node:
        """One operation. Edges pass gradient unless `passes` is False, `no_grad` is on or an `Edge` says otherwise."""
        edges = []
        for item in inputs:
            edge = item if isinstance(item, Edge) else Edge(item, passes, DATA)
            edges.append(edge if self.grad else edge._replace(passes=False))
        return self.add(
            Node(
                op,
                edges,
                self.here(),
                self.tick(),
                detail,
                name,
                None,
                self.frame,
                self.call,
                self.loops,
                frozenset(),
                self.grad,
            )
        )

    def stop(self, value: Node) -> Node:
        return self.op("stop", value, passes=False)

    def module(self, network: Node, *arguments: Node, name: str = "") -> Node:
        """A call of a network without inner nodes."""
        assert network.leaf is not None and network.leaf.owner is not None
        frame = Frame(network.leaf.owner, arguments, self.frame)
        node = self.op("module_call", Edge(network, True, PARAMETER), *arguments, name=name)
        node.frame = frame
        return node

    def index(self, value: Node, position: Node | None = None, detail: str = "") -> Node:
        extra = () if position is None else (Edge(position, False, INDEX),)
        return self.op("getitem", value, *extra, detail=detail)

    def enter(self, function: str) -> Call | None:
        """Enters a user function; returns what `leave` takes."""
        outer = self.call
        self.call = Call(Location(self.tape.path, self.line, 1, self.line, 20, self.function), function, outer)
        self.function = function
        return outer

    def leave(self, outer: Call | None) -> None:
        self.call = outer
        self.function = outer.function if outer is not None else ""

    def event(
        self,
        kind: str,
        optimizer: Optimizer | None = None,
        leaves: tuple[Node, ...] = (),
        sources: tuple[Node, ...] = (),
        weight: float | None = None,
        sink: Sink | None = None,
        guard: Guard = ALWAYS,
    ) -> Event:
        found = Event(kind, self.tick(), self.here(), optimizer, leaves, sources, weight, sink, self.loops, guard)
        self.tape.events.append(found)
        return found

    def optimizer(self, name: str, *leaves: Node, complete: bool = True) -> Optimizer:
        found = Optimizer(name, set(leaves), complete)
        self.tape.optimizers.append(found)
        self.event("hold", found, leaves)
        return found

    def sink(self, loss: Node, kind: str = "backward", differentiated: tuple[Node, ...] | None = None) -> Sink:
        wanted = None if differentiated is None else frozenset(differentiated)
        found = Sink(loss, kind, self.here(), self.tick(), wanted, loops=self.loops, function=self.function)
        self.tape.sinks.append(found)
        self.event("backward", sink=found)
        return found

    def train(self, loss: Node, *optimizers: Optimizer) -> Sink:
        """clear, backward, step."""
        for optimizer in optimizers:
            self.event("clear", optimizer)
        sink = self.sink(loss)
        for optimizer in optimizers:
            self.event("step", optimizer)
        return sink

    def symbol(self, key: str, default: object = None, parameter: bool = True) -> str:
        self.tape.symbols[key] = Symbol(key, key, default, (), parameter)
        return key
