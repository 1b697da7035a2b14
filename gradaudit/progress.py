"""A progress bar on stderr for runs that take longer than a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PATIENCE = 1.0


def bar(files: Sequence[Path]) -> Iterator[Path]:
    """The files one by one; from the second second on, with a bar of how many are done."""
    start = time.monotonic()
    for done, file in enumerate(files):
        if time.monotonic() - start > PATIENCE:
            yield from _shown(files, done)
            return
        yield file


def _shown(files: Sequence[Path], done: int) -> Iterator[Path]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("linting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[file]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(files), completed=done, file="")
        for file in files[done:]:
            progress.update(task, file=file.name)
            yield file
            progress.advance(task)
