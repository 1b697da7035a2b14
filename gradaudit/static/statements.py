"""Statements: a table of small handlers. A block says how it ended: "" (goes on), return, raise, break or continue."""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Callable
from typing import Any

from gradaudit.static.contexts import Contexts
from gradaudit.static.joins import GOES_ON
from gradaudit.static.machine import Machine
from gradaudit.static.state import Loop, Scope
from gradaudit.static.syntax import parts
from gradaudit.static.values import (
    MISSING,
    NONE,
    NOWHERE,
    ClassValue,
    Const,
    Function,
    Gradient,
    GradMode,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Partial,
    Sequence,
    StateDict,
    Union,
    Unknown,
)
from gradaudit.tape import ALWAYS, Edge, Guard, Node

MOST_NAMED = 8
RECORDS = (Mapping, Sequence, Instance)
IN_PLACE_OPERATORS: dict[type, str] = {ast.Add: "add_", ast.Sub: "sub_", ast.Mult: "mul_", ast.Div: "div_"}


class Statements(Machine):
    def block(self, body: list[ast.stmt], scope: Scope) -> str:
        assumed = self.assumed
        for statement in body:
            handler = HANDLERS.get(type(statement))
            if handler is None:
                continue
            ending = handler(self, statement, scope)
            if ending:
                self.assumed = assumed
                return ending
        return GOES_ON

    # -- simple ------------------------------------------------------------------------------------------------------
    def _expression(self, statement: ast.Expr, scope: Scope) -> str:
        if not isinstance(statement.value, ast.Constant):
            value = self.value(statement.value, scope)
            if isinstance(value, GradMode) and isinstance(statement.value, ast.Call):
                self.switch_grad(value)  # torch.set_grad_enabled(False) as a statement
            elif isinstance(value, Node) and value.op == "stop" and _is_stop_call(statement.value):
                value.marks = value.marks | {"discarded"}
            elif self.pending or self.renewals:
                self.dropped(statement, scope)
        return GOES_ON

    def _assign(self, statement: ast.Assign, scope: Scope) -> str:
        value = self.value(statement.value, scope)
        source = statement.value
        named = self.current_framework == "jax" and self.is_whole(source, scope)
        if isinstance(value, Node) and value.op == "stop" and _is_stop_call(source) and self._is_lost(statement, scope):
            value.marks = value.marks | {"overwritten"}
        self._loses_an_average(statement, value, scope)
        for target in reversed(statement.targets):
            self.line_node = statement
            if named and isinstance(target, ast.Name) or self.is_entry_beside(statement, target, scope):
                value = self.second_name(value)
            self.assign(target, value, scope)
            named = True
        return GOES_ON

    def _loses_an_average(self, statement: ast.Assign, value: Any, scope: Scope) -> None:
        """`for p, t in zip(online.parameters(), target.parameters()): t = tau * p + (1 - tau) * t` writes a name."""
        target = statement.targets[0]
        if (self.pending or self.renewals) and isinstance(target, ast.Name):
            self.dropped(statement, scope, target.id)
        if not isinstance(target, ast.Name) or not isinstance(value, Node) or self.current_framework != "torch":
            return
        old = scope.vars.get(target.id)
        leaves = self.written_in(old) if isinstance(old, Parameters) else []
        if leaves and _in_loop_only(self.around(scope), statement, target.id):
            self.line_node = statement
            self.lost(leaves, value)

    def _is_lost(self, statement: ast.Assign, scope: Scope) -> bool:
        """Does the block that it stands in write the name anew before anybody reads it?"""
        target = statement.targets[0]
        if len(statement.targets) > 1 or not isinstance(target, ast.Name) or target.id in scope.globals:
            return False
        return _rewritten(self.around(scope), statement, target.id)

    def _annotated(self, statement: ast.AnnAssign, scope: Scope) -> str:
        if statement.value is None:
            return GOES_ON
        value = self.value(statement.value, scope)
        if isinstance(value, Unknown) and value.annotation is None and not isinstance(statement.value, ast.Name):
            value.annotation = self.class_from_annotation(statement.annotation, scope)
        self.line_node = statement
        self.assign(statement.target, value, scope)
        return GOES_ON

    def _augmented(self, statement: ast.AugAssign, scope: Scope) -> str:
        current = self.value(_as_load(statement.target), scope)
        value = self.value(statement.value, scope)
        self.line_node = statement
        if isinstance(current, Sequence) and isinstance(statement.op, ast.Add):
            self.call_method(current, "extend", [value], {})
            return GOES_ON
        if isinstance(current, Parameters) and isinstance(value, (Parameters, Sequence)):  # two lists of them
            leaves = dict.fromkeys((*current.leaves, *self.held_by(value)))
            self.assign(statement.target, Parameters(tuple(leaves), current.complete, current.named), scope)
            return GOES_ON
        if isinstance(current, (Parameters, StateDict)) and isinstance(statement.target, ast.Name):
            name = IN_PLACE_OPERATORS.get(type(statement.op), "")
            self.write_in_parameters(list(current.leaves), name, [value], {})
            return GOES_ON
        if isinstance(current, Mapping) and isinstance(statement.op, ast.BitOr):
            self.call_method(current, "update", [value], {})
            return GOES_ON
        self.assign(statement.target, self.binary(type(statement.op), current, value), scope)
        return GOES_ON

    def assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            self._assign_name(target.id, value, scope)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            self.set_attribute(owner, target.attr, value)
        elif isinstance(target, ast.Subscript):
            owner = self.value(target.value, scope)
            index = self.value(target.slice, scope)
            self.line_node = target
            if self.originals and isinstance(index, Const) and isinstance(index.value, str):
                self.named_tree(value, index.value)
            self.set_item(owner, index, value, "")
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, scope)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value, scope)

    def _assign_name(self, name: str, value: Any, scope: Scope) -> None:
        home = scope
        if name in scope.globals:
            while home.parent is not None:
                home = home.parent
                if name in home.vars:
                    break
        if isinstance(value, Node):
            if not value.name and value.op != "leaf":
                value.name = name
            elif value.leaf is not None and value.leaf.kind == "param" and not value.leaf.name:
                value.leaf.name = value.name = name
        elif isinstance(value, Instance):
            if not value.network.name:
                value.network.name = name
            if self.is_module(value):
                self.keep(home, name, value)
        elif isinstance(value, OptimizerValue):
            value.optimizer.name = value.optimizer.name or name
        elif isinstance(value, Unknown) and value.call and value.instance is None and value.node is None:
            value.name = name
        elif isinstance(value, Union) or isinstance(value, Sequence) and value.kind in ("list", "modules"):
            _name_parts(value, name)  # of a tuple, whoever unpacks it has a name for each
        if self.originals or self.blends:
            self.named_tree(value, name)
            if name in home.vars:
                self.succeeded(home.vars[name], value)
        if self.current_framework == "jax" and isinstance(value, RECORDS) and name in home.vars:
            self.replaced_parts(home.vars[name], value)
        self.put(home.vars, name, value)

    def _unpack(self, targets: list[ast.expr], value: Any, scope: Scope) -> None:
        count = len(targets)
        starred = next((i for i, target in enumerate(targets) if isinstance(target, ast.Starred)), None)
        if isinstance(value, Union):
            value = self._any_of(value, targets)
        if isinstance(value, Instance) and value.cls is not None and not self.is_module(value):
            if len(value.attrs) >= count and not self.is_record(value.cls):
                value = Sequence(tuple(value.attrs.values())[:count])
        if isinstance(value, Mapping):
            value = Sequence([Const(key) for key in value.known()], value.rest)
        for position, target in enumerate(targets):
            if starred is not None and position == starred:
                self.assign(target, self._middle(value, position, count), scope)  # type: ignore[attr-defined]
                continue
            index = position if starred is None or position < starred else position - count
            part = self._part(value, index, count if starred is None else 0, target)
            self.assign(target, part, scope)

    def _any_of(self, value: Union, targets: list[ast.expr]) -> Any:
        """Each target gets what it may be: of a tuple its item, of what is not known an unknown one."""
        count = len(targets)
        fitting: list[tuple[Any, Guard]] = []
        for part, guard in zip(value.alternatives, value.guards, strict=True):
            if isinstance(part, Sequence) and len(part.items) == count and part.rest is None:
                fitting.append((part, guard))
            elif isinstance(part, Unknown) and part.instance is None:
                items = [self._part(part, index, count, target) for index, target in enumerate(targets)]
                fitting.append((Sequence(items), guard))
        if any(isinstance(part, Sequence) for part in value.alternatives) and fitting:
            return self.join(fitting)
        return value.alternatives[0]

    def _middle(self, value: Any, before: int, count: int) -> Any:
        if isinstance(value, Sequence) and value.rest is None:
            return Sequence(value.items[before : len(value.items) - (count - before - 1)], None, "list")
        return Sequence((), self.element(value), "list")

    def _part(self, value: Any, index: int, count: int, target: ast.expr) -> Any:
        if isinstance(value, Sequence):
            if value.rest is None and -len(value.items) <= index < len(value.items):
                return value.items[index]
            if index >= 0 and index < len(value.items):
                return value.items[index]
            part = self.element(value)  # two of any others are two values
            return self.get_item(part, Const(index), f"[{index}]") if isinstance(part, Node) else part
        part = self.get_item(value, Const(index), f"[{index}]")
        if isinstance(part, Unknown) and isinstance(target, ast.Name) and part.instance is None and part.node is None:
            part.name = target.id
        if isinstance(value, Unknown) and isinstance(part, Unknown) and count:
            self._mark_step(value, part, index, count)
        return part

    def _mark_step(self, value: Unknown, part: Unknown, index: int, count: int) -> None:
        """`obs, reward, terminated, truncated, info = env.step(action)`, and the older four."""
        if value.flag_of == "env.step" and count in (4, 5):
            kinds = ("next-observation", "reward", "done", "done" if count == 5 else "info", "info")
            part.marks = part.marks | {kinds[index]}
            if part.node is not None:
                part.node.marks = part.marks

    # -- control -----------------------------------------------------------------------------------------------------
    def _return(self, statement: ast.Return, scope: Scope) -> str:
        value = self.value(statement.value, scope) if statement.value is not None else NONE
        scope.returns.append((value, self.since(scope.assumed_at_entry)))
        return "return"

    def _raise(self, statement: ast.Raise, scope: Scope) -> str:
        if self.assumed and not (self.untold or self.loops or self.undecided_callee) and _is_refusal(self.stack):
            self.forbidden[frozenset(self.assumed.items())] = None
        return "raise"

    def _break(self, statement: ast.Break, scope: Scope) -> str:
        scope.jumps.append((dict(scope.vars), self.time))
        return "break"

    def _continue(self, statement: ast.Continue, scope: Scope) -> str:
        scope.jumps.append((dict(scope.vars), self.time))
        return "continue"

    def _if(self, statement: ast.If, scope: Scope) -> str:
        truth, when_true, when_false = self.test(statement.test, scope)
        if truth is True:
            return self.block(statement.body, scope)
        if truth is False:
            return self.block(statement.orelse, scope)
        self.line_node = statement
        return self.branches(
            [
                (lambda: self.block(statement.body, scope), when_true),
                (lambda: self.block(statement.orelse, scope), when_false),
            ],
            scope,
            ruled_out=self.ruled_out,
            first_arm=self.first_arm,
        )

    def _match(self, statement: ast.Match, scope: Scope) -> str:
        subject = self.value(statement.subject, scope)
        arms: list[tuple[Callable[[], str], Guard]] = []
        for case in statement.cases:
            known = self._matches(case.pattern, subject, scope)
            if known is False:
                continue
            arms.append((lambda case=case: self._case(case, subject, scope), ALWAYS))  # type: ignore[misc]
            if known is True and case.guard is None:
                break
        else:
            arms.append((lambda: GOES_ON, ALWAYS))
        return arms[0][0]() if len(arms) == 1 else self.branches(arms, scope)

    def _case(self, case: ast.match_case, subject: Any, scope: Scope) -> str:
        self._capture(case.pattern, subject, scope)
        if case.guard is not None:
            self.evaluate(case.guard, scope)
        return self.block(case.body, scope)

    def _matches(self, pattern: ast.pattern, subject: Any, scope: Scope) -> bool | None:
        if isinstance(pattern, ast.MatchAs) and pattern.pattern is None:
            return True
        if isinstance(pattern, ast.MatchValue) and isinstance(subject, Const):
            value = self.evaluate(pattern.value, scope)
            return value.value == subject.value if isinstance(value, Const) else None
        if isinstance(pattern, ast.MatchOr):
            answers = [self._matches(part, subject, scope) for part in pattern.patterns]
            return True if True in answers else None if None in answers else False
        return None

    def _capture(self, pattern: ast.pattern, subject: Any, scope: Scope) -> None:
        if isinstance(pattern, ast.MatchAs):
            if pattern.name:
                self._assign_name(pattern.name, subject, scope)
            if pattern.pattern is not None:
                self._capture(pattern.pattern, subject, scope)
        elif isinstance(pattern, ast.MatchSequence):
            for index, part in enumerate(pattern.patterns):
                if not isinstance(part, ast.MatchStar):
                    self._capture(part, self.get_item(subject, Const(index), f"[{index}]"), scope)
        elif isinstance(pattern, ast.MatchMapping):
            for key, part in zip(pattern.keys, pattern.patterns, strict=True):
                self._capture(part, self.get_item(subject, self.evaluate(key, scope), ""), scope)
        elif isinstance(pattern, ast.MatchClass):
            for name, part in zip(pattern.kwd_attrs, pattern.kwd_patterns, strict=True):
                self._capture(part, self.get_attribute(subject, name), scope)
            for index, part in enumerate(pattern.patterns):
                self._capture(part, self.get_item(subject, Const(index), f"[{index}]"), scope)

    def _try(self, statement: ast.Try, scope: Scope) -> str:
        ending = self.block(statement.body, scope)
        if ending == GOES_ON:
            ending = self.block(statement.orelse, scope)
        elif ending == "raise" and statement.handlers:
            handler = statement.handlers[0]
            if handler.name:
                self._assign_name(handler.name, Unknown(handler.name), scope)
            ending = self.block(handler.body, scope)
        final = self.block(statement.finalbody, scope) if statement.finalbody else GOES_ON
        return final or ending

    # -- loops -------------------------------------------------------------------------------------------------------
    def _for(self, statement: ast.For | ast.AsyncFor, scope: Scope) -> str:
        items, rest = self.iterate(self.value(statement.iter, scope))
        for item in items:
            self.assign(statement.target, item, scope)
            jumps, scope.jumps = scope.jumps, []
            ending = self.block(statement.body, scope)
            for snapshot, time in scope.jumps:
                self._join_locals(scope, snapshot, time)
            left = bool(scope.jumps)
            scope.jumps = jumps
            if ending in ("return", "raise") and not left:
                if rest is not None:
                    return GOES_ON
                return ending
            if ending == "break":
                break
        if rest is not None:
            stored, read = loop_names(statement)

            def body() -> str:
                self.count_with(rest)
                self.assign(statement.target, rest, scope)
                return self.block(statement.body, scope)

            self.loop(body, scope, stored, read)
        return self.block(statement.orelse, scope) if statement.orelse else GOES_ON

    def _while(self, statement: ast.While, scope: Scope) -> str:
        stored, read = loop_names(statement)

        def body() -> str:
            self.evaluate(statement.test, scope)
            return self.block(statement.body, scope)

        self.loop(body, scope, stored, read)
        return GOES_ON

    def loop(self, body: Callable[[], str], scope: Scope, stored: set[str], read: set[str]) -> str:
        """Run the body once for all iterations: what it carries along becomes a phi with a back edge.

        Where a plain value turns into a tensor (`hidden = None` before the first iteration), once more.
        """
        before = {name: scope.vars[name] for name in sorted(stored) if name in scope.vars}
        ending = self._iteration(body, scope, before)
        if self._turned_into_tensors(before, scope, read) and self.second_passes < 2:
            self.second_passes += 1
            ending = self._iteration(body, scope, {name: scope.vars[name] for name in before if name in scope.vars})
            self.second_passes -= 1
        return ending

    def _iteration(self, body: Callable[[], str], scope: Scope, before: dict[str, Any]) -> str:
        self.loop_counter += 1
        loop = Loop(self.loop_counter, start=self.time + 1)
        keys = self.loop_keys
        self.loops.append(loop)
        self.loop_keys = (*keys, loop.key)
        heads: dict[str, Any] = {}
        for name, value in before.items():
            head = self._head(value)
            if head is not value:
                heads[name] = head
                self.put(scope.vars, name, self._of_entries(head, loop) if isinstance(head, Mapping) else head)
        loop.start = self.time + 1
        jumps, scope.jumps = scope.jumps, []
        assumed = dict(self.assumed)
        ending = body()
        self.assumed = assumed
        for snapshot, time in scope.jumps:
            self._join_locals(scope, snapshot, time)
        scope.jumps = jumps
        for name, head in heads.items():
            self._connect(head, scope.vars.get(name))
        for container, key, head in list(loop.phis.values()):
            self._connect(head, container.get(key))
            self._connect_contents(head, container.get(key), loop)
        self.loops.pop()
        self.loop_keys = keys
        for name, head in heads.items():
            end = scope.vars.get(name, MISSING)
            if end is not head:
                self.put(scope.vars, name, self.join([(before[name], ALWAYS), (end, ALWAYS)], "exit"))
        self._turned_blank = any(
            isinstance(container.get(key), Node) or key is MISSING and self._holds_tensors(container.get(key))
            for (_, key), container in loop.blank_reads.items()
        )
        return ending

    _turned_blank = False

    def _turned_into_tensors(self, before: dict[str, Any], scope: Scope, read: set[str]) -> bool:
        if self._turned_blank:
            return True
        for name, value in before.items():
            if name in read and isinstance(value, (Const, Unknown)) and self._holds_tensors(scope.vars.get(name)):
                return True
        return False

    def _holds_tensors(self, value: Any) -> bool:
        if isinstance(value, Node):
            return value.leaf is None
        return isinstance(value, Sequence) and any(isinstance(item, Node) for item in value.items)

    def _head(self, value: Any) -> Any:
        if isinstance(value, Node):
            if value.leaf is not None and value.leaf.kind == "param":
                return value
            return self.phi([(self.current(value), ALWAYS)], "loop", value.name)
        if isinstance(value, Sequence) and value.rest is None and 0 < len(value.items) <= 12 and value.kind == "tuple":
            if any(isinstance(item, Node) for item in value.items):
                made = Sequence([self._head(item) for item in value.items], None, value.kind)
                made.names = value.names
                return made
        if isinstance(value, Mapping) and self.current_framework == "torch" and 0 < len(value.entries) <= 12:
            if all(isinstance(part, (Node, StateDict)) for part in value.entries.values()):  # weights, states
                return Mapping({key: self._head(self.tensor(part)) for key, part in value.entries.items()})
        return value

    def _of_entries(self, head: Mapping, loop: Loop) -> Mapping:
        """The mapping that the body starts with: what it does to its entries leaves the head as it is."""
        made = Mapping(dict(head.entries))
        for key, part in head.entries.items():
            if isinstance(part, Node) and part.op == "phi":
                loop.phis[id(made.entries), key] = (made.entries, key, part)
        return made

    def _connect(self, head: Any, end: Any) -> None:
        if isinstance(head, Node) and head.op == "phi" and head.detail == "loop":
            if end is None or isinstance(end, (Instance, Function, ClassValue)):
                return
            for node in self.nodes_of(end)[:12]:
                if node is not head and len(head.inputs) < 12 and all(edge.source is not node for edge in head.inputs):
                    head.inputs.append(Edge(node, True))
        elif isinstance(head, Sequence) and isinstance(end, Sequence):
            for one, other in zip(head.items, end.items, strict=False):
                self._connect(one, other)
        elif isinstance(head, Mapping) and isinstance(end, Mapping):
            for key, one in head.entries.items():
                self._connect(one, end.entries.get(key, end.rest))

    def _connect_contents(self, head: Node, end: Any, loop: Loop) -> None:
        """Storage of before the loop is something else from the second iteration on: so is what was read of it."""
        storage = self.aliases.get(head)
        if storage is None or not isinstance(end, Node) or self.aliases.get(end, end) is storage:
            return
        contents = loop.phis.get((id(self.versions), storage))
        if contents is not None:
            self._connect(contents[2], end)

    def _join_locals(self, scope: Scope, snapshot: dict[Any, Any], time: int) -> None:
        """What `continue` or `break` carried out of a loop's body at this time, beside what its end did."""
        self.joining = self.location(), (self.time, -time)
        for name, value in snapshot.items():
            current = scope.vars.get(name, MISSING)
            if current is not value:
                self.put(scope.vars, name, self.join([(current, ALWAYS), (value, ALWAYS)]))
        self.joining = None

    # -- definitions -------------------------------------------------------------------------------------------------
    def _exec_function(self, statement: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> str:
        self.line_node = statement
        if scope.parent is None and _defined(scope, statement):
            return GOES_ON  # already made when somebody asked for it
        self.put(scope.vars, statement.name, self.make_function(statement, scope))
        return GOES_ON

    def _exec_class(self, statement: ast.ClassDef, scope: Scope) -> str:
        if scope.parent is None and _defined(scope, statement):
            return GOES_ON
        self.put(scope.vars, statement.name, ClassValue(statement, scope.module, scope))
        return GOES_ON

    def _import(self, statement: ast.Import | ast.ImportFrom, scope: Scope) -> str:
        if isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names):
            return GOES_ON
        for alias in statement.names:
            bound = alias.asname or (alias.name.split(".")[0] if isinstance(statement, ast.Import) else alias.name)
            self.put(scope.vars, bound, self.imported(statement, alias, scope.module))
        return GOES_ON

    def _global(self, statement: ast.Global | ast.Nonlocal, scope: Scope) -> str:
        scope.globals.update(statement.names)
        return GOES_ON

    def _delete(self, statement: ast.Delete, scope: Scope) -> str:
        for target in statement.targets:
            if isinstance(target, ast.Subscript):
                owner = self.value(target.value, scope)
                if isinstance(owner, Sequence):  # `del memory[:]`
                    self.put(owner.cell, "items", ())
                    self.put(owner.cell, "rest", None)
                    self.put(owner.cell, "at", NOWHERE)
            elif isinstance(target, ast.Name):
                self.drop(scope.vars, target.id)
        return GOES_ON


