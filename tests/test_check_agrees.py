"""The two halves check each other: what lint is to say of a torch fixture's text, check says of its run, and proves.

Only `loss_fn` is run, without any role: what lint knows from the rest of the program (who steps what, which network is
updated from which) a run of the loss alone does not show; those fixtures are named with what they need.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from expectations import LINT_ONLY, ROOT, Expectation, Fixture, Found, disagreements, fixtures

pytest.importorskip("torch")

from gradaudit.check import Options, check_target  # noqa: E402

BESIDE = {
    "ga101/c51_torch_trained": "the line on which the optimizer was given its parameters (GA501)",
    "ga102/distill_to_target_torch_stepped": "the line on which the optimizer was given its parameters (GA501)",
    "ga103/dqn_torch_online": "the update that makes the target network one",
    "ga102/expectile_value_torch_live": "the update that makes the copy a target network",
    "ga401/encoder_torch_decorator": "that no other loss trains the encoder",
}


def runs(fixture: Fixture) -> bool:
    source = fixture.source
    return (
        not fixture.path.is_dir()
        and "def make_inputs" in source
        and "def loss_fn" in source
        and "import torch" in source
        and "import jax" not in source
        and not LINT_ONLY.search(source)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fixture", [one for one in fixtures() if runs(one)], ids=lambda one: one.name)
def test_agreement(fixture: Fixture, request: pytest.FixtureRequest) -> None:
    if fixture.name in BESIDE:
        request.applymarker(pytest.mark.xfail(reason=f"a loss alone does not show {BESIDE[fixture.name]}", strict=True))
    (report,) = check_target(f"{fixture.path.relative_to(ROOT)}:loss_fn", Options(app_dir=str(ROOT)))
    found = [Found(_path(one.location.path), one.location.line, one.code, one.severity) for one in report.findings]
    wanted = [Expectation(one.path, one.line, one.codes, None, one.label, one.missing) for one in fixture.expectations]
    problems = disagreements(wanted, found)
    assert not problems, "\n".join([*problems, str(report)])
    for proof in report.proofs:
        assert proof is None or (proof.identical and not proof.note), str(report)


def _path(path: str) -> Path:
    return Path(path).resolve()
