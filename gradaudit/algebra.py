"""Equality and linear structure of forward values.

`Algebra.vn` gives a node a value number: two nodes with one number hold the same value. Stops are transparent, since a
stop changes no value. `Algebra.lin` writes a node as a sum of atoms with coefficients, each atom tagged with whether
gradient passes from the node to it, so that a pair `x - x` that cancels can be told from `x - stop(x)`.

Everything walks with explicit stacks: a tape may be deeper than Python's recursion limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from gradaudit.tape import ALWAYS, INDEX, PARAMETER, Edge, Event, Guard, Node, Tape, join_guards

RANDOM = frozenset({"random", "sample", "rsample", "dropout", "alloc", "env_step", "augment"})
"""Operations whose every execution is a value of its own."""

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum"})
IDENTITY = frozenset({"stop", "identity", "clone", "copy", "contiguous", "checkpoint"})
SAME_LAYOUT = frozenset({"contiguous", "clone", "to", "cpu", "cuda", "identity", "requires_grad_", "float", "double"})
INTEGER = ("int", "bool", "long", "short", "byte")

SPREADS = frozenset({"reshape", "getitem", "gather", "sum", "mean", "cumsum", "cast", "stack", "cat"})
"""Linear maps: a sum goes through them term by term (the last two only with one data input)."""

SUMS = frozenset({"add", "sub", "neg"})
MAX_TERMS = 48
MOST_FACTORS = 6
STEPPING = frozenset({"step", "copy", "soft_update"})


@dataclass(frozen=True, slots=True)
class Term:
    """`coefficient` times the value numbered `vn`; `passes`: gradient flows from the sum to `node`, under `guard`."""

    coefficient: float
    vn: int
    node: Node
    passes: bool = True
    guard: Guard = ALWAYS


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum of terms and a constant."""

    terms: tuple[Term, ...]
    constant: float = 0.0

    def forward(self) -> dict[int, float]:
        """Coefficient by value number: what is left after everything that cancels has cancelled."""
        return _collect(self.terms)

    def gradient(self) -> dict[int, float]:
        """The same, of the terms that gradient reaches."""
        return _collect(term for term in self.terms if term.passes)

    def cancelled(self) -> list[tuple[Term, Term]]:
        """Pairs (+x, -x) that cancel in the value."""
        forward = self.forward()
        pairs: list[tuple[Term, Term]] = []
        by_number: dict[int, list[Term]] = {}
        for term in self.terms:
            by_number.setdefault(term.vn, []).append(term)
        for number, terms in by_number.items():
            if number in forward or len(terms) < 2:
                continue
            plus = [term for term in terms if term.coefficient > 0]
            minus = [term for term in terms if term.coefficient < 0]
            pairs.extend(zip(plus, minus, strict=False))
        return pairs


def _collect(terms: Iterable[Term]) -> dict[int, float]:
    total: dict[int, float] = {}
    for term in terms:
        total[term.vn] = total.get(term.vn, 0.0) + term.coefficient
    return {number: value for number, value in total.items() if abs(value) > 1e-12}


class Liveness(Protocol):
    """What is asked of a `gradaudit.paths.Analysis`."""

    tape: Tape

    def alive(self, node: Node) -> int: ...