def _is_refusal(stack: list[ast.AST]) -> bool:
    """Are we in a constructor, or in what it calls, on a way that nothing else may have left before?"""
    functions = [one for one in stack if isinstance(one, ast.FunctionDef)]
    first = next((number for number, one in enumerate(functions) if one.name == "__init__"), None)
    return first is not None and not any(map(_may_leave, functions[first:]))


@functools.lru_cache(maxsize=1024)
def _may_leave(function: ast.FunctionDef) -> bool:
    return any(isinstance(one, (ast.Return, ast.Try, ast.Yield, ast.For, ast.While)) for one in ast.walk(function))


@functools.lru_cache(maxsize=4096)
def loop_names(statement: ast.For | ast.AsyncFor | ast.While) -> tuple[set[str], set[str]]:
    """The names that a loop's body binds, and those it reads (its own functions and classes left out)."""
    stored: set[str] = set()
    read: set[str] = set()
    todo: list[ast.AST] = list(statement.body)
    if isinstance(statement, ast.While):
        todo.append(statement.test)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else stored).add(node.id)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            read.add(node.target.id)
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.AsyncFunctionDef)):
            todo += parts(node)
    return stored, read


def _name_parts(value: Sequence | Union, name: str) -> None:
    """What is one of several networks is called what these are first kept as."""
    parts = value.alternatives if isinstance(value, Union) else (*value.items[:MOST_NAMED], value.rest)
    for number, part in enumerate(parts):
        if isinstance(part, Instance) and not part.network.name:
            part.network.name = f"{name}.{number}" if isinstance(value, Sequence) and part is not value.rest else name


