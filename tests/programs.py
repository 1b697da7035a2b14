"""A whole program as something that check can audit: what it builds first, then a function that trains.

    networks, optimizers and batches    run when the module is loaded, under the names that the program gives them
    program()                           everything from the first statement that leads to a backward pass

The statements keep their lines. A program whose main block only calls a function (`main()`, `train(steps=2)`) is split
inside of that function.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from gradaudit.dynamic.target import Target, describe

TRAINS = frozenset("backward manual_backward grad value_and_grad vjp step train_on_batch".split())
MAKERS = frozenset("optim requires_grad_ deepcopy load_state_dict Parameter Optimizer TrainState init".split())
ENTRY = "program"


def load(path: Path, others: Iterable[Path] = ()) -> Target:
    """The program at `path`, built, as a target. It must be run from the start for every audit: it is not kept.

    `others` are the files that it imports from.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [ast.parse(other.read_text(encoding="utf-8")) for other in others if other != path]
    module = ModuleType(f"program_{path.parent.name}_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = sys.modules["__main__"] = module
    home = path.parent
    if home.name.startswith("pkg_"):
        module.__package__, home = home.name, home.parent
    if str(home) not in sys.path:
        sys.path.insert(0, str(home))
    exec(compile(_split(tree, imported), str(path), "exec"), vars(module))
    target = describe(f"{path.name}:{ENTRY}", vars(module)[ENTRY], module)
    target.roots = (*target.roots, str(path.parent))
    return target


def _split(tree: ast.Module, imported: Sequence[ast.Module] = ()) -> ast.Module:
    """The module with everything from the first training statement on inside of a function."""
    every = [node for one in (tree, *imported) for node in ast.walk(one)]
    training = _training_functions(every)
    classes = frozenset(one.name for one in every if isinstance(one, ast.ClassDef))
    training |= {one.name for one in every if isinstance(one, ast.ClassDef) and _trains_when_called(one, training)}
    before, rest = _main(tree)
    for _ in range(4):
        called = _only_call(rest, tree)
        if called is None or not any(_builds(one, classes) for one in called[0].body):
            break
        rest = [*_bound(called[0], called[1]), *_body(called[0])]
    trains = [i for i, one in enumerate(rest) if _mentions(one, training)]
    first = next(
        (i for i in trains if not any(_builds(one, classes) for one in rest[i:])), trains[0] if trains else len(rest)
    )
    number = max((i + 1 for i, one in enumerate(rest[:first]) if _builds(one, classes)), default=0)
    if number == 0 and first < len(rest) and (receiver := _receiver(rest[first], classes)) is not None:
        number, rest[first:first] = first + 1, [receiver]
    built, trained = [*before, *rest[:number]], rest[number:]
    return ast.fix_missing_locations(ast.Module([*built, _function(trained)], []))


def _main(tree: ast.Module) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """(definitions, what runs): the main block, or all that is neither an import nor a definition."""
    for number, one in enumerate(tree.body):
        if isinstance(one, ast.If) and "__name__" in ast.unparse(one.test):
            return [*tree.body[:number], *tree.body[number + 1 :]], one.body
    first = next((i for i, one in enumerate(tree.body) if _runs(one)), len(tree.body))
    return tree.body[:first], tree.body[first:]


def _runs(statement: ast.stmt) -> bool:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Expr)
    return not isinstance(statement, definitions) or (
        isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
    )


def _functions(tree: ast.AST) -> dict[str, ast.FunctionDef]:
    return {one.name: one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}


