"""check under torchrun: two gloo processes, DDP and FSDP2; told once, with the ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from expectations import FIXTURES

pytest.importorskip("torch")

FOLDER = FIXTURES / "check_torch" / "distributed"


def torchrun(loss: str, frozen: str, trained: str) -> dict:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command += ["-m", "gradaudit", "check", f"program:{loss}", "--frozen", frozen, "--trained", trained]
    command += ["--output-format", "json", "--fail-on", "never"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(
    ("loss", "frozen", "trained", "ranks"),
    [
        ("ddp_both", "both_target", "both_online", [0]),
        ("ddp_right", "both_target", "both_online", []),
        ("fsdp", "shard_target", "shard", [0, 1]),
    ],
)
def test_two_ranks(loss: str, frozen: str, trained: str, ranks: list[int]) -> None:
    report = torchrun(loss, frozen, trained)
    groups = {group["name"]: group for group in report["groups"]}
    assert groups[trained]["state"] == "nonzero" and groups[trained]["ranks"] == [0, 1]
    assert groups[frozen]["ranks"] == ranks
    assert groups[frozen]["state"] == ("nonzero" if ranks else "none")
    assert [finding["code"] for finding in report["findings"]] == (["GA102"] if ranks else [])
    for finding in report["findings"]:
        assert "goal" in (FOLDER / "program.py").read_text().splitlines()[finding["line"] - 1]
        assert finding["proof"]["identical"] and finding["proof"]["gone"]