def _is_stop_call(expression: ast.expr) -> bool:
    """`x.detach()`, `stop_gradient(x)`: a statement that does nothing."""
    function = expression.func if isinstance(expression, ast.Call) else None
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("detach", "stop_gradient")


@functools.lru_cache(maxsize=512)
def _rewritten(around: ast.AST, statement: ast.Assign, name: str) -> bool:
    """Is the next statement of its block that has the name one that writes it? What an inner function has, it reads."""
    if any(_has(name, one) for one in ast.walk(around) if isinstance(one, FUNCTIONS) and one is not around):
        return False
    blocks = (block for one in ast.walk(around) for _, block in ast.iter_fields(one) if isinstance(block, list))
    block = next((block for block in blocks if statement in block), [])
    for later in block[block.index(statement) + 1 :] if block else ():
        uses = [type(one.ctx) for one in ast.walk(later) if isinstance(one, ast.Name) and one.id == name]
        if uses:
            targets = later.targets if isinstance(later, ast.Assign) else ()
            return uses == [ast.Store] and any(isinstance(one, ast.Name) and one.id == name for one in targets)
    return False


@functools.lru_cache(maxsize=512)
def _in_loop_only(around: ast.AST, statement: ast.Assign, name: str) -> bool:
    """Is it the name of the loop that the statement stands in, which nobody reads any more before the next round?"""
    loops = [one for one in ast.walk(around) if isinstance(one, ast.For) and _has(name, one.target)]
    loop = next((one for one in loops if statement in one.body), None)
    if loop is None:
        return False
    later = loop.body[loop.body.index(statement) + 1 :]
    return not any(_has(name, one) for one in later) and not any(
        _has(name, one) for one in ast.walk(loop) if isinstance(one, FUNCTIONS)
    )


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _has(name: str, around: ast.AST) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(around))


