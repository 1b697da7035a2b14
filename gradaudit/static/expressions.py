"""Expressions: a table of small handlers by node type."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.state import OutOfBudget, Scope
from gradaudit.static.values import (
    FALSE,
    MISSING,
    NONE,
    OPTIONAL,
    TRUE,
    Bound,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Super,
    Union,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Edge, Node

BINARY: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv),
    ast.Pow: ("pow", operator.pow),
    ast.MatMult: ("matmul", operator.matmul),
    ast.FloorDiv: ("floordiv", operator.floordiv),
    ast.Mod: ("mod", operator.mod),
    ast.BitAnd: ("and", operator.and_),
    ast.BitOr: ("or", operator.or_),
    ast.BitXor: ("xor", operator.xor),
    ast.LShift: ("shift", operator.lshift),
    ast.RShift: ("shift", operator.rshift),
}
OPERATOR_METHODS = {
    "add": "__add__", "sub": "__sub__", "mul": "__mul__", "div": "__truediv__", "matmul": "__matmul__",
}  # fmt: skip
GRADIENTLESS = frozenset({"floordiv", "and", "or", "xor", "shift"})
VARIABLE_PROPERTIES = frozenset({"trainable_variables", "trainable_weights", "variables", "weights"})
NOT_VALUES = frozenset({
    "size", "dim", "numel", "item", "numpy", "tolist", "detach", "cpu", "cuda", "to", "float", "double", "half",
    "backward", "shape", "dtype", "device", "ndim",
})  # fmt: skip
COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.Gt: operator.gt, ast.LtE: operator.le,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


class Expressions(Machine):
    def evaluate(self, expression: ast.expr, scope: Scope) -> Any:
        self.evaluations += 1
        if self.evaluations > self.limit:
            raise OutOfBudget
        return HANDLERS[type(expression)](self, expression, scope)

    def _other(self, expression: ast.expr, scope: Scope) -> Any:
        for child in ast.iter_child_nodes(expression):
            if isinstance(child, ast.expr):
                self.evaluate(child, scope)
        return Unknown("?")

    def value(self, expression: ast.expr, scope: Scope) -> Any:
        self.evaluations += 1  # `evaluate`, written out: nothing is asked as often
        if self.evaluations > self.limit:
            raise OutOfBudget
        value = HANDLERS[type(expression)](self, expression, scope)
        return self.settle(value) if type(value) is Bound else value

    def settle(self, value: Any) -> Any:
        """A method of a tensor that is used as a value (`dist.logits`, `out.loss`) is a part of that tensor."""
        if type(value) is not Bound:
            return value
        if isinstance(value.receiver, Node):
            return self.attribute_value(value.receiver, value.name)
        if value.name in VARIABLE_PROPERTIES:
            return self.call_method(value.receiver, value.name, [], {})
        return value

    def attribute_value(self, node: Node, name: str) -> Any:
        if name in NOT_VALUES:
            return Bound(node, name)
        row = self.hints.models.method("Tensor", name)
        if row is not None and row.kind in ("constant", "stop"):
            return self.stop(node, "." + name)
        return self.node("getitem", [Edge(node)], detail="." + name, name=name)

    # -- leaves of the syntax ----------------------------------------------------------------------------------------
    def _eval_constant(self, expression: ast.Constant, scope: Scope) -> Any:
        value = expression.value
        if value is None:
            return NONE
        if value is True:
            return TRUE
        if value is False:
            return FALSE
        return Const(value)

    def _name(self, expression: ast.Name, scope: Scope) -> Any:
        self.line_node = expression
        value = scope.vars.get(expression.id)
        if value is None:
            value = self.lookup_name(expression.id, scope)
        return self._left(value) if self.without and isinstance(value, Union) else value

    def _left(self, value: Union) -> Any:
        """What is left of several values where `isinstance` has ruled out some of them."""
        parts = self.possible(value)
        if len(parts) == len(value.alternatives):
            return value
        return parts[0] if len(parts) == 1 else Union(parts, tuple(value.guard_of(part) for part in parts))

    def _attribute(self, expression: ast.Attribute, scope: Scope) -> Any:
        value = self.value(expression.value, scope)
        self.line_node = expression
        return self.get_attribute(value, expression.attr)

    def _joined(self, expression: ast.JoinedStr, scope: Scope) -> Any:
        parts = []
        for part in expression.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue):
                value = self.evaluate(part.value, scope)
                if not isinstance(value, Const):
                    return plain("text")
                parts.append(str(value.value))
        return Const("".join(parts))

    def _lambda(self, expression: ast.Lambda, scope: Scope) -> Any:
        scope.captured = True
        return Function(expression, scope.module, scope)

    # -- displays ----------------------------------------------------------------------------------------------------
    def _eval_sequence(self, expression: ast.Tuple | ast.List | ast.Set, scope: Scope) -> Any:
        items: list[Any] = []
        rest: Any = None
        for part in expression.elts:
            if isinstance(part, ast.Starred):
                inner = self.value(part.value, scope)
                if isinstance(inner, Sequence):
                    items += inner.items
                    inner_rest = inner.rest
                else:
                    inner_rest = self.element(inner)
                if inner_rest is not None:
                    rest = inner_rest if rest is None else self.join([(rest, ALWAYS), (inner_rest, ALWAYS)])
            else:
                items.append(self.value(part, scope))
        if not self.is_snapshot(expression):
            items = self.distinct(items)
        made = Sequence(items, rest, "tuple" if isinstance(expression, ast.Tuple) else "list")
        made.time = self.tick()
        return made

    def _eval_dict(self, expression: ast.Dict, scope: Scope) -> Any:
        made = Mapping()
        values = self.distinct([self.value(part, scope) for part in expression.values])
        for key_expression, value in zip(expression.keys, values, strict=True):
            if key_expression is None:
                if isinstance(value, Mapping):
                    made.entries.update(value.entries)
                else:
                    self._add_rest(made, value)
                continue
            key = self.evaluate(key_expression, scope)
            if isinstance(key, Const) and _hashable(key.value):
                if isinstance(key.value, str) and isinstance(value, Instance):
                    self.adopt(made, key.value, value)
                if self.originals and isinstance(key.value, str):
                    self.named_tree(value, key.value)
                if self.current_framework == "jax" and key.value in made.entries:
                    self.replaced_entry(made.entries[key.value], value)
                made.entries[key.value] = value
            else:
                self._add_rest(made, value)
        return made

    def _add_rest(self, mapping: Mapping, value: Any) -> None:
        old = mapping.rest
        mapping.entries[MISSING] = value if old is None else self.join([(old, ALWAYS), (value, ALWAYS)])

    # -- comprehensions ----------------------------------------------------------------------------------------------
    def _comprehension(self, expression: Any, scope: Scope) -> Any:
        inner = Scope(scope, scope.module)
        inner.returns, inner.yields = scope.returns, scope.yields
        known: list[Any] = []
        more: list[Any] = []
        mapping = Mapping() if isinstance(expression, ast.DictComp) else None

        def produce(many: bool) -> None:
            if mapping is not None:
                key = self.evaluate(expression.key, inner)
                value = self.value(expression.value, inner)
                if isinstance(key, Const) and _hashable(key.value):
                    mapping.entries[key.value] = value
                else:
                    self._add_rest(mapping, value)
            else:
                (more if many else known).append(self.value(expression.elt, inner))

        def descend(depth: int, many: bool) -> None:
            if depth == len(expression.generators):
                produce(many)
                return
            generator = expression.generators[depth]
            items, rest = self.iterate(self.value(generator.iter, scope if depth == 0 else inner))
            for item in items:
                self.assign(generator.target, item, inner)
                if all(self.test(condition, inner)[0] is not False for condition in generator.ifs):
                    descend(depth + 1, many)
            if rest is not None:
                self.assign(generator.target, rest, inner)
                for condition in generator.ifs:
                    self.evaluate(condition, inner)
                self.many += 1
                descend(depth + 1, True)
                self.many -= 1

        descend(0, False)
        if mapping is not None:
            return mapping
        rest = None
        for value in more:
            rest = value if rest is None else self.join([(rest, ALWAYS), (value, ALWAYS)])
        return Sequence(known, rest, "list")

    # -- operators ---------------------------------------------------------------------------------------------------
    def _binary(self, expression: ast.BinOp, scope: Scope) -> Any:
        left = self.value(expression.left, scope)
        right = self.value(expression.right, scope)
        self.line_node = expression
        return self.binary(type(expression.op), left, right)

    def binary(self, kind: type, left: Any, right: Any) -> Any:
        op, compute = BINARY[kind]
        if isinstance(left, Const) and isinstance(right, Const):
            return _fold(compute, left.value, right.value)
        if isinstance(left, Sequence):
            if op == "add" and isinstance(right, Sequence):
                rests = [(value.rest, ALWAYS) for value in (left, right) if value.rest is not None]
                return Sequence(left.items + right.items, self.join(rests) if rests else None, left.kind)
            if op == "mul" and not isinstance(right, Node):
                return self._repeat(left, right)
        if op == "or" and isinstance(left, Mapping) and isinstance(right, Mapping):
            return Mapping({**left.entries, **right.entries})
        if op == "add" and (isinstance(left, Parameters) or isinstance(right, Parameters)):
            return Parameters(tuple(dict.fromkeys([*self.held_by(left), *self.held_by(right)])))
        if isinstance(left, Instance) and left.cls is not None and op in OPERATOR_METHODS:
            method, owner = self.member(left.cls, OPERATOR_METHODS[op])
            if isinstance(method, Function):
                return self.call_function(method.bind(left, owner), [right], {})
        if not self._tensor_like(left) and not self._tensor_like(right):
            return self._scalar(op, left, right)
        return self.node(op, [Edge(self.tensor(left)), Edge(self.tensor(right))], passes=op not in GRADIENTLESS)

    def _repeat(self, sequence: Sequence, count: Any) -> Sequence:
        if isinstance(count, Const) and isinstance(count.value, int) and 0 <= count.value * len(sequence.items) <= 8:
            return Sequence(sequence.items * count.value, sequence.rest, sequence.kind)
        return Sequence((), sequence.items[0] if sequence.items else sequence.rest, sequence.kind)

    def _tensor_like(self, value: Any) -> bool:
        if isinstance(value, Node):
            return True
        if isinstance(value, Unknown):
            return not value.plain
        if isinstance(value, (Const, Function, External, Bound)):
            return False
        if isinstance(value, StateDict):
            return True
        return bool(self.nodes_of(value))

    def _scalar(self, op: str, left: Any, right: Any) -> Any:
        return plain(op)

    def _unary(self, expression: ast.UnaryOp, scope: Scope) -> Any:
        if isinstance(expression.op, ast.Not):
            truth, _, _ = self.test(expression.operand, scope)
            if truth is not None:
                return FALSE if truth else TRUE
            return self._negation(self.value(expression.operand, scope))
        value = self.value(expression.operand, scope)
        self.line_node = expression
        if isinstance(value, Const):
            try:
                return Const(-value.value if isinstance(expression.op, ast.USub) else value.value)  # type: ignore[operator]
            except TypeError:
                return value
        if isinstance(expression.op, ast.UAdd):
            return value
        if isinstance(value, (Unknown, Node)):
            op = "neg" if isinstance(expression.op, ast.USub) else "not"
            return self.node(op, [Edge(self.tensor(value))], passes=op == "neg")
        return Unknown("?")

    def _negation(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self.node("not", [Edge(value)], passes=False)
        made = Unknown("not")
        made.plain = True
        if isinstance(value, Unknown):
            made.flag_of = ("not", value)
            if isinstance(value.default, bool):
                made.default = not value.default
        return made

    def _boolean(self, expression: ast.BoolOp, scope: Scope) -> Any:
        values = [self.value(part, scope) for part in expression.values]
        stop_at = isinstance(expression.op, ast.Or)
        for index, value in enumerate(values):
            truth = self.truth(value)
            if truth is stop_at:
                kept = values[: index + 1]
                break
            if truth is None:
                kept = values[index:]
                break
        else:
            return values[-1]
        if len(kept) == 1 or kept[0] is values[-1]:
            return kept[-1]
        tensors = [value for value in kept if not isinstance(value, (Const, Unknown)) or isinstance(value, Node)]
        if tensors:
            return self.join([(value, ALWAYS) for value in kept])
        objects = [value for value in kept if self._is_object(value)] if stop_at else []
        if objects:  # `critic2 or deepcopy(critic)`: what is made here unless somebody gives another one
            return objects[-1]
        made = Unknown("condition")
        made.plain = True
        made.flag_of = ("or" if stop_at else "and", tuple(kept))
        return made

    def _is_object(self, value: Any) -> bool:
        """A network, or something of a class that an annotation names: no flag and no number."""
        said = value.annotation if isinstance(value, Unknown) else None
        return self.is_module(value) or isinstance(said, (ClassValue, External))

    def _compare(self, expression: ast.Compare, scope: Scope) -> Any:
        left = self.value(expression.left, scope)
        rights = [self.value(part, scope) for part in expression.comparators]
        self.line_node = expression
        kind = expression.ops[0]
        if len(rights) == 1:
            known = self._known_comparison(kind, left, rights[0])
            if known is not None:
                return TRUE if known else FALSE
        if isinstance(left, Node) or any(isinstance(right, Node) for right in rights):
            return self.node("compare", [Edge(self.tensor(part), False) for part in (left, *rights)], passes=False)
        made = Unknown("condition")
        made.plain = True
        made.flag_of = ("compare", type(kind).__name__, left, rights[0])
        return made

    def _known_comparison(self, kind: ast.cmpop, left: Any, right: Any) -> bool | None:
        if isinstance(kind, (ast.Is, ast.IsNot)) and isinstance(right, Const) and right.value is None:
            is_none = self.is_none(left)
            return None if is_none is None else is_none == isinstance(kind, ast.Is)
        if isinstance(left, Const) and isinstance(right, Const):
            try:
                return bool(COMPARE[type(kind)](left.value, right.value))
            except TypeError:
                return None
        if isinstance(kind, (ast.In, ast.NotIn)) and isinstance(left, Const):
            if isinstance(right, Mapping) and right.rest is None and not isinstance(left.value, slice):
                return (left.value in right.entries) == isinstance(kind, ast.In)
            if isinstance(right, Sequence) and right.rest is None and all(isinstance(i, Const) for i in right.items):
                return any(item.value == left.value for item in right.items) == isinstance(kind, ast.In)  # type: ignore[attr-defined]
        return None

    def is_none(self, value: Any) -> bool | None:
        if isinstance(value, Const):
            return value.value is None
        if isinstance(value, Unknown):
            return None if value.instance is None else False
        if isinstance(value, Union):
            answers = {self.is_none(part) for part in value.alternatives}
            return answers.pop() if len(answers) == 1 else None
        return None if isinstance(value, Node) and value.op == "phi" and value.detail == OPTIONAL else False

    def _conditional(self, expression: ast.IfExp, scope: Scope) -> Any:
        truth, when_true, when_false = self.test(expression.test, scope)
        if truth is True:
            return self.value(expression.body, scope)
        if truth is False:
            return self.value(expression.orelse, scope)
        return self.choose(
            [
                (lambda: self.value(expression.body, scope), when_true),
                (lambda: self.value(expression.orelse, scope), when_false),
            ],
            expression,
            self.ruled_out,
            self.first_arm,
        )

    def choose(
        self,
        arms: list[tuple[Callable[[], Any], Any]],
        at: ast.AST,
        ruled_out: tuple[frozenset[Any], ...],
        first_arm: int | None,
    ) -> Any:
        """Evaluate each arm under its literals, without what it rules out, and join what they give. What is not in the
        arm of a loop's first iteration does not come from before the loop."""
        results = []
        without = self.without
        for (evaluate, literals), absent in zip(arms, ruled_out, strict=True):
            saved = dict(self.assumed)
            self.assumed.update(literals)
            self.without = without | absent
            self.undecided += 1
            results.append((evaluate(), literals))
            self.undecided -= 1
            self.assumed = saved
        self.without = without
        self.line_node = at
        if first_arm is not None:
            self.cut_entry(results[1 - first_arm][0])
        return self.join(results, "switch" if any(literals for _, literals in arms) else "")

    # -- subscripts, calls and the rest ------------------------------------------------------------------------------
    def _subscript(self, expression: ast.Subscript, scope: Scope) -> Any:
        value = self.value(expression.value, scope)
        index = self.value(expression.slice, scope)
        self.line_node = expression
        return self.get_item(value, index, index_text(expression.slice) if isinstance(value, (Node, Unknown)) else "")

    def _slice(self, expression: ast.Slice, scope: Scope) -> Any:
        parts = [
            self.value(part, scope) if part is not None else NONE
            for part in (expression.lower, expression.upper, expression.step)
        ]
        if all(isinstance(part, Const) for part in parts):
            try:
                return Const(slice(*(part.value for part in parts)))
            except TypeError:
                return plain("slice")
        return plain("slice")

    def _call(self, expression: ast.Call, scope: Scope) -> Any:
        function = self.evaluate(expression.func, scope)
        args: list[Any] = []
        keywords: dict[str, Any] = {}
        extra: Any = None
        for part in expression.args:
            if isinstance(part, ast.Starred):
                inner = self.value(part.value, scope)
                if isinstance(inner, Sequence):
                    args += inner.items
                    extra = inner.rest if inner.rest is not None else extra
                elif isinstance(inner, Mapping):
                    args += [Const(key) for key in inner.known()]
                else:
                    extra = self.element(inner)
            else:
                args.append(self.value(part, scope))
        for keyword in expression.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is not None:
                keywords[keyword.arg] = value
            elif isinstance(value, Mapping):
                keywords.update({key: entry for key, entry in value.known().items() if isinstance(key, str)})
                extra = value.rest if value.rest is not None else extra
            else:
                extra = value
        self.line_node = expression
        if self.doubled:
            self.note_names(expression, function, args, scope)
        if type(function) is External and function.path in ("builtins.super", "builtins.locals"):
            return self._eval_super(args, scope) if function.path[9:] == "super" else Mapping(dict(scope.vars))
        if type(function) is Function:
            result = self.call_function(function, args, keywords, extra=extra)
        else:
            result = self.call(function, args, keywords, extra)
        self.line_node = expression
        return result

    def _eval_super(self, args: list[Any], scope: Scope) -> Any:
        cls = args[0] if args and hasattr(args[0], "mro") else scope.cls
        return Super(cls, scope.self_value) if cls is not None else Unknown("super")

    def _named(self, expression: ast.NamedExpr, scope: Scope) -> Any:
        value = self.value(expression.value, scope)
        self.assign(expression.target, value, scope)
        return value

    def _inner(self, expression: ast.Starred | ast.Await, scope: Scope) -> Any:
        return self.evaluate(expression.value, scope)

    def _yield(self, expression: ast.Yield, scope: Scope) -> Any:
        given = self.value(expression.value, scope) if expression.value is not None else NONE
        if scope.around is not None:
            scope.around(given)
            return NONE
        scope.yields.append(given)
        return Unknown("sent")

    def _yield_from(self, expression: ast.YieldFrom, scope: Scope) -> Any:
        inner = self.value(expression.value, scope)
        known = inner.yielded if isinstance(inner, Sequence) else ()
        scope.yields += known or [self.element(inner)]
        return Unknown("sent")


