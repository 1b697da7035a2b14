"""What a fixture expects of the linter, read from the comments on its offending lines.

    y = r + gamma * v           # expect: GA101                 any severity
    y = r + gamma * v           # expect: GA101 error           this severity
    a = sample()                # expect: GA201|GA105           either code
    return y                    # expect: GA101 [y]             exactly one finding among all the lines labelled y
    y = tricky(v)               # expect-missing: GA101 reason  a known limit: fails once it is found

Several expectations of one line are separated by semicolons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
CHECK_ONLY = ("check_torch", "check_jax")
EXPECT = re.compile(r"#\s*expect(?P<missing>-missing)?:\s*(?P<text>.*)$")
ITEM = re.compile(
    r"^(?P<codes>GA\d{3}(?:\|GA\d{3})*)(?:\s+(?P<severity>error|warning|info))?(?:\s+\[(?P<label>\w+)\])?$"
)
RAISES = re.compile(r"^# raises: (?P<error>\w+)", re.MULTILINE)
LINT_ONLY = re.compile(r"^# lint-only\b", re.MULTILINE)


class Found(NamedTuple):
    path: Path
    line: int
    code: str
    severity: str


@dataclass(frozen=True, slots=True)
class Expectation:
    path: Path
    line: int
    codes: frozenset[str]
    severity: str | None = None
    label: str | None = None
    missing: bool = False

    def fits(self, found: Found) -> bool:
        return found.path == self.path and found.line == self.line and found.code in self.codes

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {'|'.join(sorted(self.codes))}"


@dataclass(frozen=True, slots=True)
class Fixture:
    """One program: a file, or a folder of files that belong together (`pkg_*`: a package, `script_*`: scripts)."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(FIXTURES).as_posix().removesuffix(".py")

    @property
    def files(self) -> list[Path]:
        return sorted(self.path.rglob("*.py")) if self.path.is_dir() else [self.path]

    @property
    def source(self) -> str:
        return "\n".join(path.read_text(encoding="utf-8") for path in self.files)

    @property
    def expectations(self) -> list[Expectation]:
        return [expectation for path in self.files for expectation in read_expectations(path)]


def fixtures() -> list[Fixture]:
    """Every program below fixtures/, in order."""
    found = []
    for folder in sorted(FIXTURES.iterdir()):
        if not folder.is_dir() or folder.name in CHECK_ONLY or folder.name.startswith((".", "_")):
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix == ".py" or (path.is_dir() and path.name.startswith(("pkg_", "script_"))):
                found.append(Fixture(path))
    return found


def alone(fixture: Fixture, folder: Path, texts: Mapping[Path, str] | None = None) -> Fixture:
    """The program in a project of its own below `folder`, with other texts if they are given."""
    (folder / "pyproject.toml").touch()
    for path in fixture.files:
        copy = folder.resolve() / path.relative_to(FIXTURES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8") if texts is None else texts[path], encoding="utf-8")
    return Fixture(folder.resolve() / fixture.path.relative_to(FIXTURES))


def read_expectations(path: Path) -> Iterator[Expectation]:
    """The expectations that stand in a file; ValueError for one that cannot be read."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = EXPECT.search(line)
        if match is None:
            continue
        if match["missing"]:
            codes = match["text"].split()[0].split("|")
            yield Expectation(path, number, frozenset(codes), missing=True)
            continue
        for item in match["text"].split(";"):
            parsed = ITEM.match(item.strip())
            if parsed is None:
                raise ValueError(f"{path}:{number}: cannot read the expectation {item.strip()!r}")
            yield Expectation(path, number, frozenset(parsed["codes"].split("|")), parsed["severity"], parsed["label"])


def disagreements(expectations: Iterable[Expectation], found: Iterable[Found]) -> list[str]:
    """What differs between expected and found, one line each; empty if they agree."""
    expectations, found = list(expectations), list(found)
    hits = {number: [f for f in found if expected.fits(f)] for number, expected in enumerate(expectations)}
    problems = []
    for f in found:
        if not any(expected.fits(f) for expected in expectations):
            problems.append(f"unexpected {f.code} {f.severity} at {f.path.name}:{f.line}")
    groups: dict[str, list[int]] = {}
    for number, expected in enumerate(expectations):
        severities = {f.severity for f in hits[number]}
        if expected.missing:
            if hits[number]:
                problems.append(f"known limit is found now: {expected}")
        elif expected.label is not None:
            groups.setdefault(expected.label, []).append(number)
        elif not hits[number]:
            problems.append(f"missing {expected}")
        if expected.severity is not None and severities and severities != {expected.severity}:
            problems.append(f"severity of {expected}: expected {expected.severity}, found {', '.join(severities)}")
    for label, members in groups.items():
        count = len({(hit.line, hit.code) for number in members for hit in hits[number]})
        if count != 1:
            where = ", ".join(str(expectations[number]) for number in members)
            problems.append(f"{count} findings instead of one for [{label}]: {where}")
    return sorted(problems)