def _defined(scope: Scope, statement: Any) -> bool:
    known = scope.vars.get(statement.name)
    while isinstance(known, (Partial, Gradient)):
        known = known.function
    return getattr(known, "node", None) is statement


@functools.lru_cache(maxsize=4096)
def _as_load(target: ast.expr) -> ast.expr:
    """`x += 1` reads x, too."""
    loaded = copy.copy(target)
    loaded.ctx = ast.Load()  # type: ignore[attr-defined]
    return loaded


HANDLERS: dict[type, Callable[[Any, Any, Scope], str]] = {
    ast.Expr: Statements._expression,
    ast.Assign: Statements._assign,
    ast.AnnAssign: Statements._annotated,
    ast.AugAssign: Statements._augmented,
    ast.Return: Statements._return,
    ast.Raise: Statements._raise,
    ast.Break: Statements._break,
    ast.Continue: Statements._continue,
    ast.If: Statements._if,
    ast.Match: Statements._match,
    ast.Try: Statements._try,
    ast.With: Contexts.enter,
    ast.AsyncWith: Contexts.enter,
    ast.For: Statements._for,
    ast.AsyncFor: Statements._for,
    ast.While: Statements._while,
    ast.FunctionDef: Statements._exec_function,
    ast.AsyncFunctionDef: Statements._exec_function,
    ast.ClassDef: Statements._exec_class,
    ast.Import: Statements._import,
    ast.ImportFrom: Statements._import,
    ast.Global: Statements._global,
    ast.Nonlocal: Statements._global,
    ast.Delete: Statements._delete,
}
