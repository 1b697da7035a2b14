"""Every fixture: what lint says of its text, and that the program runs."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from agreement import runs_whole
from expectations import LINT_ONLY, RAISES, ROOT, Fixture, Found, alone, disagreements, fixtures

from gradaudit.config import Config
from gradaudit.lint import lint_paths

FRAMEWORKS = (
    "torch",
    "jax",
    "flax",
    "optax",
    "haiku",
    "equinox",
    "rlax",
    "distrax",
    "tensorflow",
    "lightning",
    "tensordict",
)
ALL = fixtures()
RUNNABLE = [
    fixture
    for fixture in ALL
    if not LINT_ONLY.search(fixture.source) and (RAISES.search(fixture.source) or not runs_whole(fixture))
]
"""What is run for its own sake: the comparison of the two halves runs the others."""


def lint(path: Path) -> list[Found]:
    """The findings of one fixture, linted in this process; an internal error is raised."""
    findings = lint_paths([path], Config(), debug=True).findings
    return [Found((Path.cwd() / f.location.path).resolve(), f.location.line, f.code, f.severity) for f in findings]


def known_codes() -> set[str]:
    return {path.name[:5].upper() for path in (ROOT / "rules").glob("ga[0-9][0-9][0-9]_*.py")}


@pytest.mark.parametrize("fixture", ALL, ids=lambda fixture: fixture.name)
def test_findings(fixture: Fixture, tmp_path: Path) -> None:
    fixture = alone(fixture, tmp_path)
    expectations = fixture.expectations
    wanted = {code for expectation in expectations for code in expectation.codes}
    if unknown := wanted - known_codes():
        pytest.skip(f"no rule yet: {', '.join(sorted(unknown))}")
    problems = disagreements(expectations, lint(fixture.path))
    assert not problems, "\n".join(problems)


def missing_frameworks(source: str) -> list[str]:
    imported = {name for name in FRAMEWORKS if re.search(rf"^\s*(?:import|from) {name}\b", source, re.MULTILINE)}
    return sorted(name for name in imported if importlib.util.find_spec(name) is None)


def entry_of(folder: Path) -> tuple[Path, str]:
    """What to put on sys.path and the module to run: packages run as modules, folders of scripts as scripts."""
    if folder.name.startswith("pkg_"):
        return folder.parent, f"{folder.name}.main"
    return folder, "main"


def execute(fixture: Fixture) -> None:
    """Run the program; where it offers a loss and inputs, run these as well."""
    if fixture.path.is_dir():
        base, module = entry_of(fixture.path)
        before = set(sys.modules)
        sys.path.insert(0, str(base))
        try:
            namespace = runpy.run_module(module, run_name="__main__")
        finally:
            sys.path.remove(str(base))
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(fixture.path)):
                    del sys.modules[name]
    else:
        namespace = runpy.run_path(str(fixture.path), run_name="__main__")
    if "loss_fn" in namespace and "make_inputs" in namespace:
        namespace["loss_fn"](*namespace["make_inputs"]())


def quick_compilation(request: pytest.FixtureRequest) -> None:
    """Compiling takes most of the time of a small jax program: do it without the optimiser."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    request.addfinalizer(lambda: jax.config.update("jax_disable_most_optimizations", False))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fixture", RUNNABLE, ids=lambda fixture: fixture.name)
def test_runs(fixture: Fixture, request: pytest.FixtureRequest) -> None:
    source = fixture.source
    if missing := missing_frameworks(source):
        pytest.skip(f"not installed: {', '.join(missing)}")
    if re.search(r"^\s*(?:import|from) torch\b", source, re.MULTILINE):
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
    if re.search(r"^\s*(?:import|from) jax\b", source, re.MULTILINE):
        quick_compilation(request)
    raises = RAISES.search(source)
    if raises is None:
        execute(fixture)
        return
    with pytest.raises(Exception) as caught:
        execute(fixture)
    assert type(caught.value).__name__ == raises["error"]
