"""`gradaudit check` on jax losses: every case of fixtures/check_jax, with its roles and without any."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from expectations import EXPECT, FIXTURES, ITEM

jax = pytest.importorskip("jax")
for name in ("flax", "haiku", "equinox", "optax", "rlax"):
    pytest.importorskip(name)

from gradaudit.check import CheckReport, Options, check_case, check_target  # noqa: E402
from gradaudit.dynamic import target as targets  # noqa: E402
from gradaudit.dynamic.case import Case, cases_in  # noqa: E402
from gradaudit.dynamic.recording import NONE  # noqa: E402

FOLDER = FIXTURES / "check_jax"


def cases() -> Iterator[tuple[Path, str, Case]]:
    for path in sorted(FOLDER.glob("*.py")):
        for name, _, case in cases_in(targets.load_module(str(path))):
            yield path, name, case


ALL = list(cases())
RIGHT = [one for one in ALL if one[1].startswith("ok_")]
WRONG = [one for one in ALL if not one[1].startswith("ok_")]


def named(one: Any) -> str:
    return f"{one[0].stem}:{one[1]}"


def expected(path: Path) -> dict[int, tuple[set[str], str]]:
    """Line -> the codes that may stand there, and the severity."""
    lines: dict[int, tuple[set[str], str]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        for item in match["text"].split(";") if (match := EXPECT.search(text)) else ():
            parsed = ITEM.match(item.strip())
            assert parsed, f"{path.name}:{number}: {item}"
            lines[number] = (set(parsed["codes"].split("|")), parsed["severity"] or "error")
    return lines


def span(path: Path, name: str) -> range:
    """The lines of a loss."""
    text = path.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(text, start=1) if line.startswith(f"def {name}("))
    end = next((i for i, line in enumerate(text[start:], start=start + 1) if re.match(r"\S", line)), len(text) + 1)
    return range(start, end)


@functools.cache
def audit(path: Path, name: str, case: Case) -> CheckReport:
    return check_case(targets.load(f"{path}:{name}"), case, Options())


@pytest.mark.parametrize("one", RIGHT, ids=named)
def test_right(one: tuple[Path, str, Case]) -> None:
    report = audit(*one)
    assert not report.findings, str(report)


@pytest.mark.parametrize("one", RIGHT, ids=named)
def test_right_without_roles(one: tuple[Path, str, Case]) -> None:
    path, name, case = one
    report = audit(path, name, replace(case, frozen=(), trained=()))
    assert not report.fails(), str(report)


@pytest.mark.parametrize("one", WRONG, ids=named)
def test_wrong(one: tuple[Path, str, Case]) -> None:
    path, name, case = one
    report = audit(path, name, case)
    lines = expected(path)
    assert any(line in span(path, name) for line in lines), "a wrong loss without an expectation"
    assert report.findings, str(report)
    for finding, proof in zip(report.findings, report.proofs, strict=True):
        codes, severity = lines.get(finding.location.line, (set(), ""))
        assert finding.code in codes and finding.severity == severity, str(report)
        if proof is not None:
            assert proof.identical and not proof.note, str(report)


@pytest.mark.parametrize("one", [one for one in WRONG if one[2].frozen and one[1].startswith("leak_")], ids=named)
def test_proof(one: tuple[Path, str, Case]) -> None:
    """With the stop the frozen groups get nothing and the others what they got."""
    report = audit(*one)
    frozen = {group.name for group in report.groups if group.role == "frozen"}
    proofs = [proof for proof in report.proofs if proof is not None]
    assert proofs
    for proof in proofs:
        assert all(proof.states[group] == NONE for group in frozen), str(report)
        assert all(change.group in frozen for change in proof.changes), str(report)


@pytest.mark.parametrize("name", ["made_at_import", "imported_by_name"])
def test_takers_of_the_module(name: str) -> None:
    """Gradient functions that were made, and takers that were named, when the module was imported."""
    (report,) = check_target(f"fixtures/check_jax/taken.py:{name}", Options(inputs="data"))
    assert [one.code for one in report.findings] == ["GA101"], str(report)
    assert report.target.endswith("> loss")
