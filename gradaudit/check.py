"""The check pipeline: a loss -> one recorded run -> rules -> findings, each tried with a stop at its cut."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gradaudit import dynamic, suppress
from gradaudit.dynamic import collect
from gradaudit.dynamic import from_text as text_of
from gradaudit.dynamic import target as targets
from gradaudit.dynamic.case import Case, cases_of, numbers, words
from gradaudit.dynamic.inputs import gather
from gradaudit.dynamic.judgement import Judgement
from gradaudit.dynamic.judging import judge
from gradaudit.dynamic.module_text import file_of
from gradaudit.dynamic.proof import prove
from gradaudit.dynamic.recording import NONZERO, STATES, Group, LossCall, Proof, Recorder, Recording
from gradaudit.dynamic.roles import Roles
from gradaudit.dynamic.rounds import told_again
from gradaudit.errors import GradauditError
from gradaudit.finding import SEVERITIES, Finding


@dataclass(slots=True)
class CheckReport:
    """What check says of one loss. `proofs[i]` belongs to `findings[i]`."""

    target: str
    framework: str
    loss: float
    groups: list[Group]
    findings: list[Finding]
    proofs: list[Proof | None]
    notes: list[str] = field(default_factory=list)
    suppressed: int = 0
    rank: int = 0
    recording: Recording | None = None
    judgements: list[Judgement] = field(default_factory=list)
    parts: list[CheckReport] = field(default_factory=list)
    """One for each loss of a function that differentiates several itself; else empty."""

    def fails(self, threshold: str = "warning") -> bool:
        """Whether a finding is at or above `threshold` (a severity or "never")."""
        if threshold == "never":
            return False
        return any(SEVERITIES.index(one.severity) >= SEVERITIES.index(threshold) for one in self.findings)

    @property
    def ok(self) -> bool:
        return not self.fails()

    def __str__(self) -> str:
        from gradaudit.report import check_text

        return check_text.render(self)


class LeakError(AssertionError):
    """`assert_no_leak` found something; `report` says what."""

    def __init__(self, report: CheckReport) -> None:
        super().__init__("\n" + str(report))
        self.report = report


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside the target."""

    inputs: str = ""
    specs: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    argnums: tuple[int, ...] | None = None
    framework: str = ""
    app_dir: str = ""
    factory: str = ""
    seed: int | None = None
    text: bool = True
    """Whether what lint says of the loss's file is tried on the run, too."""


def check_target(text: str, options: Options) -> list[CheckReport]:
    """Audit `module:function`: once, or once for each case that stands beside it."""
    seed = options.seed or 0
    loaded = targets.load(text, options.app_dir, options.factory, seed)
    found = cases_of(loaded.function) or (Case(),)
    return [check_case(loaded, one, options) for one in found]


def check_case(target: targets.Target, case: Case, options: Options) -> CheckReport:
    """Audit one loss under one case; what the command line says wins over the case."""
    seed = case.seed if options.seed is None else options.seed
    framework = options.framework or case.framework
    recorder: Recorder | None = dynamic.recorder(framework) if framework else None

    def make(spec: Any, number: int) -> Any:
        maker = recorder or dynamic.choose(LossCall(target.text, target.function, scope=target.scope))
        return maker.make_input(spec, number)

    arguments = gather(target, options.inputs, options.specs, case.inputs, make, seed, options.app_dir)
    call = LossCall(
        target=target.text + (f" [{case.name}]" if case.name else ""),
        function=target.function,
        args=arguments.args,
        kwargs=arguments.kwargs,
        names=arguments.names,
        scope=target.scope,
        aliases=target.aliases,
        roots=target.roots,
        argnums=options.argnums if options.argnums is not None else case.argnums,
        framework=framework,
        seed=seed,
    )
    return audit(call, Roles(options.frozen or case.frozen, options.trained or case.trained), recorder, options.text)


def audit(call: LossCall, roles: Roles, recorder: Recorder | None = None, text: bool = True) -> CheckReport:
    """Record, judge, prove. A function that differentiates several losses itself has a part for each in its report.

    `text`: whether what lint says of the loss's file is tried on the run, too."""
    recorder = recorder or dynamic.choose(call)
    every = getattr(recorder, "record_all", None)
    recordings = every(call, roles) if every is not None else [recorder.record(call, roles)]
    trained = {group.name for one in recordings for group in one.groups if group.state == NONZERO or one.trains(group)}
    file = file_of(call.function) if text else ""
    said = told_of(file) if file.startswith(call.roots) and file else ()
    parts = [_report(recorder, recording, trained, said) for recording in recordings]
    if len(parts) == 1:
        return parts[0]
    told = _told(parts)
    return _joined([_current(part, told) for part in parts])


def _told(parts: list[CheckReport]) -> set[int]:
    """What later rounds of the losses tell better, by identity."""
    return told_again(
        [(part.recording.tape.sinks[0].location, part.judgements) for part in parts if part.recording is not None]
    )


def _current(part: CheckReport, told: set[int]) -> CheckReport:
    kept = [number for number, one in enumerate(part.judgements) if id(one) not in told]
    return replace(
        part,
        findings=[part.findings[number] for number in kept],
        proofs=[part.proofs[number] for number in kept],
        judgements=[part.judgements[number] for number in kept],
    )


def _joined(parts: list[CheckReport]) -> CheckReport:
    """One report of several losses: each group with the strongest of its states."""
    groups: dict[str, Group] = {}
    for group in (group for part in parts for group in part.groups):
        known = groups.get(group.name)
        if known is None or STATES.index(group.state) > STATES.index(known.state):
            groups[group.name] = group
    return replace(
        parts[0],
        groups=list(groups.values()),
        findings=[one for part in parts for one in part.findings],
        proofs=[one for part in parts for one in part.proofs],
        judgements=[one for part in parts for one in part.judgements],
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        suppressed=sum(part.suppressed for part in parts),
        parts=parts,
    )


