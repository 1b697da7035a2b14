"""The lint pipeline: files -> tapes -> rules -> findings. Reads code, imports none of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradaudit import catalog, discover, suppress
from gradaudit.config import Config, names_rule
from gradaudit.finding import Finding, Step
from gradaudit.report import Report
from gradaudit.rule import Rule
from gradaudit.tape import Location, Tape

Progress = Callable[[Sequence[Path]], Iterable[Path]]
"""Hands the files on, and may show how many are done."""

Failed = Callable[[str, Exception], None]
"""Told of an internal error: what was at work (a rule's code, "reading"), and the error."""

BESIDE = ("GA104", "GA403", "GA5", "GA6", "GA9")
"""Rules that speak of something else than the leak on their line: no other rule silences them, nor they another."""

SYNTAX_ERROR = "GA900"


def lint_paths(
    paths: Sequence[Path],
    config: Config,
    overlay: dict[str, str] | None = None,
    progress: Progress | None = None,
    debug: bool = False,
) -> Report:
    """Lint the files under `paths`. `overlay` holds texts to use in place of files', by path.

    With `debug` an error in a rule or recorder is raised; without, it costs a line in the report's problems.
    """
    rules = catalog.load(config)
    files = discover.files(paths, config)
    texts = Texts(overlay or {})
    recorder = make_recorder(Path.cwd(), overlay)
    found: list[Finding] = []
    problems: list[str] = []
    with quiet_collector():
        for file in progress(files) if progress else files:
            found += lint_file(recorder, _shown(file), rules, None if debug else _noted(_shown(file), problems))
    kept, suppressed = settle(found, {_shown(file) for file in files}, config, rules, texts)
    return Report(
        findings=tuple(kept),
        problems=tuple(sorted({*problems, *recorder.problems})),
        rules=tuple(rules),
        files=len(files),
        suppressed=suppressed,
        source=texts,
    )


def _noted(path: str, problems: list[str]) -> Failed:
    """Keeps an error as one line: lint never fails on a file that it cannot understand."""

    def failed(stage: str, error: Exception) -> None:
        problems.append(f"{path}: internal error in {stage}: {error!r}; --debug shows the traceback, please report it")

    return failed


def settle(
    found: Iterable[Finding], wanted: Collection[str], config: Config, rules: Sequence[Rule], texts: Texts
) -> tuple[list[Finding], int]:
    """What stands of the raw findings, in order, and how many comments took back: only in files that were asked for."""
    mine = who_speaks([finding for finding in found if finding.location.path in wanted], rules)
    mine = [finding for finding in mine if not _ignored(finding, config)]
    kept, suppressed = _suppress(mine, texts) if config.suppressions else (mine, 0)
    return sorted(kept, key=lambda finding: finding.sort_key), suppressed


def make_recorder(cwd: Path, overlay: dict[str, str] | None) -> Any:
    from gradaudit.static.recorder import Recorder

    return Recorder(cwd, overlay)


def lint_file(recorder: Any, path: str, rules: Sequence[Rule], failed: Failed | None = None) -> list[Finding]:
    """The findings of every rule on every tape of one file, with paths as they are shown.

    An error goes to `failed` with what was at work, or is raised where there is none.
    """
    found: list[Finding] = []
    try:
        for tape in recorder.record(path):
            found += _judge(tape, rules, failed)
    except Exception as error:
        if failed is None:
            raise
        failed("reading", error)
    if path in recorder.syntax_errors and any(rule.code == SYNTAX_ERROR for rule in rules):
        line, column, message = recorder.syntax_errors[path]
        location = Location(path, max(line, 1), max(column, 1))
        found.append(Finding(SYNTAX_ERROR, "syntax-error", f"cannot be parsed: {message}", "error", location))
    return [_normal(finding) for finding in found]


def _judge(tape: Tape, rules: Sequence[Rule], failed: Failed | None) -> list[Finding]:
    """What the rules find on one tape; the failure of one leaves the others' findings."""
    from gradaudit import ownership, paths

    found: list[Finding] = []
    if not tape.sinks and not tape.events:
        return found
    ownership.own_sets(tape)
    analysis = paths.Analysis(tape)
    for rule in rules:
        try:
            found += rule.check(analysis)
        except Exception as error:
            if failed is None:
                raise
            failed(rule.code, error)
    return found


def who_speaks(found: Iterable[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """One finding for one thing: equal ones once, and on one line only the rule of lowest rank speaks."""
    rank = {rule.code: rule.rank for rule in rules}
    unique: dict[tuple[object, ...], Finding] = {}
    for finding in sorted(found, key=lambda finding: finding.sort_key):
        where = finding.location
        key = (where.path, finding.code, where.line, where.column)
        if key not in unique or len(finding.trace) < len(unique[key].trace):
            unique[key] = finding
    speaker: dict[tuple[str, int], str] = {}
    for finding in unique.values():
        if not finding.code.startswith(BESIDE):
            line = (finding.location.path, finding.location.line)
            speaker[line] = min(
                speaker.get(line, finding.code), finding.code, key=lambda code: (rank.get(code, 0), code)
            )
    return [
        finding
        for finding in unique.values()
        if finding.code.startswith(BESIDE) or speaker[finding.location.path, finding.location.line] == finding.code
    ]


def _ignored(finding: Finding, config: Config) -> bool:
    """Whether `per-file-ignores` takes the finding back."""
    return any(
        any(names_rule(code, finding.code, finding.name) for code in codes)
        and discover.matches(pattern, Path(finding.location.path), config.root)
        for pattern, codes in config.per_file_ignores.items()
    )


def _suppress(found: list[Finding], texts: Texts) -> tuple[list[Finding], int]:
    by_path: dict[str, list[Finding]] = {}
    for finding in found:
        by_path.setdefault(finding.location.path, []).append(finding)
    kept: list[Finding] = []
    count = 0
    for path, findings in by_path.items():
        stand, taken = suppress.split(texts(path), findings)
        kept += stand
        count += len(taken)
    return kept, count


class Texts:
    """The text of a file as it was linted, read once; "" where it cannot be read."""

    def __init__(self, overlay: dict[str, str]) -> None:
        self._known = {_shown(Path(path)): text for path, text in overlay.items()}

    def __call__(self, path: str) -> str:
        if path not in self._known:
            try:
                self._known[path] = Path(path).read_bytes().decode("utf-8-sig", errors="replace")
            except OSError:
                self._known[path] = ""
        return self._known[path]


def _shown(path: Path) -> str:
    """The path relative to the working directory, with forward slashes."""
    return os.path.relpath(path).replace(os.sep, "/")


def _normal(finding: Finding) -> Finding:
    """The finding with its paths as they are shown."""
    steps = tuple(Step(_located(step.location), step.message) for step in finding.trace)
    return replace(finding, location=_located(finding.location), trace=steps)


def _located(location: Location) -> Location:
    shown = _shown(Path(location.path))
    return location if shown == location.path else replace(location, path=shown)


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Without the cyclic garbage collector: tapes are many small objects that live as long as the run."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
