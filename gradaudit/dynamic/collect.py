"""Finding the cases below a path: files that mention `gradaudit`, imported one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gradaudit.dynamic.case import Case, cases_in
from gradaudit.dynamic.target import Target, load, load_module

_SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages", "build", "dist"))


def files(paths: Sequence[str]) -> list[Path]:
    """Python files that may hold a case, sorted: only these are imported."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [file for file in found if not _skipped(file) and _mentions(file)]


def collect_file(file: Path, app_dir: str = "", seed: int = 0) -> Iterator[tuple[Target, Case]]:
    """Every case of a file with its loss."""
    module = load_module(str(file), app_dir, seed)
    for path, _, case in cases_in(module):
        yield load(f"{os.path.relpath(file)}:{path}", app_dir, case.factory, seed), case


def _skipped(file: Path) -> bool:
    return any(part in _SKIPPED or (part.startswith(".") and part not in (".", "..")) for part in file.parts)


def _mentions(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "gradaudit" in text and "case" in text