def _report(recorder: Recorder, recording: Recording, trained: set[str], said: Sequence[text_of.Told]) -> CheckReport:
    """The report of one loss; a group that another part of the update trains is not starved."""
    judgements = [one for one in judge(recording, trained, said) if not one.starved or not set(one.starved) <= trained]
    judgements, suppressed = _suppress(judgements)
    proved = _proved(recorder, recording, judgements)
    return CheckReport(
        target=recording.call.target,
        framework=recording.framework,
        loss=recording.value,
        groups=recording.groups,
        findings=[judgement.finding for judgement, _ in proved],
        proofs=[proof for _, proof in proved],
        notes=recording.notes,
        suppressed=suppressed,
        rank=recording.rank,
        recording=recording,
        judgements=[judgement for judgement, _ in proved],
    )


@lru_cache(maxsize=16)
def told_of(file: str) -> tuple[text_of.Told, ...]:
    """What lint says of a file, but for what it only mentions."""
    from gradaudit.config import Config
    from gradaudit.lint import lint_paths

    found = lint_paths([Path(file)], Config(), jobs=1).findings
    return tuple(text_of.Told(_alone(one), _leaves(one)) for one in found if one.severity != "info")


def _alone(finding: Finding) -> Finding:
    """The finding without the tape that it comes from."""
    return Finding(**{each.name: getattr(finding, each.name) for each in fields(Finding)})


def _leaves(finding: Finding) -> tuple[tuple[str, ...], ...]:
    """The names of the parameters that a finding of a rule is about."""
    roots = getattr(finding, "roots", ())
    return tuple(sorted({text_of.words(leaf.leaf.path) for leaf in roots if leaf.leaf is not None}))


def _proved(
    recorder: Recorder, recording: Recording, judgements: list[Judgement]
) -> list[tuple[Judgement, Proof | None]]:
    """Each judgement with its proof. Ranks that do not find the same cannot run the loss again together."""
    places = [(one.finding.code, one.finding.location, one.cut is None) for one in judgements]
    everywhere = getattr(recorder, "everywhere", None)
    if everywhere is not None and not everywhere(places):
        recording.notes.append("the ranks differ in what they find; this is the first one's, without proof")
        return [(one, None) for one in judgements]
    return [prove(recorder, recording, one) for one in judgements]


def _suppress(judgements: list[Judgement]) -> tuple[list[Judgement], int]:
    """Those that no comment of the user's suppresses, and how many one does."""
    kept: list[Judgement] = []
    for path in dict.fromkeys(one.finding.location.path for one in judgements):
        mine = [one for one in judgements if one.finding.location.path == path]
        stand = suppress.apply("".join(linecache.getlines(path)), [one.finding for one in mine]).kept
        kept += [one for one in mine if any(one.finding is finding for finding in stand)]
    return kept, len(judgements) - len(kept)


def check(
    loss_fn: Callable[..., Any] | str,
    inputs: Any = None,
    *,
    frozen: str | Iterable[str] = (),
    trained: str | Iterable[str] = (),
    argnums: int | Iterable[int] | None = None,
    framework: str = "",
    seed: int = 0,
) -> CheckReport:
    """Audit a loss in this process and return the report.

    `inputs`: a tuple of positional arguments, a dict of keyword arguments, one argument, or a function that gives one
    of these. `frozen` and `trained` are patterns over the dotted names of parameters; they bind. Raises CheckError
    where the loss cannot be audited.
    """
    if isinstance(loss_fn, str):
        target = targets.load(loss_fn, seed=seed)
    else:
        name = getattr(loss_fn, "__qualname__", type(loss_fn).__name__)
        module = getattr(loss_fn, "__module__", None) or "?"
        target = targets.describe(f"{module}:{name}", loss_fn)
    beside = cases_of(target.function)
    known = beside[0] if beside else Case()
    case = Case(
        known.inputs if inputs is None else inputs,
        words(frozen) or known.frozen,
        words(trained) or known.trained,
        known.argnums if argnums is None else numbers(argnums),
        framework or known.framework,
        seed=seed,
    )
    return check_case(target, case, Options())


def assert_no_leak(
    loss_fn: Callable[..., Any] | str, inputs: Any = None, *, fail_on: str = "warning", **options: Any
) -> CheckReport:
    """`check`, and LeakError (an AssertionError with the report as its text) if there is a finding."""
    report = check(loss_fn, inputs, **options)
    if report.fails(fail_on):
        raise LeakError(report)
    return report


Show = Callable[[Sequence[Path]], Iterable[Path]]
"""Hands files on, and may show how many are done."""


def reports_of(
    paths: Sequence[str], options: Options, failed: Callable[[str, GradauditError], None], show: Show = iter
) -> Iterator[CheckReport]:
    """Every case in the files below `paths`.

    What cannot be imported or audited is told to `failed` (the file or target, the error), and the rest goes on.
    """
    for file in show(collect.files(paths)):
        try:
            cases = list(collect.collect_file(file, options.app_dir, options.seed or 0))
        except GradauditError as error:
            failed(str(file), error)
            continue
        for target, one in cases:
            try:
                yield check_case(target, one, options)
            except GradauditError as error:
                failed(target.text, error)


class _CallableModule(ModuleType):
    """`gradaudit.check` is this module and the function of that name: whoever imports the one has the other."""

    def __call__(self, *args: Any, **options: Any) -> CheckReport:
        return check(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
