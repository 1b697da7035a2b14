"""A finding: what is wrong, where, how bad, how it gets there and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradaudit.tape import Location

SEVERITIES = ("info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the text of `location` with `text`."""

    location: Location
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """What to write instead. `applicability` is safe, unsafe or display (advice without edits)."""

    message: str
    applicability: str = "display"
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the way from the loss to the origin."""

    location: Location
    message: str


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    name: str
    message: str
    severity: str
    location: Location
    framework: str = ""
    fix: Fix | None = None
    trace: tuple[Step, ...] = ()
    callers: tuple[Location, ...] = ()
    """The calls that lead to a place in another file than the one that was read, innermost first."""
    entry: str = field(default="", compare=False)
    """What was recorded when it was found: a script, a class, a function of a file."""

    @property
    def sort_key(self) -> tuple[object, ...]:
        return (self.location.path, self.location.line, self.location.column, self.code, self.message)
