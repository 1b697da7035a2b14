"""Many files at once: the report does not depend on the number of processes, on order, or on a worker's health."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from gradaudit import workers
from gradaudit.config import Config
from gradaudit.finding import Finding
from gradaudit.lint import lint_paths

LEAK = """
import copy

import torch
from torch import nn
from torch.nn import functional as F

{name} = nn.Linear(4, 2)
target = copy.deepcopy({name})
optimizer = torch.optim.Adam({name}.parameters())
obs, reward, next_obs = torch.randn(8, 4), torch.randn(8), torch.randn(8, 4)
loss = F.mse_loss({name}(obs).max(1)[0], reward + 0.9 * {name}(next_obs).max(1)[0])
optimizer.zero_grad()
loss.backward()
optimizer.step()
"""


def told(findings: Iterable[Finding]) -> list[str]:
    return [f"{found.code} {found.location} {found.message} {found.trace}" for found in findings]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork")
def test_results_are_in_order_and_a_dead_worker_costs_nothing() -> None:
    ours = os.getpid()

    def work(number: int) -> int:
        if number == 3 and os.getpid() != ours:
            os._exit(1)
        return number * number

    assert list(workers.spread(work, list(range(20)), 3)) == [number * number for number in range(20)]


def test_little_text_is_followed_by_one_process() -> None:
    assert workers.processes(1000) == 1
    assert list(workers.spread(str, [1, 2], 1)) == ["1", "2"]


def test_the_report_does_not_depend_on_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        Path(f"train_{number}.py").write_text(LEAK.format(name=f"q{number}"), encoding="utf-8")
    Path("broken.py").write_text("import torch\ndef f(:\n", encoding="utf-8")
    reports = [lint_paths([Path(".")], Config(), jobs=jobs) for jobs in (1, 2, 5)]
    first, *others = [told(report.findings) for report in reports]
    assert all(other == first for other in others)
    assert len(first) > 6 and any(line.startswith("GA900") for line in first)


def test_a_file_is_judged_alone_as_in_company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Path(f"train_{number}.py").write_text(LEAK.format(name=f"q{number}"), encoding="utf-8")
    together = lint_paths([Path(".")], Config(), jobs=1).findings
    alone = [finding for n in range(3) for finding in lint_paths([Path(f"train_{n}.py")], Config()).findings]
    assert told(together) == told(alone)
