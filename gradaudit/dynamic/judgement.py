"""What check says of a run, before it is proved: the finding, and where to try a stop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gradaudit.dynamic.recording import Cut, Group, Recording
from gradaudit.finding import Finding, Fix, Step
from gradaudit.paths import Analysis, View
from gradaudit.tape import Location, Node

NAMES = {
    "GA101": "bootstrap-target",
    "GA102": "target-network",
    "GA105": "advantage",
    "GA201": "old-policy",
    "GA202": "importance-weight",
    "GA203": "temperature-loss",
    "GA204": "foreign-gradient",
    "GA206": "carried-state",
    "GA205": "non-reparameterised-sample",
    "GA301": "ema-branch",
    "GA302": "teacher",
    "GA303": "codebook",
    "GA304": "straight-through",
    "GA401": "stopped-prediction",
    "GA402": "loss-without-gradient",
    "GA501": "target-in-optimizer",
    "GA502": "target-alias",
    "GA603": "broadcast-loss",
}


@dataclass(slots=True)
class Judgement:
    """A finding and its proof's material. `leaks` are the names of the groups that must get nothing."""

    finding: Finding
    cut: Cut | None = None
    leaks: tuple[str, ...] = ()
    freeze: bool = False
    starved: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()


@dataclass(slots=True)
class Case:
    """A recording with what the judgements share."""

    recording: Recording
    analysis: Analysis = field(init=False)
    view: View = field(init=False)

    def __post_init__(self) -> None:
        self.analysis = Analysis(self.recording.tape)
        self.view = self.analysis.views[0]

    @property
    def groups(self) -> list[Group]:
        return self.recording.groups

    def mask(self, groups: Iterable[Group]) -> int:
        return self.analysis.mask(leaf for group in groups for leaf in group.leaves)


def finding(
    case: Case,
    code: str,
    severity: str,
    message: str,
    location: Location,
    fix: str = "",
    trace: tuple[Step, ...] = (),
) -> Finding:
    return Finding(
        code=code,
        name=NAMES[code],
        message=message,
        severity=severity,
        location=location,
        framework=case.recording.framework,
        fix=Fix(fix) if fix else None,
        trace=trace,
    )


def trace(case: Case, through: Node, leaves: int) -> tuple[Step, ...]:
    """The user's lines from the loss to the parameter by way of `through`, one step a line."""
    view = case.view
    nodes = view.way_to_loss(through)[::-1] + view.path(through, leaves)[1:]
    steps: list[Step] = []
    for node in nodes:
        where = node.location
        if node.leaf is not None:
            if steps:
                steps.append(Step(steps[-1].location, f"the parameter {node.leaf.path}"))
            continue
        if not where.line or (steps and _same_line(steps[-1].location, where)):
            continue
        steps.append(Step(where, describe(node)))
    return tuple(steps)


def _same_line(one: Location, other: Location) -> bool:
    return (one.path, one.line) == (other.path, other.line)


def describe(node: Node) -> str:
    """An operation in words: what the user calls the value, and what makes it."""
    what = {"module_call": f"{node.detail} layer", "call": node.detail or "call"}.get(node.op, node.op)
    if node.frame is not None and node.op == "module_call":
        what = node.frame.network.path or what
    return f"{node.name} ({what})" if node.name else what


def names(groups: Iterable[Group] | Iterable[str]) -> str:
    """`a`, `b` and `c`."""
    words = [f"`{one if isinstance(one, str) else one.name}`" for one in groups]
    if len(words) > 4:
        words = [*words[:3], f"{len(words) - 3} more"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def call_location(node: Node) -> Location:
    """Where the network that a node belongs to was called from: outside of its own methods."""
    place, call = node.location, node.call
    while call is not None:
        if call.function in ("forward", "__call__"):
            place = call.location
        call = call.parent
    return place