def index_text(expression: ast.expr) -> str:
    """The index as part of an operation's identity."""
    if isinstance(expression, ast.Constant):
        return f"[{expression.value!r}]"
    if isinstance(expression, ast.Name):
        return f"[{expression.id}]"
    try:
        return f"[{ast.unparse(expression)}]"
    except (ValueError, RecursionError):
        return "[?]"


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _fold(compute: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes, list)) or isinstance(right, (str, bytes, list)):
        if not (isinstance(left, str) and isinstance(right, str)):
            return plain("text")
    elif isinstance(left, (int, float)) and isinstance(right, (int, float)):
        if compute in (operator.pow, operator.lshift) and (abs(right) > 64 or abs(left) > 1e6):
            return plain("number")
    try:
        return Const(compute(left, right))
    except Exception:  # noqa: BLE001 - the user's arithmetic may fail in any way; then the value is not known
        return plain("number")


HANDLERS: dict[type, Callable[[Any, Any, Scope], Any]] = {
    ast.Constant: Expressions._eval_constant,
    ast.Name: Expressions._name,
    ast.Attribute: Expressions._attribute,
    ast.JoinedStr: Expressions._joined,
    ast.Lambda: Expressions._lambda,
    ast.Tuple: Expressions._eval_sequence,
    ast.List: Expressions._eval_sequence,
    ast.Set: Expressions._eval_sequence,
    ast.Dict: Expressions._eval_dict,
    ast.ListComp: Expressions._comprehension,
    ast.SetComp: Expressions._comprehension,
    ast.GeneratorExp: Expressions._comprehension,
    ast.DictComp: Expressions._comprehension,
    ast.BinOp: Expressions._binary,
    ast.UnaryOp: Expressions._unary,
    ast.BoolOp: Expressions._boolean,
    ast.Compare: Expressions._compare,
    ast.IfExp: Expressions._conditional,
    ast.Subscript: Expressions._subscript,
    ast.Slice: Expressions._slice,
    ast.Call: Expressions._call,
    ast.NamedExpr: Expressions._named,
    ast.Starred: Expressions._inner,
    ast.Await: Expressions._inner,
    ast.Yield: Expressions._yield,
    ast.YieldFrom: Expressions._yield_from,
}
for kind in ast.expr.__subclasses__():
    HANDLERS.setdefault(kind, Expressions._other)
