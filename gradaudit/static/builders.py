"""How the project itself makes an object: the function that calls its class, run for what it makes.

A class that gets its networks and optimizers from outside (`Learner(modules, optimizer)`) does not tell which optimizer
holds which network; the function of the project that puts them together does.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from typing import NamedTuple

from gradaudit.static.calls import is_named_tuple
from gradaudit.static.interpreter import Interpreter
from gradaudit.static.syntax import walk
from gradaudit.static.values import ClassValue, Function, Instance

DEPTH = 3
MOST_SITES = 3
NOT_SHIPPED = ("test", "example", "doc", "benchmark")


class Site(NamedTuple):
    """A function, and the class whose method it is, that makes an object."""

    file: str
    function: str
    owner: str


def build(run: Interpreter, cls: ClassValue, depth: int = 0) -> Instance | None:
    """An object of the class as the first function that makes one does it; None where none is known."""
    for site in sites(run, cls)[:MOST_SITES]:
        before = len(run.made)
        if _follow(run, site, cls, depth):
            made = [instance for instance in run.made[before:] if instance.cls is cls]
            if made:
                return made[0]
    return None


def sites(run: Interpreter, cls: ClassValue) -> list[Site]:
    """The functions of the project that call the class by its name; what is only an example or a test is none."""
    found = []
    for file in run.callers.files_with(cls.name, cls.module.file):
        folders = os.path.relpath(file, run.files.project(cls.module.file)).lower().split(os.sep)
        if any(folder.startswith(NOT_SHIPPED) for folder in folders):
            continue
        module = run.files.module(file)
        if module is not None and run.module_name(module, cls.name) is cls:
            found += [Site(file, *names) for names in _calls(module.tree, cls.name)]
    return found


def _calls(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    for statement in tree.body:
        inner = statement.body if isinstance(statement, ast.ClassDef) else [statement]
        owner = statement.name if isinstance(statement, ast.ClassDef) else ""
        for function in inner:
            if isinstance(function, ast.FunctionDef) and owner != name:
                calls = (node.func for node in walk(function) if isinstance(node, ast.Call))
                if any(isinstance(called, ast.Name) and called.id == name for called in calls):
                    yield function.name, owner


def _follow(run: Interpreter, site: Site, cls: ClassValue, depth: int) -> bool:
    module = run.files.module(site.file)
    owner = run.module_name(module, site.owner or site.function) if module is not None else None
    if isinstance(owner, Function):
        run.file = owner.module.display
        run.call_function(owner, [], {}, entry=True)
        return True
    if not isinstance(owner, ClassValue) or owner is cls or is_named_tuple(owner, run):
        return False
    receiver = build(run, owner, depth + 1) if depth < DEPTH else None
    receiver = receiver or run.instantiate(owner, [], {}, entry=True)
    method, found = run.member(owner, site.function)
    if not isinstance(method, Function) or not isinstance(receiver, Instance):
        return False
    run.file = method.module.display
    run.call_function(method.bind(receiver, found), [], {}, entry=True)
    return True
