"""JAX: which entries of a gradient the program goes on with: `jax.grad(loss)(params)["policy"]`.

What is computed for the other entries is thrown away: to the program the loss is differentiated for these alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

ENTRIES = (ast.Subscript, ast.Attribute)
OF_ARRAYS = frozenset("shape dtype size ndim T at mean sum items keys values copy astype reshape ravel flatten".split())
"""What is asked of one array, or of a dictionary as a whole."""


def entries_taken(call: ast.Call, around: ast.AST, with_value: bool, has_aux: bool) -> frozenset[str] | None:
    """The keys by which all of the text of `around` takes the gradient that `call` returns; None where it is taken as
    a whole, or where that cannot be told."""
    for node in ast.walk(around):
        if isinstance(node, ENTRIES) and node.value is call and not with_value and not has_aux:
            key = _key(node)
            return None if key is None else frozenset([key])
        if isinstance(node, ast.Assign) and node.value is call and len(node.targets) == 1:
            name = _gradient_name(node.targets[0], with_value, has_aux)
            return None if name is None else _keys_of(name, _read_in(node, name, around))
    return None


def _gradient_name(target: ast.expr, with_value: bool, has_aux: bool) -> str | None:
    """What the text calls the gradient: `(loss, aux), grads = ...`, `grads, aux = ...`, `grads = ...`."""
    if with_value or has_aux:
        if not isinstance(target, ast.Tuple) or len(target.elts) != 2:
            return None
        target = target.elts[1 if with_value else 0]
    return target.id if isinstance(target, ast.Name) else None


def _read_in(assign: ast.Assign, name: str, around: ast.AST) -> Iterable[ast.AST]:
    """Where what is assigned here may be read: up to where the function gives the name to something else."""
    body = getattr(around, "body", None)
    if not isinstance(body, list) or assign not in body:
        return [around]
    after = body[body.index(assign) + 1 :]
    again = (index for index, statement in enumerate(after) if _binds(statement, name))
    return after[: next(again, len(after)) + 1]


def _binds(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(part, ast.Name) and part.id == name for target in targets for part in ast.walk(target))


def _keys_of(name: str, places: Iterable[ast.AST]) -> frozenset[str] | None:
    read = [node for place in places for node in ast.walk(place)]
    entries = {
        node.value: _key(node)
        for node in read
        if isinstance(node, ENTRIES) and isinstance(node.value, ast.Name) and node.value.id == name
    }
    reads = [node for node in read if isinstance(node, ast.Name) and node.id == name]
    keys = {entries.get(node) for node in reads if isinstance(node.ctx, ast.Load)}
    found = frozenset(key for key in keys if key is not None)
    return found if found and len(found) == len(keys) else None


def _key(node: ast.Subscript | ast.Attribute) -> str | None:
    """`grads["actor"]`, and of a named tuple or a module `grads.actor`."""
    if isinstance(node, ast.Attribute):
        return node.attr if isinstance(node.ctx, ast.Load) and node.attr not in OF_ARRAYS else None
    known = node.slice.value if isinstance(node.slice, ast.Constant) else None
    return known if isinstance(known, str) and isinstance(node.ctx, ast.Load) else None


STEPS = frozenset(("apply_updates", "update", "grad", "value_and_grad", "tree_map", "map", "incremental_update"))
"""What gives an entry that has learnt, or follows one that has."""


def entries_replaced(tree: ast.Module) -> frozenset[str]:
    """The entries that the text replaces with what is reckoned from data: `{**tree, "codes": sums / counts}`,
    `tree.replace(codes=sums / counts)`, `eqx.tree_at(lambda tree: tree.codes, tree, sums / counts)`."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(key for function in functions for key in _replaced_in(function))


def _replaced_in(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    assigned = {
        node.targets[0].id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }
    replaced = [pair for node in ast.walk(function) for pair in _replacements(node)]
    return [key for key, value in replaced if _is_reckoned(value, key, assigned)]


def _replacements(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """The entries that an expression puts in the places of others, and what they become."""
    if isinstance(node, ast.Dict) and None in node.keys:
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        return [(key, value) for key, value in zip(keys, node.values, strict=True) if isinstance(key, str)]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return []
    called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    if called in ("replace", "_replace"):
        return [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg is not None]
    if called != "tree_at" or len(node.args) != 3 or not isinstance(node.args[0], ast.Lambda):
        return []
    where, value = node.args[0].body, node.args[2]
    pairs = [(where, value)]
    if isinstance(where, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = list(zip(where.elts, value.elts, strict=False))
    return [(place.attr, new) for place, new in pairs if isinstance(place, ast.Attribute)]


def _is_reckoned(value: ast.expr, key: str, assigned: dict[str, ast.expr]) -> bool:
    """Is it arithmetic of this function, and no step from the entry as it was?"""
    parts, waiting, read = [], [value], set()
    while waiting:
        for node in ast.walk(waiting.pop()):
            parts.append(node)
            if isinstance(node, ast.Name) and node.id in assigned and node.id not in read:
                read.add(node.id)
                waiting.append(assigned[node.id])
    sums = [node for node in parts if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)]
    steps = any(_is_entry(part, key) for one in sums for part in (one.left, one.right))
    asked = {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in parts}
    return not steps and not asked & STEPS and any(isinstance(part, ast.BinOp) for part in parts)


def _is_entry(node: ast.expr, key: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == key or isinstance(node, ast.Subscript) and _key(node) == key
