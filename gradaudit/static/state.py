"""The state of an execution: the tape being written, the heap's journal, what is assumed, and who is being called.

Every write to the heap goes through `put`, so that a branch can be run, undone and joined with the other one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradaudit.static.files import Files, Module
from gradaudit.static.values import (
    MISSING,
    Const,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Union,
    Unknown,
)
from gradaudit.tape import (
    ALWAYS,
    DATA,
    INDEX,
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
    join_guards,
)

EVALUATIONS = 90_000  # of expressions, per entry (of a class: per method that is one)
QUIET = 28_000  # of them after the last sink or event: nothing comes any more
UNHEARD = 10_000  # of a function that is judged by its arguments, before the first sink or event
FILE = 240_000  # of all entries of a file
SILENCE = 70_000  # of all entries of a file after the last sink or event of any: it has nothing to do with learning
NODES = 24_000  # per entry
DEPTH = 26  # of user calls
RECURSION = 2  # of one function on the stack
MOST_REFUSED = 24  # settings of one entry
NESTED = 4  # of one that goes down a structure, part by part

GRAPHLESS = "array without a graph"  # storage of numpy: whatever is written there leaves its graph behind

HOLDERS = frozenset({Parameters, Sequence, Mapping, Union, Instance})  # values that tensors can be in


def _resolved(refused: Iterable[Guard]) -> tuple[Guard, ...]:
    """What is refused, and what follows of it: `a and b` and `a and not b and c` together refuse `a and c`."""
    found = dict.fromkeys(refused)
    for one in list(found):
        for other in list(found)[:MOST_REFUSED]:
            opposed = [(key, value) for key, value in one if (key, not value) in other]
            if len(opposed) == 1:
                key = opposed[0][0]
                found[frozenset(literal for literal in one | other if literal[0] != key)] = None
    return tuple(guard for guard in found if guard)[:MOST_REFUSED]


class OutOfBudget(Exception):
    """The entry is larger than we are willing to follow; what was recorded so far stands."""


class Left(NamedTuple):
    """What an arm that returned has written to what others see too; the literals of it, and of what went on."""

    writes: dict[tuple[int, Any], tuple[dict[Any, Any], Any, Any]]
    guard: Guard
    otherwise: Guard


class Scope:
    """The names of a function call, a module or a comprehension."""

    __slots__ = (
        "around", "assumed_at_entry", "captured", "cls", "function", "globals", "jumps", "left", "local", "module",
        "parent", "returns", "self_value", "vars", "yields",
    )  # fmt: skip

    def __init__(self, parent: Scope | None, module: Module, function: str = "") -> None:
        self.vars: dict[Any, Any] = {}
        self.parent = parent
        self.module = module
        self.function: str = function or (parent.function if parent is not None else "")
        self.cls: Any = parent.cls if parent is not None else None
        self.self_value: Any = parent.self_value if parent is not None else None
        self.returns: list[tuple[Any, Guard]] = []
        self.yields: list[Any] = []
        self.jumps: list[tuple[dict[Any, Any], int]] = []  # out of a loop's body: the names, and when
        self.left: list[Left] = []
        self.globals: set[str] = set()
        self.assumed_at_entry: frozenset[str] = frozenset()
        self.captured = False  # by a function or lambda defined in it
        self.around: Callable[[Any], None] | None = None  # of a context manager: the block that it runs around


@dataclass(slots=True)
class Loop:
    key: int
    phis: dict[tuple[int, Any], tuple[dict[Any, Any], Any, Node]] = field(default_factory=dict)
    blank_reads: dict[tuple[int, Any], dict[Any, Any]] = field(default_factory=dict)
    start: int = 0
    counter: Any = None
    """What counts its iterations from 0, if anything does."""


class State:
    """Everything that changes while text is executed."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.time = 0
        self.loop_counter = 0
        self.begin_entry()

    # -- an entry ----------------------------------------------------------------------------------------------------
    def begin_entry(self) -> None:
        self.tape_nodes: list[Node] = []
        self.arms: dict[Node, tuple[Location, tuple[int, ...]]] = {}
        self.forbidden: dict[Guard, None] = {}
        self.sinks: list[Sink] = []
        self.events: list[Event] = []
        self.optimizers: list[Optimizer] = []
        self.allow()
        self.reset_control()

    # -- the budget --------------------------------------------------------------------------------------------------
    evaluations = 0
    limit = QUIET
    most = EVALUATIONS
    spent = 0  # in this file, before the present part of an entry
    patience = SILENCE  # what this file may spend in all

    def begin_file(self) -> None:
        self.evaluations = self.spent = 0
        self.patience = SILENCE

    def allow(self, quiet: int = QUIET, most: int = EVALUATIONS) -> None:
        """Begin a part of an entry, with evaluations of its own as long as the file has any."""
        self.spent += self.evaluations
        self.evaluations = 0
        self.most = most
        self.limit = min(quiet, most, self.patience - self.spent)

    def heard(self) -> None:
        """Something happened that matters: it is worth going on."""
        self.patience = min(self.spent + self.evaluations + SILENCE, FILE)
        quiet = 2 * QUIET if self.optimizers else QUIET  # who has an optimizer is going to use it
        self.limit = min(self.evaluations + quiet, self.most, self.patience - self.spent)

    def reset_control(self) -> None:
        """Forget where we are; keep what was recorded."""
        self.journal: list[tuple[dict[Any, Any], Any, Any]] | None = None
        self.assumed: dict[str, bool] = {}
        self.grad_on = True
        self.grad_guard: Guard = ALWAYS
        self.frame: Frame | None = None
        self.call_site: Call | None = None
        self.loops: list[Loop] = []
        self.loop_keys: tuple[int, ...] = ()
        self.stack: list[ast.AST] = []
        self.versions: dict[Any, Any] = {}
        self.bases: dict[Node, Node] = {}
        self.packed: set[Node] = set()  # packed sequences of torch
        self.aliases: dict[Node, Node] = {}  # what a loop makes of storage that was written before it
        self.file = ""
        self.line_node: ast.AST | None = None
        self.function = ""
        self.applied: Node | None = None
        self.second_passes = 0
        self.joining: tuple[Location, tuple[int, ...]] | None = None  # the arms of what is being joined
        self.undecided = 0  # branches around us whose condition is open
        self.open_branches: tuple[tuple[Location, int], ...] = ()  # those that are statements: where, and which arm
        self.undecided_callee = 0
        self.untold = 0  # branches around us whose condition is no literal, or one of several conditions
        self.taking_apart: frozenset[ast.AST] = frozenset()  # functions that run on a structure, for its parts next
        self.turn: int | None = None  # which of several optimizers a training step is called for
        self.without: frozenset[Any] = frozenset()  # alternatives that something is not, by the branches around us
        self.many = 0  # comprehensions around us over an unknown number of items

    def tick(self) -> int:
        self.time += 1
        return self.time

    def tape(self, framework: str, entry: str, path: str) -> Tape:
        symbols = {key: self.symbols[key] for key in self._used_symbols()}
        made = Tape(framework, entry, path, self.tape_nodes, self.sinks, self.events, self.optimizers, symbols)
        made.arms = self.arms
        made.forbidden = _resolved(self.forbidden)
        return made

    symbols: dict[str, Symbol]
    frozen: dict[Any, Any]

    def _used_symbols(self) -> list[str]:
        used: dict[str, None] = {}
        for node in self.tape_nodes:
            for edge in node.inputs:
                for symbol, _ in edge.guard:
                    used.setdefault(symbol)
        for event in self.events:
            for symbol, _ in event.guard:
                used.setdefault(symbol)
        return [key for key in used if key in self.symbols]

    # -- places ------------------------------------------------------------------------------------------------------
    def location(self, at: ast.AST | None = None) -> Location:
        node = at if at is not None else self.line_node
        known: Location | None = getattr(node, "_location", None)
        if known is not None and known.path == self.file and known.function == self.function:
            return known
        line = getattr(node, "lineno", 1)
        made = Location(
            self.file,
            line,
            getattr(node, "col_offset", 0) + 1,
            getattr(node, "end_lineno", line) or line,
            (getattr(node, "end_col_offset", 0) or 0) + 1,
            self.function,
        )
        if node is not None:
            node._location = made  # type: ignore[attr-defined]
        return made

    # -- nodes -------------------------------------------------------------------------------------------------------
    def node(
        self,
        op: str,
        inputs: list[Edge] | None = None,
        *,
        passes: bool = True,
        detail: str = "",
        name: str = "",
        at: ast.AST | None = None,
        marks: frozenset[str] = frozenset(),
    ) -> Node:
        """Record an operation. Gradient passes where the edges, `passes` and the grad mode all let it."""
        edges = inputs if inputs is not None else []
        frozen, nodes = self.frozen, self.tape_nodes
        if not edges:
            pass
        elif not passes or not self.grad_on:
            edges = [Edge(edge.source, False, edge.kind, edge.guard) if edge.passes else edge for edge in edges]
        else:
            if frozen:
                edges = [Edge(e.source, False, e.kind, e.guard) if frozen.get(e.source) else e for e in edges]
            if self.grad_guard:
                edges = [self._guarded(edge) for edge in edges]
        if len(nodes) > NODES:
            raise OutOfBudget
        self.time += 1
        where = getattr(self.line_node, "_location", None) if at is None else None
        if where is None or where.path != self.file or where.function != self.function:
            where = self.location(at)
        made = Node(
            op, edges, where, self.time, detail, name,
            None, self.frame, self.call_site, self.loop_keys, marks, self.grad_on,
        )  # fmt: skip
        nodes.append(made)
        return made

    def _guarded(self, edge: Edge) -> Edge:
        guard = join_guards(edge.guard, self.grad_guard)
        if guard is None:
            return Edge(edge.source, False, edge.kind, edge.guard)
        return Edge(edge.source, edge.passes, edge.kind, guard)

    def operation(
        self, op: str, *operands: Node, passes: bool = True, detail: str = "", at: ast.AST | None = None
    ) -> Node:
        return self.node(op, [Edge(operand) for operand in operands], passes=passes, detail=detail, at=at)

    def stop(self, value: Node, detail: str = "", at: ast.AST | None = None) -> Node:
        return self.node("stop", [Edge(value, False)], passes=False, detail=detail, name=value.name, at=at)

    def leaf(self, kind: str, name: str, owner: Network | None = None, scalar: bool = False) -> Node:
        """A new leaf; it belongs to no module call, whoever asked for it."""
        frame, self.frame = self.frame, None
        made = self.node("leaf", [], name=name)
        self.frame = frame
        made.leaf = Leaf(kind, name, owner, scalar)
        return made

    def index_edge(self, node: Node) -> Edge:
        return Edge(node, False, INDEX)

    def phi(self, sources: list[tuple[Node, Guard]], detail: str = "", name: str = "") -> Node:
        """A join. It happens whatever the grad mode is: liveness was decided where the values were made."""
        grad, guard = self.grad_on, self.grad_guard
        self.grad_on, self.grad_guard = True, ALWAYS
        made = self.node("phi", [Edge(node, True, DATA, guards) for node, guards in sources], detail=detail, name=name)
        self.grad_on, self.grad_guard = grad, guard
        if self.joining is not None and len(self.joining[1]) == len(sources):
            self.arms[made] = self.joining
        return made

    def event(self, kind: str, **facts: Any) -> Event:
        made = Event(
            kind,
            self.tick(),
            self.location(),
            loops=self.loop_keys,
            guard=frozenset(self.assumed.items()),
            conditional=bool(self.undecided),
            branches=frozenset(self.open_branches if len(self.open_branches) == self.undecided else ()),
            call=self.call_site,
            **facts,
        )
        self.events.append(made)
        self.heard()
        return made

    # -- the heap ----------------------------------------------------------------------------------------------------
    def put(self, container: dict[Any, Any], key: Any, value: Any) -> None:
        if self.journal is not None:
            self.journal.append((container, key, container.get(key, MISSING)))
        container[key] = value

    def drop(self, container: dict[Any, Any], key: Any) -> None:
        if key in container:
            if self.journal is not None:
                self.journal.append((container, key, container[key]))
            del container[key]

    def undo(
        self, journal: list[tuple[dict[Any, Any], Any, Any]]
    ) -> dict[tuple[int, Any], tuple[dict[Any, Any], Any, Any]]:
        """Take back the journal's writes; what they had come to, by container and key."""
        final: dict[tuple[int, Any], tuple[dict[Any, Any], Any, Any]] = {}
        for container, key, _ in journal:
            mark = (id(container), key)
            if mark not in final:
                final[mark] = (container, key, container.get(key, MISSING))
        for container, key, old in reversed(journal):
            if old is MISSING:
                container.pop(key, None)
            else:
                container[key] = old
        return final

    def fetch(self, container: dict[Any, Any], key: Any) -> Any:
        """Read the heap. In a loop, a tensor from before it may have been replaced in an earlier iteration: a phi."""
        value = container.get(key, MISSING)
        if not self.loops or value is MISSING:
            return value
        if isinstance(value, Node):
            if value.leaf is not None and value.leaf.kind == "param":
                return value
            return self._loop_phi(container, key, value)
        if isinstance(value, (Const, Sequence, StateDict)):
            self._note_blank(container, key)
        return value

    def is_blank(self, container: dict[Any, Any], key: Any) -> bool:
        """Is nothing there yet? In a loop, an earlier iteration may have put something there."""
        if key in container:
            return False
        if self.loops:
            self._note_blank(container, key)
        return True

    def _note_blank(self, container: dict[Any, Any], key: Any) -> None:
        """Something was read where no tensor is yet: another pass is due if this iteration puts one there."""
        self.loops[-1].blank_reads.setdefault((id(container), key), container)

    def _loop_phi(self, container: dict[Any, Any], key: Any, value: Node) -> Node:
        for depth, loop in enumerate(self.loops):
            if value.time >= loop.start:
                continue
            mark = (id(container), key)
            if mark in loop.phis:
                made = loop.phis[mark][2]
                if made.inputs[0].source is value:  # a branch was undone since
                    container[key] = value = made
                continue
            keys, self.loop_keys = self.loop_keys, self.loop_keys[: depth + 1]
            made = self.phi([(value, ALWAYS)], detail="loop", name=value.name)
            self.loop_keys = keys
            if container is not self.versions and (value in self.versions or value in self.aliases):
                self.aliases[made] = self.aliases.get(value, value)
            loop.phis[mark] = (container, key, made)
            # not a write of the program: it must survive the undoing of a branch
            container[key] = made
            value = made
        return value

    # -- what is held by a value -------------------------------------------------------------------------------------
    def nodes_of(self, value: Any, depth: int = 0) -> list[Node]:
        """The tensors in a value, nested ones included; unknowns count as inputs."""
        kind = type(value)
        if kind is Node:
            return [self.current(value)]
        if kind is Unknown:
            return [] if value.plain else [self.current(self.input_node(value, depth))]
        if kind not in HOLDERS:
            return []
        found: list[Node] = []
        self._gather(value, depth, found)
        return found

    def _gather(self, value: Any, depth: int, found: list[Node]) -> None:
        """The tensors in one of HOLDERS."""
        if depth > 5:
            return
        kind = type(value)
        deeper = depth + 1
        parts: Any = ()
        if kind is Parameters:
            found += value.leaves[:40]
        elif kind is Sequence:
            parts = value.items[:64]
            if value.rest is not None:
                parts = (*parts, value.rest)
        elif kind is Mapping:
            parts = list(value.entries.values())[:80]
        elif kind is Union:
            parts = value.alternatives
        elif not self.is_module(value):
            deeper = depth + 2
            parts = list(value.attrs.values())[:40]
        for part in parts:
            kind = type(part)
            if kind is Node:
                found.append(self.current(part))
            elif kind is Unknown:
                if not part.plain:
                    found.append(self.current(self.input_node(part, deeper)))
            elif kind in HOLDERS:
                self._gather(part, deeper, found)

    def input_node(self, unknown: Unknown, depth: int = 0) -> Node:
        if unknown.instance is not None:
            nodes = self.nodes_of(unknown.instance, depth + 2)  # an object may hold itself
            if len(nodes) == 1:
                return nodes[0]
            if nodes:
                return self.node("pack", [Edge(node) for node in nodes])
        if unknown.node is None:
            keys, self.loop_keys = self.loop_keys, ()
            unknown.node = self.leaf("input", unknown.name)
            self.loop_keys = keys
            if isinstance(unknown.default, (int, float)):
                unknown.node.detail = repr(unknown.default)
            unknown.node.marks = unknown.marks
        return unknown.node

    def current(self, node: Node) -> Node:
        """The present contents of a tensor that is written in place."""
        if self.aliases:
            node = self.aliases.get(node, node)
        if node not in self.versions:
            return node
        found = self.fetch(self.versions, node)
        return found if isinstance(found, Node) else node

    def is_module(self, value: Any) -> bool:
        raise NotImplementedError

    # -- guards ------------------------------------------------------------------------------------------------------
    def symbol(self, key: str, name: str, default: object = None, parameter: bool = False) -> str:
        if key not in self.symbols:
            self.symbols[key] = Symbol(key, name, default, parameter=parameter, location=self.location())
        return key

    def since(self, assumed: frozenset[str]) -> Guard:
        """The literals assumed now that were not assumed at a function's entry."""
        if self.assumed.keys() <= assumed:
            return ALWAYS
        return frozenset((key, value) for key, value in self.assumed.items() if key not in assumed)