def _training_functions(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Names of functions and methods that lead to a backward pass, by the names that they call."""
    bodies = {one.name: _called(one) for one in nodes if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    training = set(TRAINS - {"step"})
    while more := {name for name, called in bodies.items() if name not in training and called & training}:
        training |= more
    return frozenset(training)


def _trains_when_called(kind: ast.ClassDef, training: frozenset[str]) -> bool:
    return any(
        isinstance(one, ast.FunctionDef) and one.name == "__call__" and one.name in training for one in kind.body
    )


def _called(node: ast.AST) -> frozenset[str]:
    """The last names of everything that is called below, or handed on by name."""
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
    names = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    return frozenset(names | {one.func.id for one in calls if isinstance(one.func, ast.Name)})


def _mentions(statement: ast.stmt, training: frozenset[str]) -> bool:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return False
    return bool(_called(statement) & training)


def _builds(statement: ast.stmt, classes: frozenset[str]) -> bool:
    """Whether it makes a network or an optimizer, or freezes or copies one."""
    for one in ast.walk(statement):
        name = getattr(one, "attr", "") or getattr(one, "id", "")
        layer = isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in ("nn", "nnx")
        if (layer and name[:1].isupper()) or name in MAKERS:
            return True
        if isinstance(one, ast.Call) and getattr(one.func, "attr", "") + getattr(one.func, "id", "") in classes:
            return True
    return False


def _only_call(statements: Sequence[ast.stmt], tree: ast.Module) -> tuple[ast.FunctionDef, ast.Call] | None:
    """The module's function that the statements do nothing but call, if it is one and can be opened."""
    if len(statements) != 1 or not isinstance(statements[0], ast.Expr):
        return None
    call: ast.expr = statements[0].value
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print" and call.args:
        call = call.args[0]
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    found = next((one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == call.func.id), None)
    unpacked = any(one.arg is None for one in call.keywords) or any(isinstance(one, ast.Starred) for one in call.args)
    if found is None or unpacked or found.decorator_list or not _can_be_opened(found):
        return None
    return found, call


def _can_be_opened(function: ast.FunctionDef) -> bool:
    """Whether its body means the same at module level: it returns at its end at most and shares no variables."""
    returns = [one for one in ast.walk(function) if isinstance(one, ast.Return | ast.Yield | ast.YieldFrom)]
    inner = [one for one in ast.walk(function) if isinstance(one, ast.FunctionDef | ast.Lambda) and one is not function]
    inside = {id(below) for one in inner for below in ast.walk(one)}
    own = [one for one in returns if id(one) not in inside]
    last = function.body[-1]
    variadic = function.args.vararg or function.args.kwarg
    return (
        not variadic
        and all(one is last and isinstance(one, ast.Return) for one in own)
        and not any(isinstance(one, ast.Nonlocal) for one in ast.walk(function))
    )


def _bound(function: ast.FunctionDef, call: ast.Call) -> list[ast.stmt]:
    """Assignments of a call's arguments, and of the defaults, to the parameters."""
    arguments = function.args
    names = [one.arg for one in arguments.args]
    values = dict(zip(names[len(names) - len(arguments.defaults) :], arguments.defaults, strict=True))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            values[one.arg] = default
    values |= dict(zip(names, call.args, strict=False))
    values |= {one.arg: one.value for one in call.keywords if one.arg}
    return [
        ast.copy_location(ast.Assign([ast.copy_location(ast.Name(name, ast.Store()), value)], value), value)
        for name, value in values.items()
    ]


def _body(function: ast.FunctionDef) -> list[ast.stmt]:
    """The statements, without the last `return`."""
    last = function.body[-1]
    if not isinstance(last, ast.Return):
        return function.body
    rest = [] if last.value is None else [ast.copy_location(ast.Expr(last.value), last)]
    return [*function.body[:-1], *rest]


def _receiver(statement: ast.stmt, classes: frozenset[str]) -> ast.stmt | None:
    """`agent_ = Agent()` for a statement `Agent().train()` or `Agent()(batch)`, which then uses the name."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return None
    function = statement.value.func
    made = function.value if isinstance(function, ast.Attribute) else function
    if not isinstance(made, ast.Call) or getattr(made.func, "id", "") not in classes:
        return None
    name = ENTRY + "_agent"
    kept = ast.copy_location(ast.Name(name, ast.Load()), made)
    if isinstance(function, ast.Attribute):
        function.value = kept
    else:
        statement.value.func = kept
    return ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], made), made)


def _function(statements: list[ast.stmt]) -> ast.FunctionDef:
    stored = sorted(set(_stored(statements)))
    body: list[ast.stmt] = [ast.Global(stored)] if stored else []
    empty = ast.parse(f"def {ENTRY}():\n    pass").body[0]
    assert isinstance(empty, ast.FunctionDef)
    empty.body = [*body, *statements, ast.parse("pass").body[0]]
    return empty


def _stored(nodes: Iterable[ast.AST]) -> Iterable[str]:
    """Names that the statements bind in their own scope."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
            continue
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        yield from _stored(ast.iter_child_nodes(node))
