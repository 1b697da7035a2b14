"""The lint pipeline: files -> tapes -> rules -> findings. Reads code, imports none of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

from gradaudit import catalog, discover, suppress, workers
from gradaudit.config import Config, names_rule
from gradaudit.elsewhere import told_in, with_callers
from gradaudit.finding import Finding, Fix, Step
from gradaudit.report import Report
from gradaudit.rule import Rule
from gradaudit.speaker import who_speaks
from gradaudit.suppress import Suppression
from gradaudit.tape import Location, Tape

Progress = Callable[[Sequence[Path]], Iterable[Path]]
"""Hands the files on, and may show how many are done."""

Failed = Callable[[str, Exception], None]
"""Told of an internal error: what was at work (a rule's code, "reading"), and the error."""

SYNTAX_ERROR = "GA900"
UNUSED = "GA901"
GARBAGE = 1_500_000
"""New objects between two collections: some hundred megabytes at most, and none in a project of ordinary size."""


Run = TypeVar("Run", bound=Callable[..., object])

FRAMES = 131_072
"""Slots of eight bytes, of which hardly any is ever written: as many again fit into the same chunk."""


def with_room(function: Run) -> Run:
    """The function with a frame as large as all that it calls will need.

    CPython keeps frames in chunks of 16 KB and gives each back as soon as it is empty: a recorder that goes up and down
    through hundreds of frames would ask the system for memory at every other step. A chunk is as large as its first
    frame wants it to be.
    """
    code: CodeType = function.__code__  # type: ignore[attr-defined]
    function.__code__ = code.replace(co_stacksize=FRAMES)  # type: ignore[attr-defined]
    return function


@with_room
def lint_paths(
    paths: Sequence[Path],
    config: Config,
    overlay: dict[str, str] | None = None,
    progress: Progress | None = None,
    debug: bool = False,
    jobs: int | None = None,
) -> Report:
    """Lint the files under `paths`. `overlay` holds texts to use in place of files', by path.

    With `debug` an error in a rule or recorder is raised; without, it costs a line in the report's problems. `jobs` is
    the number of processes (None: as many as there are cores, where there is much to do); the report is the same.
    """
    rules = catalog.load(config)
    files = discover.files(paths, config)
    texts = Texts(overlay or {})
    recorder = make_recorder(Path.cwd(), overlay)
    found: list[Finding] = []
    problems: set[str] = set()
    shown = [_shown(file) for file in files]

    def one(path: str) -> tuple[list[Finding], list[str]]:
        noted: list[str] = []
        findings = lint_file(recorder, path, rules, None if debug else _noted(path, noted))
        noted += recorder.problems
        recorder.problems.clear()
        collect_much()
        return findings, noted

    with quiet_collector():
        size = recorder.expect(shown)
        results = workers.spread(one, shown, 1 if debug else workers.processes(size, jobs))
        for _, (findings, noted) in zip(progress(files) if progress else files, results, strict=True):
            found += findings
            problems.update(noted)
    kept, suppressed = settle(found, set(shown), config, rules, texts)
    return Report(
        findings=tuple(kept),
        problems=tuple(sorted(problems)),
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
    placed = [finding for finding in found if finding.location.path in wanted and finding.location.line > 0]
    others = [finding for finding in found if finding.location.path not in wanted]
    mine = who_speaks([*placed, *_told_here(others, wanted, config, texts)], rules)
    mine = [finding for finding in mine if not _ignored(finding, config)]
    kept, suppressed = _suppress(mine, wanted, rules, texts) if config.suppressions else (mine, 0)
    return sorted(kept, key=lambda finding: finding.sort_key), suppressed


def _told_here(others: Iterable[Finding], wanted: Collection[str], config: Config, texts: Texts) -> Iterator[Finding]:
    """Findings in files that were not asked for, at the lines that lead there; what these files take back is gone."""
    for finding in others:
        told = told_in(finding, wanted)
        if told is None or _ignored(finding, config):
            continue
        if not config.suppressions or suppress.apply(texts(finding.location.path), [finding]).kept:
            yield told


def make_recorder(cwd: Path, overlay: dict[str, str] | None) -> Any:
    from gradaudit.static.recorder import Recorder

    return Recorder(str(cwd), overlay)


def lint_file(recorder: Any, path: str, rules: Sequence[Rule], failed: Failed | None = None) -> list[Finding]:
    """The findings of every rule on every tape of one file, with paths as they are shown.

    An error goes to `failed` with what was at work, or is raised where there is none.
    """
    found: list[Finding] = []
    try:
        for tape in recorder.record(path):
            here = _judge(tape, rules, failed)
            found += here if tape.path == path else [one for one in here if one.location.path == path]
    except Exception as error:
        if failed is None:
            raise
        failed("reading", error)
    broken = recorder.syntax_error(path)
    if broken is not None and _selected(SYNTAX_ERROR, rules):
        line, column, message = broken
        location = Location(path, max(line, 1), max(column, 1))
        found.append(Finding(SYNTAX_ERROR, "syntax-error", f"cannot be parsed: {message}", "error", location))
    return [_normal(finding) for finding in found]


def _judge(tape: Tape, rules: Sequence[Rule], failed: Failed | None) -> list[Finding]:
    """What the rules find on one tape; the failure of one leaves the others' findings."""
    from gradaudit import ownership, paths

    found: list[Finding] = []
    entry = f"{tape.path}:{tape.entry}"
    if not tape.sinks and not tape.events:
        return found
    ownership.own_sets(tape)
    analysis = paths.Analysis(tape)
    for rule in rules:
        try:
            found += [replace(with_callers(finding, tape), entry=entry) for finding in rule.check(analysis)]
        except Exception as error:
            if failed is None:
                raise
            failed(rule.code, error)
    return found


def _ignored(finding: Finding, config: Config) -> bool:
    """Whether `per-file-ignores` takes the finding back."""
    return any(
        any(names_rule(code, finding.code, finding.name) for code in codes)
        and discover.matches(pattern, Path(finding.location.path), config.root)
        for pattern, codes in config.per_file_ignores.items()
    )


def _suppress(
    found: list[Finding], wanted: Collection[str], rules: Sequence[Rule], texts: Texts
) -> tuple[list[Finding], int]:
    by_path: dict[str, list[Finding]] = {path: [] for path in wanted} if _selected(UNUSED, rules) else {}
    for finding in found:
        by_path.setdefault(finding.location.path, []).append(finding)
    kept: list[Finding] = []
    count = 0
    for path, findings in by_path.items():
        outcome = suppress.apply(texts(path), findings)
        kept += outcome.kept
        count += len(outcome.taken)
        if _selected(UNUSED, rules):
            kept += _unused(path, outcome.unused, rules)
    return kept, count


def _selected(code: str, rules: Sequence[Rule]) -> bool:
    return any(rule.code == code for rule in rules)


def _unused(path: str, comments: Iterable[Suppression], rules: Sequence[Rule]) -> Iterator[Finding]:
    """GA901 for comments that took nothing back, as far as this run's rules can tell."""
    ours = [comment for comment in comments if comment.ours]
    if not ours:
        return
    known = catalog.entries()
    selected = {rule.code for rule in rules}
    for comment in ours:
        meant = [entry for entry in known if not comment.codes or comment.means(entry.code, entry.name)]
        if not {entry.code for entry in meant} <= selected:
            continue
        what = ", ".join(comment.codes) or "everything"
        message = f"nothing is suppressed here: {what}" if meant else f"there is no such rule: {what}"
        where = Location(path, comment.comment_line, comment.column)
        yield Finding(UNUSED, "unused-suppression", message, "info", where, fix=Fix("take the comment out"))


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
    callers = tuple(_located(caller) for caller in finding.callers)
    return replace(finding, location=_located(finding.location), trace=steps, callers=callers)


def _located(location: Location) -> Location:
    shown = _shown(Path(location.path))
    return location if shown == location.path else replace(location, path=shown)


def collect_much() -> None:
    """Collect garbage once there may be a lot of it, and never look again at what is still in use."""
    if gc.get_count()[0] > GARBAGE:
        gc.collect()
        gc.freeze()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Without the cyclic garbage collector: tapes are many small objects that live as long as the run.

    At the end all of them count as old: young ones would be gone through at once.
    """
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()
