"""Every torch program below fixtures/check_torch: judged right, at the right line, and proved."""

from __future__ import annotations

import math

import pytest
from expectations import disagreements

torch = pytest.importorskip("torch")

from check_cases import cases, expected_of, found_in, run  # noqa: E402

from gradaudit.dynamic.recording import NONE  # noqa: E402

ALL = cases("check_torch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL, ids=str)
def test_case(name: str) -> None:
    target, case, file = ALL[name]
    report = run(target, case)
    right = name.partition("::")[2].rpartition(".")[2].startswith("ok_")
    wanted = [] if right else expected_of(target, file, everything=True)
    wanted = [one for one in wanted if one in expected_of(target, file, everything=False)] or wanted
    problems = disagreements(wanted, found_in(report))
    assert not problems, "\n".join([*problems, str(report)])
    assert right or report.findings
    for finding, proof, judgement in zip(report.findings, report.proofs, report.judgements, strict=True):
        if judgement.starved or finding.code == "GA603":
            continue
        assert proof is not None and not proof.note, (finding, proof)
        assert proof.identical
        assert proof.changes
        assert all(proof.states[leak] == NONE for leak in judgement.leaks)
        assert any(math.isclose(proof.value, part.loss) for part in (report.parts or [report]))
