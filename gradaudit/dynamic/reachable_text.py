"""The user's files in the reach of a loss: their trees, and what they copy into what."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from gradaudit.dynamic.judgement import Case
from gradaudit.dynamic.lines import display_path, end_of, parsed
from gradaudit.dynamic.recording import Group
from gradaudit.tape import Location, Network, Node


def trees(case: Case) -> Iterator[tuple[str, ast.Module]]:
    """The user's files in reach, parsed."""
    return ((file, parsed(file)) for file in _files(case))


def _files(case: Case) -> list[str]:
    call = case.recording.call
    modules = [getattr(inspect.unwrap(call.function), "__module__", "")]
    modules += [type(value).__module__ for value in call.scope.values()]
    found = [getattr(sys.modules.get(name or ""), "__file__", None) for name in modules]
    return [file for file in dict.fromkeys(found) if file and file.startswith(call.roots)]


def place_of(file: str, node: ast.stmt) -> Location:
    end = node.end_lineno or node.lineno, (node.end_col_offset or node.col_offset) + 1
    return Location(display_path(file), node.lineno, node.col_offset + 1, *end)


def copied(call: ast.Call) -> tuple[str, str]:
    """Last names, what is written first where that is known, of what copies parameters:
    `one.load_state_dict(other.state_dict())`, `zip(one.parameters(), other.parameters())`."""
    function, arguments = call.func, call.args
    if isinstance(function, ast.Attribute) and function.attr == "load_state_dict" and len(arguments) == 1:
        return end_of(function.value), _owner(arguments[0], "state_dict")
    if end_of(function) == "zip" and len(arguments) == 2:
        return _owner(arguments[0], "parameters"), _owner(arguments[1], "parameters")
    return "", ""


def _owner(node: ast.expr, method: str) -> str:
    """`net` of `agent.net.parameters()`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
        return end_of(node.func.value)
    return ""


def follows(case: Case, leaves: Sequence[Node]) -> bool:
    """Are all of these of networks that the text writes again from what they are copies of?"""
    return bool(leaves) and all(_follows(case, leaf) for leaf in leaves)


def split_off(case: Case, group: Group) -> list[Group]:
    """A group without the copies in it that follow their originals, and these."""
    following = tuple(leaf for leaf in group.leaves if _follows(case, leaf))
    if not following or len(following) == len(group.leaves):
        return [group]
    rest = tuple(leaf for leaf in group.leaves if leaf not in following)
    names = [case.recording.spellings[leaf][0].split(".") for leaf in following if case.recording.spellings.get(leaf)]
    name = ".".join(os.path.commonprefix(names)) or group.name
    return [replace(group, leaves=rest), replace(group, name=name, leaves=following)]


def _follows(case: Case, leaf: Node) -> bool:
    owner = leaf.leaf.owner if leaf.leaf is not None and leaf.leaf.copied_from is not None else None
    return owner is not None and any(_is_written(case, network) for network in owner.chain())


def _is_written(case: Case, network: Network) -> bool:
    """Is a copy of a network written from its original again, where the text does more than set it up: in a loop, or in
    a function that is no constructor?"""
    origin = network.copied_from
    if origin is None:
        return False
    pair = {network.name.rpartition(".")[2], origin.name.rpartition(".")[2]}
    return len(pair) == 2 and any(pair == one for file, _ in trees(case) for one in _pairs(file))


@lru_cache(maxsize=64)
def _pairs(file: str) -> list[set[str]]:
    found = [set(copied(call)) for call in _repeated(parsed(file))]
    return [pair for pair in found if pair != {""}]


def _repeated(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls of functions but constructors, and of loops of the module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name != "__init__":
                yield from (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))
        elif isinstance(node, ast.For | ast.While):
            yield from (inner for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.Call))
        else:
            yield from _repeated(node)
