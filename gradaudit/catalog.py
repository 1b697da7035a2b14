"""The catalog: which rules there are, ours and those of other packages, and loading them.

Looking a rule up imports nothing; only what is asked for is imported. A module that is not what a rule must be (see
`gradaudit.rule`) is refused with a line that says what it lacks.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from gradaudit.config import Config, names_rule, nearest
from gradaudit.errors import CatalogError, UsageError
from gradaudit.rule import HEADINGS, Rule

GROUP = "gradaudit.rules"
DEFAULT_RANK = 1000
STANDARD = ("_frozen_importlib", "_frozen_importlib_external", "importlib._bootstrap", "importlib._bootstrap_external")
_MODULE = re.compile(r"(?P<code>[a-z]{2,5}[0-9]{3})_(?P<name>[a-z0-9_]+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A rule that exists: its code and name are its file's; `module` is not imported yet."""

    code: str
    name: str
    module: str

    def load(self) -> Rule:
        """Import the module and check that it is a rule. Raises CatalogError."""
        try:
            module = importlib.import_module(self.module)
        except Exception as error:
            raise CatalogError(f"rule {self.code} ({self.module}) cannot be imported: {error!r}") from error
        return _rule(self, module)


def entries() -> list[Entry]:
    """Every rule there is, by code. Raises CatalogError where two claim one code or a plugin is malformed."""
    found: dict[str, Entry] = {}
    for entry in [*_own(), *_plugins()]:
        if entry.code in found:
            raise CatalogError(f"rule {entry.code} is defined twice: {found[entry.code].module} and {entry.module}")
        found[entry.code] = entry
    return [found[code] for code in sorted(found)]


def load(config: Config) -> list[Rule]:
    """The rules that `config` selects. Raises UsageError where a selection names no rule."""
    known = entries()
    patterns = [*config.select, *config.ignore]
    patterns += [code for codes in config.per_file_ignores.values() for code in codes]
    for pattern in patterns:
        if not any(names_rule(pattern, entry.code, entry.name) for entry in known):
            raise UsageError(f"no rule is called {pattern!r}{_nearest(pattern, known)}")
    return [entry.load() for entry in known if config.wants(entry.code, entry.name)]


def find(word: str) -> Entry:
    """The rule that is called `word` (a code or a name). Raises UsageError that names the nearest."""
    known = entries()
    for entry in known:
        if word.upper() == entry.code or word.lower() == entry.name:
            return entry
    raise UsageError(f"no rule is called {word!r}{_nearest(word, known)}")


def _nearest(word: str, known: list[Entry]) -> str:
    codes = [entry.code for entry in known]
    return (
        nearest(word.upper(), codes)
        if re.match(r"[A-Za-z]{2}\d", word)
        else nearest(word, codes + [entry.name for entry in known])
    )


def _own() -> Iterable[Entry]:
    return _rule_modules(importlib.import_module("gradaudit.rules"))


def _rule_modules(package: ModuleType) -> list[Entry]:
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    matches = [(name, _MODULE.fullmatch(name)) for name in names]
    return [_entry(f"{package.__name__}.{name}", match) for name, match in matches if match]


def _entry(module: str, match: re.Match[str]) -> Entry:
    return Entry(match["code"].upper(), match["name"].replace("_", "-"), module)


def _plugins() -> list[Entry]:
    """What other packages add: each entry point names a rule module, or a package of them."""
    found: list[Entry] = []
    if not _may_have_plugins():
        return found
    import importlib.metadata

    points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        match = _MODULE.fullmatch(point.module.rpartition(".")[2])
        if match:
            found.append(_entry(point.module, match))
            continue
        try:
            package = point.load()
        except Exception as error:
            raise CatalogError(f"plugin {point.name!r} ({point.value}) cannot be imported: {error!r}") from error
        modules = _rule_modules(package) if hasattr(package, "__path__") else []
        if not modules:
            raise CatalogError(
                f"plugin {point.name!r} ({point.value}) is no rule module (xx101_name.py) and holds none"
            )
        found += modules
    return found


def _may_have_plugins() -> bool:
    """Whether anything installed may name our group: a look into the files, where reading them all takes longer than
    linting a small project. What is not plain folders is left to those who know it."""
    for folder in dict.fromkeys(sys.path):
        if os.path.isfile(folder):
            return True  # an archive
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info", ".egg")) and _names_us(os.path.join(folder, name)):
                return True
    return any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder.__module__ not in STANDARD)


def _names_us(installed: str) -> bool:
    """Whether what is installed says anything of our group; an egg may be anything."""
    if installed.endswith(".egg"):
        return True
    try:
        with open(os.path.join(installed, "entry_points.txt"), "rb") as stream:
            return GROUP.encode() in stream.read()
    except OSError:
        return False


def _rule(entry: Entry, module: ModuleType) -> Rule:
    lacks = []
    page = (module.__doc__ or "").strip()
    if not page:
        lacks.append("a docstring")
    present = {line.strip("#:= ").strip() for line in page.splitlines()}
    lacks += [f"the heading {heading!r}" for heading in HEADINGS if page and heading not in present]
    check = getattr(module, "check", None)
    if not callable(check):
        lacks.append("a function check(analysis)")
    rank = getattr(module, "RANK", DEFAULT_RANK)
    if not isinstance(rank, int):
        lacks.append("an integer RANK")
    if lacks:
        raise CatalogError(f"rule {entry.code} ({entry.module}) lacks {', '.join(lacks)}")
    assert check is not None
    return Rule(entry.code, entry.name, page.splitlines()[0].strip("# ").rstrip("."), page, check, rank)