@dataclass(slots=True)
class Algebra:
    """Value numbers and linear forms of one tape, computed when asked for and kept.

    Given another one as `loose`, equal numbers mean equal gradient as well: only values without gradient are numbered
    as `loose` does, and what carries gradient never equals what does not.
    """

    analysis: Liveness
    loose: Algebra | None = None
    _numbers: dict[int, int] = field(default_factory=dict)
    _keys: dict[object, int] = field(default_factory=dict)
    _kept: list[Node] = field(default_factory=list)
    _linear: dict[int, Linear] = field(default_factory=dict)
    _writes: dict[int, list[Event]] | None = None
    _anyone: list[Event] = field(default_factory=list)
    _twin: Algebra | None = None

    def vn(self, node: Node) -> int:
        """The value number of `node`."""
        known = self._numbers.get(id(node))
        if known is not None:
            return known
        on_stack: set[int] = set()
        stack = [node]
        while stack:
            top = stack[-1]
            if id(top) in self._numbers:
                stack.pop()
                continue
            waiting = [edge.source for edge in self._operands(top) if id(edge.source) not in self._numbers]
            if not waiting:
                self._assign(top, self._key(top))
                on_stack.discard(id(top))
                stack.pop()
                continue
            on_stack.add(id(top))
            for source in waiting:
                if id(source) in on_stack:  # a cycle that no loop phi announces: cut it here
                    self._assign(source, ("cycle", id(source)))
                else:
                    stack.append(source)
        return self._numbers[id(node)]

    def same(self, first: Node, second: Node) -> bool:
        """Whether the two hold the same value: one number, or the same sum of them."""
        if first is second or self.vn(first) == self.vn(second):
            return True
        if first.op not in SUMS and second.op not in SUMS:
            return False
        one, other = self.lin(first), self.lin(second)
        return one.forward() == other.forward() and one.constant == other.constant

    def alike(self, first: Node, second: Node) -> bool:
        """Whether the two hold the same value and pass the same gradient."""
        if self._twin is None:
            self._twin = Algebra(self.analysis, loose=self)
        if first is second or self._twin.vn(first) == self._twin.vn(second):
            return True
        if not self.same(first, second):
            return False
        return self._twin.lin(first).gradient() == self._twin.lin(second).gradient()

    def _assign(self, node: Node, key: object) -> None:
        if id(node) not in self._numbers:
            self._kept.append(node)  # keeps id(node) from being reused
            self._numbers[id(node)] = key if isinstance(key, int) else self._number(key)

    def _number(self, key: object) -> int:
        return self._keys.setdefault(key, len(self._keys))

    def _operands(self, node: Node) -> Sequence[Edge]:
        """The inputs that a value number is computed from."""
        if node.leaf is not None or node.op in RANDOM or (node.op == "phi" and _is_loop(node)):
            return ()
        return () if self.loose is not None and self._is_dead(node) else node.inputs

    def _is_dead(self, node: Node) -> bool:
        return node.leaf is None and not self.analysis.alive(node)

    def _key(self, node: Node) -> object:
        """The hash-consing key of a node whose operands are numbered; an int is another node's number."""
        if self.loose is not None and self._is_dead(node):
            return ("dead", self.loose.vn(node))
        if node.op == "const" or (node.leaf is not None and node.leaf.kind == "const"):
            return ("const", node.detail or (node.leaf.name if node.leaf is not None else ""))
        if node.leaf is not None:
            return ("leaf", id(node.leaf), node.detail)
        if node.op == "phi" and _is_loop(node):
            others = {id(edge.source): edge.source for edge in node.inputs if edge.source is not node}
            if len(others) == 1 and id(next(iter(others))) in self._numbers:
                return self._numbers[next(iter(others))]
            return ("unique", id(node))
        if node.op in RANDOM or not node.inputs or is_random_call(node):
            return ("unique", id(node))
        if node.op in IDENTITY or self._keeps_value(node):
            return self._input(node, node.inputs[0])
        if node.op == "phi":
            return self._phi_key(node)
        parts = [(edge.kind, self._input(node, edge)) for edge in node.inputs]
        if node.op in COMMUTATIVE:
            parts.sort()
        return (node.op, node.detail, _callee(node) if node.op == "module_call" else 0, tuple(parts))

    def _phi_key(self, node: Node) -> object:
        data = [edge for edge in node.inputs if edge.kind != INDEX]
        numbers = {self._input(node, edge) for edge in data}
        if len(numbers) == 1:
            return next(iter(numbers))
        if not all(edge.guard for edge in data):
            return ("unique", id(node))
        return ("phi", frozenset((edge.guard, self._input(node, edge)) for edge in data))

    def _input(self, node: Node, edge: Edge) -> int:
        """The number of an operand; a parameter's depends on when it is read, for its steps change it."""
        source = edge.source
        number = self._numbers[id(source)]
        if source.leaf is not None and source.leaf.kind == "param":
            version = self._version(source, node)
            if version:
                return self._number(("version", number, version))
        return number

    def _version(self, leaf: Node, reader: Node) -> tuple[object, ...]:
        if self._writes is None:
            self._index_writes()
        assert self._writes is not None
        events = [*self._writes.get(id(leaf), ()), *self._anyone]
        if not events:
            return ()
        before = sum(1 for event in events if event.time < reader.time)
        loops = tuple(loop for loop in reader.loops if any(loop in event.loops for event in events))
        return (before, loops) if before or loops else ()

    def _index_writes(self) -> None:
        self._writes = {}
        for event in self.analysis.tape.events:
            if event.kind not in STEPPING:
                continue
            leaves = event.leaves or tuple(event.optimizer.leaves if event.optimizer is not None else ())
            if not leaves and event.kind == "step":
                self._anyone.append(event)
            for leaf in leaves:
                self._writes.setdefault(id(leaf), []).append(event)

    @staticmethod
    def _keeps_value(node: Node) -> bool:
        if node.op == "cast":
            return not any(word in node.detail for word in INTEGER) and (bool(node.detail) or node.inputs[0].passes)
        return node.op == "reshape" and node.detail in SAME_LAYOUT

    def lin(self, node: Node) -> Linear:
        """`node` as a sum of atoms."""
        known = self._linear.get(id(node))
        if known is not None:
            return known
        stack: list[tuple[Node, bool]] = [(node, False)]
        entered: set[int] = set()
        while stack:
            top, ready = stack.pop()
            if id(top) in self._linear:
                continue
            if ready:
                self._linear[id(top)] = self._combine(top)
                self._kept.append(top)
                continue
            if id(top) in entered:
                continue  # a cycle: `_combine` takes it for an atom
            entered.add(id(top))
            stack.append((top, True))
            stack.extend((edge.source, False) for edge in self._linear_inputs(top) if id(edge.source) not in entered)
        return self._linear[id(node)]

    def _linear_inputs(self, node: Node) -> list[Edge]:
        if node.leaf is not None or (node.op == "phi" and _is_loop(node)):
            return []
        data = [edge for edge in node.inputs if edge.kind not in (INDEX, PARAMETER)]
        if node.op in ("add", "sub") and len(data) == 2:
            return data
        if node.op == "mul" and len(data) == 2:
            return data
        if node.op in ("div", "neg") or node.op in IDENTITY or (node.op in SPREADS and len(data) == 1):
            return data[:1]
        if node.op == "where" and len(data) == 1:
            return data
        if node.op == "phi" and data and len({self.vn(edge.source) for edge in data}) == 1:
            return data
        return []

    def _combine(self, node: Node) -> Linear:
        if node.op == "logsumexp" and self._is_normalised(node):
            return Linear(())
        edges = self._linear_inputs(node)
        parts = [self._through(edge) for edge in edges]
        combined = self._sum(node, edges, parts) if parts else None
        if combined is None or len(combined.terms) > MAX_TERMS:
            if node.op == "const" or (node.leaf is not None and node.leaf.kind == "const"):
                value = number(node)
                if value is not None:
                    return Linear((), value)
            return Linear((Term(1.0, self.vn(node), node),))
        return combined

    def _is_normalised(self, node: Node) -> bool:
        """Whether this is the normaliser of what has been normalised already (`x - logsumexp(x)`): zero."""
        value = node.inputs[0].source
        parts = value.arguments()
        if value.op != "sub" or len(parts) != 2 or parts[1].op != "logsumexp" or parts[1].detail != node.detail:
            return False
        return self.vn(parts[1].inputs[0].source) == self.vn(parts[0])

    def _through(self, edge: Edge) -> Linear:
        inner = self._linear.get(id(edge.source))
        if inner is None:
            inner = Linear((Term(1.0, self.vn(edge.source), edge.source),))
        if edge.passes and not edge.guard:
            return inner
        terms = []
        for term in inner.terms:
            guard = join_guards(term.guard, edge.guard)
            terms.append(replace(term, passes=term.passes and edge.passes and guard is not None, guard=guard or ALWAYS))
        return Linear(tuple(terms), inner.constant)

    def _sum(self, node: Node, edges: list[Edge], parts: list[Linear]) -> Linear | None:
        op = node.op
        if op == "add":
            return Linear(parts[0].terms + parts[1].terms, parts[0].constant + parts[1].constant)
        if op == "sub":
            return _plus(parts[0], _scaled(parts[1], -1.0))
        if op == "neg":
            return _scaled(parts[0], -1.0)
        if op == "mul":
            return self._product(edges, parts)
        if op == "div":
            return self._quotient(node, parts[0])
        if op == "phi":
            return self._joined(parts)
        if op in IDENTITY or self._keeps_value(node):
            return parts[0]
        extra = tuple(self.vn(edge.source) for edge in node.inputs if edge.kind == INDEX)
        return self._mapped(parts[0], (op, node.detail, extra))

    def _product(self, edges: list[Edge], parts: list[Linear]) -> Linear | None:
        for mine, other in ((0, 1), (1, 0)):
            factor = parts[other]
            if not factor.terms:
                return _scaled(parts[mine], factor.constant)
        for mine, other in ((0, 1), (1, 0)):
            factor = parts[other]
            if all(not term.passes or not self.analysis.alive(term.node) for term in factor.terms):
                return self._spread(parts[mine], factor)  # a factor without gradient is a linear map
        return None

    def _spread(self, part: Linear, factor: Linear) -> Linear:
        """x * (1 - s) is x - s * x."""
        result = _scaled(part, factor.constant) if factor.constant else Linear(())
        for term in factor.terms[:MOST_FACTORS]:
            result = _plus(result, _scaled(self._mapped(part, ("mul", term.vn)), term.coefficient))
        return result

    def _quotient(self, node: Node, part: Linear) -> Linear | None:
        data = node.arguments()
        if len(data) < 2:
            return None
        value = number(data[1])
        if value:
            return _scaled(part, 1.0 / value)
        dead = not self.analysis.alive(data[1])
        return self._mapped(part, ("div", self.vn(data[1]))) if dead else None

    @staticmethod
    def _joined(parts: list[Linear]) -> Linear:
        """A join of equal values: gradient passes a term if any arm passes it, and always if every arm does."""
        for part in parts:
            if all(term.passes and not term.guard for term in part.terms):
                return part
        best = max(parts, key=lambda part: sum(term.passes for term in part.terms))
        if all(any(term.passes for term in part.terms) for part in parts):
            return Linear(tuple(replace(term, guard=ALWAYS) for term in best.terms), best.constant)
        return best

    def _mapped(self, part: Linear, key: tuple[object, ...]) -> Linear:
        terms = tuple(replace(term, vn=self._number(("map", key, term.vn))) for term in part.terms)
        if part.constant == 0.0 or not terms:
            return Linear(terms, part.constant)
        return Linear(terms, 0.0 if key[0] in ("mul", "div", "sum") else part.constant)


