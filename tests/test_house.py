"""The house: which way imports go, who may know a framework, and that lint runs nothing of what it reads."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {
    "torch": "torch",
    "tensordict": "torch",
    "lightning": "torch",
    "jax": "jax",
    "jaxlib": "jax",
    "flax": "jax",
    "haiku": "jax",
    "equinox": "jax",
    "optax": "jax",
    "rlax": "jax",
    "distrax": "jax",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "numpy": "numpy",
}
# What each layer may import of ours. A layer that is not listed is above these and may import what it needs, but for
# what `NEVER` says.
ONLY = {
    "tape": set(),
    "errors": set(),
    "entries": set(),
    "finding": {"tape"},
    "algebra": {"tape", "paths"},
    "paths": {"tape", "finding", "algebra"},
    "ownership": {"tape", "paths"},
    "rule": {"finding", "paths", "tape"},
    "rules": {"tape", "paths", "ownership", "algebra", "rule", "finding", "rules"},
    "config": {"errors"},
    "discover": {"config", "errors"},
    "suppress": {"config", "finding"},
    "speaker": {"finding", "rule"},
    "elsewhere": {"finding", "tape"},
    "report": {"finding", "rule", "tape", "report", "gradaudit"},
    "catalog": {"config", "errors", "rule", "rules"},
}
NEVER = {
    "static": {"dynamic", "lint", "check", "cli", "report", "catalog", "config", "fix", "suppress"},
    "dynamic": {"static", "lint", "cli", "fix", "suppress"},
    "lint": {"dynamic", "check", "cli", "fix"},
    "fix": {"static", "dynamic", "cli"},
    "check": {"static", "cli"},
}


def files() -> Iterator[tuple[Path, str]]:
    """Every module of ours and its dotted name."""
    for folder, package in (("gradaudit", "gradaudit"), ("rules", "gradaudit.rules")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([package, *(part for part in parts if part != "__init__")])


MODULES = list(files())


def imports(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "gradaudit":
                yield from (f"gradaudit.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module


def layer(dotted: str) -> str:
    """The part of the house a module of ours is in: `gradaudit.report.text` is in `report`."""
    parts = dotted.split(".")
    if parts[1:2] == ["report"] and parts[-1] in ("check_json", "check_text", "graph"):
        return "check"  # these tell what check found, in its own words
    return parts[1] if len(parts) > 1 else "gradaudit"


@pytest.mark.parametrize(("path", "dotted"), MODULES, ids=[dotted for _, dotted in MODULES])
def test_arrows_go_one_way(path: Path, dotted: str) -> None:
    mine = layer(dotted)
    theirs = {
        layer(name.replace("gradaudit.__version__", "gradaudit"))
        for name in imports(path)
        if name.startswith("gradaudit")
    }
    if mine in ONLY:
        assert theirs <= ONLY[mine] | {mine}, f"{dotted} may not import {sorted(theirs - ONLY[mine] - {mine})}"
    assert not theirs & NEVER.get(mine, set()), f"{dotted} may not import {sorted(theirs & NEVER[mine])}"
    if mine != "__main__":
        assert mine == "cli" or "cli" not in theirs, f"{dotted} may not import the command line"


@pytest.mark.parametrize(("path", "dotted"), MODULES, ids=[dotted for _, dotted in MODULES])
def test_frameworks_are_known_to_their_recorder_only(path: Path, dotted: str) -> None:
    known = {FRAMEWORKS[name.split(".")[0]] for name in imports(path) if name.split(".")[0] in FRAMEWORKS}
    if layer(dotted) == "dynamic":
        part = dotted.split(".")[2] if dotted.count(".") > 1 else ""
        known -= {"numpy", part.split("_")[0]}
    assert not known, f"{dotted} may not import {sorted(known)}"


def test_every_package_is_installed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    here = {dotted for path, dotted in MODULES if path.name == "__init__.py"}
    assert here == set(setup["packages"])
    assert all((ROOT / folder).is_dir() for folder in setup["package-dir"].values())


CANARY = """
import os, torch, jax, tensorflow
open({canary!r}, "w").write("imported")
os.environ["CANARY"] = "1"

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)

net = Net()
optimizer = torch.optim.SGD(net.parameters(), 0.1)
loss = torch.nn.functional.mse_loss(net(torch.ones(2, 3)), torch.ones(2, 1))
loss.backward()
optimizer.step()
"""
PROBE = """
import sys
from gradaudit.cli import main
try:
    main(["lint", "--output-format", "json", "."])
except SystemExit as end:
    print("exit", end.code, file=sys.stderr)
heavy = {"torch", "jax", "jaxlib", "tensorflow", "flax", "numpy", "canary", "package"}
print("loaded", sorted(heavy & {name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_lint_imports_no_framework_and_nothing_of_what_it_reads(tmp_path: Path) -> None:
    canary = tmp_path / "canary.txt"
    text = CANARY.format(canary=str(canary))
    for name in ("canary.py", "package/__init__.py", "package/__main__.py", "conftest.py", "setup.py", "torch.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "user.py").write_text("from package import net\nimport canary\nprint(canary.net)\n")
    # Without the folder in sys.path, as in the installed command.
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert not canary.exists()
    assert "loaded []" in done.stderr, done.stderr
    assert {"exit 0", "exit 1"} & set(done.stderr.splitlines()), done.stderr


def test_output_is_the_same_under_another_hash_seed(tmp_path: Path) -> None:
    outputs = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "gradaudit", "lint", "--output-format", "json", "examples/dqn.py"],
            cwd=ROOT,
            capture_output=True,
            timeout=120,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
