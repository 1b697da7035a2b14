"""Who sets a file's functions and classes to work, where other files do: what happens to their gradient is on the tapes
of those. A file that is linted alone is told by them as it is when the whole project is."""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from gradaudit.static.callers import DEFINITIONS, Callers
from gradaudit.static.files import Files, Module, distance
from gradaudit.tape import Tape

DIFFERENTIATES = re.compile(
    r"\.backward\(|\bminimize\(|value_and_grad|GradientTape|apply_gradients|def training_step|\bgrad\("
)
OPTIMIZES = re.compile(rf"\boptim|{DIFFERENTIATES.pattern}")
FEW = 10  # files of one run
HOPS = 2
MOST = 3
MOST_NAMES = 40
SIZE = 150_000  # characters of one of them


def drivers(files: Files, callers: Callers, module: Module, expected: Collection[str]) -> list[str]:
    """The other files that use what this one defines and differentiate something, or whose use of it does; the nearest
    first. None that is recorded anyway, and none where so many files are asked for that it would be."""
    if len(expected) > FEW or not callers.outsiders(module.file, expected):
        return []
    works = bool(OPTIMIZES.search(files.peek(module.file) or ""))
    seen = {module.file}
    level = {module.file: frozenset(_defined(module))}
    found: dict[str, None] = {}
    for _ in range(HOPS):
        users = _users(files, callers, level, seen)
        seen |= users.keys()
        chosen = [file for file in users if _differentiates(files, file) or works and not _is_package(file)]
        found.update(dict.fromkeys(chosen))
        level = {file: names for file, names in users.items() if file not in found}
        if len(found) >= MOST or not level:
            break
    return [file for file in found if file not in expected and len(files.peek(file) or "") < SIZE][:MOST]


def concerned(tapes: Iterable[Tape], path: str) -> list[Tape]:
    """The tapes on which something of a file happens."""
    return [tape for tape in tapes if any(node.location.path == path for node in tape.nodes)]


def _users(
    files: Files, callers: Callers, level: dict[str, frozenset[str]], seen: set[str]
) -> dict[str, frozenset[str]]:
    """Who imports these names, and by what names their own users know them."""
    used: dict[str, set[str]] = {}
    counted: Counter[str] = Counter()
    start = next(iter(level))
    for file, names in level.items():
        for name in sorted(names)[:MOST_NAMES]:
            for user in callers.files_with(name, file):
                if user not in seen and callers.imports(user, name, file):
                    used.setdefault(user, set()).add(name)
                    counted[user] += 1
    folder = os.path.dirname(start)
    order = sorted(used, key=lambda user: (-counted[user], *distance(user, folder)))
    found = {}
    for user in order:
        module = files.module(user) if len(files.peek(user) or "") < SIZE else None
        if module is not None:
            own = _using(module, files.peek(user) or "", used[user])
            found[user] = frozenset(used[user] if _is_package(user) else ()) | frozenset(own)
    return found


def _using(module: Module, text: str, names: set[str]) -> Iterator[str]:
    """The names of a file's own that are made of these: what calls one, a table that holds one."""
    mention = re.compile(rf"\b(?:{'|'.join(sorted(names))})\b")
    lines = text.split("\n")
    mentioned = [number for number, line in enumerate(lines, 1) if mention.search(line)]
    for statement in module.tree.body:
        if not any(statement.lineno <= number <= (statement.end_lineno or 0) for number in mentioned):
            continue
        if isinstance(statement, DEFINITIONS):
            yield statement.name
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _defined(module: Module) -> Iterator[str]:
    for statement in module.tree.body:
        if isinstance(statement, DEFINITIONS) and not statement.name.startswith("__"):
            yield statement.name


def _differentiates(files: Files, file: str) -> bool:
    return DIFFERENTIATES.search(files.peek(file) or "") is not None


def _is_package(file: str) -> bool:
    return os.path.basename(file) == "__init__.py"