def _scaled(part: Linear, factor: float) -> Linear:
    terms = tuple(replace(term, coefficient=term.coefficient * factor) for term in part.terms)
    return Linear(terms, part.constant * factor)


def _plus(first: Linear, second: Linear) -> Linear:
    return Linear(first.terms + second.terms, first.constant + second.constant)


def _is_loop(node: Node) -> bool:
    """A join (a phi) with a back edge."""
    if node.detail == "loop":
        return True
    for edge in node.inputs:
        if edge.source.time > node.time:
            return True
    return False


def _callee(node: Node) -> object:
    """Which layer is called. One that shares a leaf with its siblings (flax's and haiku's layers, made anew in every
    call) is known by its place in the text."""
    network = node.frame.network if node.frame is not None else None
    owners = [edge.source.leaf.owner for edge in node.inputs if edge.kind == PARAMETER and edge.source.leaf is not None]
    if not owners or any(owner is network for owner in owners):
        return id(network) if network is not None else 0
    return node.location.path, node.location.line, node.location.column


def _is_data(node: Node) -> bool:
    """Certainly without gradient: data, a constant, or cut off right here."""
    if node.leaf is not None:
        return node.leaf.kind in ("input", "const")
    return bool(node.inputs) and not any(edge.passes for edge in node.inputs) or node.op in ("const", "alloc", "random")


def is_random_call(node: Node) -> bool:
    """Whether the call may differ from execution to execution: dropout, or an unknown function of data alone."""
    if node.op == "module_call":
        return node.frame is not None and "dropout" in node.frame.network.class_name.lower()
    return node.op == "call" and all(_is_data(edge.source) for edge in node.inputs)


def number(node: Node) -> float | None:
    """The Python number that a constant node stands for."""
    if node.op != "const" and (node.leaf is None or node.leaf.kind != "const"):
        return None
    try:
        return float(node.detail or (node.leaf.name if node.leaf is not None else ""))
    except ValueError:
        return None
