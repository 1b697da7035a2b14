"""JAX: an update gives a new tree and changes nothing. Where nobody keeps the new one, the old one goes on.

An update is lost where its result is a statement of its own, where the name that it gets is read nowhere, and where
the function that makes it gives back the old tree and nothing of the new one. So it is where it was put into a state
that does not change (`state.replace(target_params=...)`), and nobody keeps the new state.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from gradaudit.static.joins import MAX_ALTERNATIVES
from gradaudit.static.machine import Given, Machine
from gradaudit.static.state import Scope
from gradaudit.static.syntax import walk
from gradaudit.static.values import Instance, Mapping, Sequence, Union, Unknown
from gradaudit.tape import Event, Node

JOINS = frozenset({"phi", "where", "identity", "stop", "stack", "clone", "cast"})
DEPTH = 6
MOST = 400


class Pending(NamedTuple):
    """What the update `event` made of the old tree."""

    event: Event
    made: frozenset[Node]


class Kept(Machine):
    pending: list[Pending]
    renewals: dict[ast.AST | None, Given]  # the call that gives a new state -> what is new in it

    def renews(self, changed: Given) -> None:
        """The call that is evaluated gives a state with these in the place of the old ones."""
        self.renewals[self.line_node] = changed

    def awaits(self, event: Event, made: Any) -> None:
        """Somebody has to keep what this update made."""
        nodes = frozenset(self.nodes_of(made))
        if nodes:
            self.pending.append(Pending(event, nodes))

    def dropped(self, statement: ast.Expr | ast.Assign, scope: Scope, name: str = "") -> None:
        """A statement whose value nobody gets, or gets under a name that is read nowhere: the update itself, and no
        call that is given it."""
        found = [one for one in self.pending if _is_at(one.event, statement.value, self.file, self.function)]
        if isinstance(statement.value, ast.Call) and statement.value in self.renewals:
            found += self._put_into(statement.value, scope)
        if not found or self._used(found) or name and _is_read(self.around(scope), name, scope):
            return
        self._lose(found, statement)

    def _put_into(self, call: ast.Call, scope: Scope) -> list[Pending]:
        """The updates that are in the new state which this call gives, and in nothing else."""
        given = dict(enumerate(call.args)) | {word.arg: word.value for word in call.keywords}
        around = self.around(scope)
        own = [value for key, value in self.renewals[call].items() if _is_given_once(given.get(key), around)]
        nodes = {node for value in own for node in self.nodes_of(value)}
        copied = [event for event in self.events if event.kind == "copy" and event.sources]
        here = [Pending(event, frozenset()) for event in copied if _is_at(event, call, self.file, self.function)]
        return [one for one in self.pending if one.made & nodes] + here

    def left_behind(self, mark: int, body: list[ast.stmt], scope: Scope) -> None:
        """What the function that ends here made since `mark`, and does not give back: it gives back the old one."""
        if len(self.pending) <= mark or not scope.returns:
            return
        last = next((part for part in reversed(body) if isinstance(part, ast.Return)), None)
        if last is None:
            return
        if any(_is_cut_short(value) for value, _ in scope.returns):
            return
        given = _nodes([value for value, _ in scope.returns])
        behind = _joined(given)
        outside = _joined(_nodes([scope.vars.get(name) for name in _given(self.stack[-1])]))
        lost = [one for one in self.pending[mark:] if not one.made & (behind | outside)]
        old = {self.tree_of(node) for node in behind if node not in self.averaged}
        lost = [one for one in lost if set(one.event.leaves) <= old and not self._used([one])]
        self._lose(lost, last)

    def _lose(self, lost: list[Pending], statement: ast.stmt) -> None:
        at, self.line_node = self.line_node, statement
        for event, _ in lost:
            self.event("lost", leaves=event.leaves, sources=event.sources, weight=event.weight)
        self.line_node = at
        self.pending = [one for one in self.pending if one not in lost]

    def _used(self, pending: list[Pending]) -> bool:
        """Is anything computed with what these made?"""
        known = {node for one in pending for node in one.made}
        for node in self.tape_nodes:
            if any(edge.source in known for edge in node.inputs):
                if node.op not in JOINS:
                    return True
                known.add(node)
        return False


def _is_given_once(expression: ast.expr | None, around: ast.AST) -> bool:
    """Is it made where it is given, or under a name that nobody else reads?"""
    if not isinstance(expression, ast.Name):
        return isinstance(expression, ast.Call)
    reads = [one for one in walk(around) if isinstance(one, ast.Name) and one.id == expression.id]
    return sum(isinstance(one.ctx, ast.Load) for one in reads) == 1


def _is_cut_short(value: Any, depth: int = 0) -> bool:
    """Is it, or a part of it, one of so many that the rest was left out?"""
    if isinstance(value, Union):
        return len(value.alternatives) >= MAX_ALTERNATIVES
    return isinstance(value, Sequence) and depth < DEPTH and any(_is_cut_short(one, depth + 1) for one in value.items)


def _given(function: ast.AST) -> list[str]:
    """The names of what a function is given: it may keep something in these."""
    arguments = function.args if isinstance(function, ast.FunctionDef) else None
    if arguments is None:
        return []
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _nodes(values: list[Any]) -> set[Node]:
    """The nodes in values, what states that are not known are said to have included."""
    found: set[Node] = set()
    seen: set[int] = set()
    waiting = [(value, 0) for value in values]
    while waiting and len(seen) < MOST:
        value, depth = waiting.pop()
        if value is None or id(value) in seen or depth > DEPTH:
            continue
        seen.add(id(value))
        parts: list[Any] = []
        if isinstance(value, Node):
            found.add(value)
        elif isinstance(value, Unknown):
            found.update(() if value.node is None else (value.node,))
            parts = [*value.attrs.values(), value.instance]
        elif isinstance(value, Sequence):
            parts = [*value.items, value.rest]
        elif isinstance(value, Mapping):
            parts = list(value.entries.values())
        elif isinstance(value, Union):
            parts = list(value.alternatives)
        elif isinstance(value, Instance):
            parts = list(value.attrs.values())
        waiting += [(part, depth + 1) for part in parts]
    return found


def _joined(nodes: set[Node]) -> set[Node]:
    """These and what they were chosen from."""
    found, waiting = set(nodes), list(nodes)
    while waiting and len(found) < MOST:
        node = waiting.pop()
        if node.op in JOINS:
            fresh = [edge.source for edge in node.inputs if edge.source not in found]
            found.update(fresh)
            waiting += fresh
    return found


def _is_at(event: Event, expression: ast.expr, path: str, function: str) -> bool:
    where = event.location
    here = (expression.lineno, expression.col_offset + 1, path, function)
    return isinstance(expression, ast.Call) and (where.line, where.column, where.path, where.function) == here


def _is_read(around: ast.AST, name: str, scope: Scope) -> bool:
    """Is the name read anywhere, or another function's?"""
    if name in scope.globals:
        return True
    return any(isinstance(one, ast.Name) and one.id == name and isinstance(one.ctx, ast.Load) for one in walk(around))
