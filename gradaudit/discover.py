"""Which files to lint: the Python files under the given paths, without what is ignored.

A path that is named is always taken, whatever it is called and whoever ignores it (unless `force_exclude`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gradaudit.config import Config

SKIPPED = frozenset(
    "__pycache__ __pypackages__ _build build dist node_modules site-packages dist-packages venv env virtualenv".split()
)
SUFFIXES = (".py",)


def files(paths: Iterable[Path], config: Config) -> list[Path]:
    """The files to lint, sorted and each once."""
    excluded = _Patterns(config.root, config.exclude) if config.exclude else None
    found: dict[str, Path] = {}
    for path in paths:
        if config.force_exclude and excluded is not None and excluded.match(path):
            continue
        for file in _under(path, excluded, config.respect_gitignore) if path.is_dir() else [path]:
            found.setdefault(os.path.abspath(file), file)
    return [found[key] for key in sorted(found)]


def matches(pattern: str, path: Path, root: Path) -> bool:
    """Whether a pattern (as in a .gitignore in `root`) names the file."""
    return bool(_Patterns(root, [pattern]).match(path))


class _Patterns:
    """Patterns in .gitignore's language, relative to `root`."""

    def __init__(self, root: Path, lines: Iterable[str]) -> None:
        import pathspec  # it takes as long as all rules together, and many projects are linted without a pattern

        self.root = os.path.abspath(root)
        self.spec = pathspec.GitIgnoreSpec.from_lines(lines)

    def match(self, path: Path, folder: bool = False) -> bool | None:
        """True: excluded; False: taken back by `!`; None: not mentioned."""
        relative = os.path.relpath(os.path.abspath(path), self.root)
        if relative.startswith("..") or relative == ".":
            return None
        return self.spec.check_file(relative.replace(os.sep, "/") + ("/" if folder else "")).include


def _under(top: Path, excluded: _Patterns | None, gitignore: bool) -> Iterator[Path]:
    """The files below a folder that was named; who names an ignored folder wants what is in it."""
    named = Path(os.path.abspath(top))
    rules = _ignore_files_above(top) if gitignore else []
    if _ignored(named, rules, folder=True):
        rules = []
    if excluded is not None and excluded.match(named, folder=True):
        excluded = None
    yield from _walk(top, excluded, rules, gitignore)


def _walk(folder: Path, excluded: _Patterns | None, rules: list[_Patterns], gitignore: bool) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if gitignore and any(entry.name == ".gitignore" for entry in entries):
        rules = [*rules, *_ignore_file(folder)]
    for entry in entries:
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if not is_folder and not (entry.name.endswith(SUFFIXES) and _is_file(entry)):
            continue
        if is_folder and _skipped(entry.name, path):
            continue
        if (excluded is not None and excluded.match(path, is_folder)) or _ignored(path, rules, is_folder):
            continue
        if is_folder:
            yield from _walk(path, excluded, rules, gitignore)
        else:
            yield path


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _skipped(name: str, path: Path) -> bool:
    return name.startswith(".") or name in SKIPPED or name.endswith(".egg-info") or (path / "pyvenv.cfg").exists()


def _ignored(path: Path, rules: list[_Patterns], folder: bool) -> bool:
    """Whether git ignores it: the innermost .gitignore that mentions it decides."""
    for patterns in reversed(rules):
        verdict = patterns.match(path, folder)
        if verdict is not None:
            return verdict
    return False


def _ignore_files_above(top: Path) -> list[_Patterns]:
    """The .gitignore files between the repository's root and `top`, outermost first; none outside a repository."""
    chain: list[_Patterns] = []
    folder = Path(os.path.abspath(top))
    if (folder / ".git").exists():
        return []
    for parent in folder.parents:
        chain = [*_ignore_file(parent), *chain]
        if (parent / ".git").exists():
            return chain
    return []


def _ignore_file(folder: Path) -> list[_Patterns]:
    try:
        lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    try:
        return [_Patterns(folder, lines)]
    except ValueError:
        return []
