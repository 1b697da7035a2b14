"""What the documents say is so."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gradaudit import __version__, catalog, config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_rules_is_complete() -> None:
    rows = re.findall(r"^\| (GA\d{3}) \| ([a-z-]+) \|", README, re.MULTILINE)
    assert rows == [(entry.code, entry.name) for entry in catalog.entries()]


def test_every_rule_loads_and_has_its_page() -> None:
    for entry in catalog.entries():
        rule = entry.load()
        assert rule.summary and len(rule.summary) <= 110, f"{rule.code}: the first line is a summary"


def test_ci_runs_the_readme_s_test_command() -> None:
    command = "pip install -q -r tests/requirements.txt -e . && pytest -n 2"
    assert f"```console\n{command}\n```" in README
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()
    assert command in (ROOT / "CONTRIBUTING.md").read_text()


SHOWN = re.findall(r"```console\n(gradaudit check [^\n]*)\n```\n\n```text\n(.*?)```", README, re.DOTALL)
LINTED = re.findall(r"&& (gradaudit lint [^\n]*)\n```\n\n```text\n(.*?)```", README, re.DOTALL)


def run(command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *command.split()]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_example_s_report_is_the_one_that_is_shown() -> None:
    ((command, shown),) = LINTED
    done = run(command)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == shown


def test_the_proof_that_is_shown_is_check_s() -> None:
    """Word for word but for the numbers, which depend on the build of torch."""
    pytest.importorskip("torch")
    ((command, shown),) = SHOWN
    done = run(command)
    assert done.returncode == 1, done.stderr
    assert re.sub(r"\d+\.\d+", "#", done.stdout) == re.sub(r"\d+\.\d+", "#", shown)


def test_the_configuration_that_is_shown_is_valid_and_complete() -> None:
    (shown,) = re.findall(r"```toml\n(\[tool\.gradaudit\]\n.*?)```", README, re.DOTALL)
    table = tomllib.loads(shown)["tool"]["gradaudit"]
    assert set(table) == set(config.KEYS)
    config._parse(table, ROOT / "pyproject.toml")


@pytest.mark.parametrize("output_format", config.FORMATS)
def test_every_format_is_named(output_format: str) -> None:
    assert f"`{output_format}`" in README


def test_versions_agree() -> None:
    assert f"rev: v{__version__}" in README and f"gradaudit@v{__version__}" in README


def test_no_document_names_a_machine() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml", ".ci/run", "action.yml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"/(?:work|tmp|opt|root|home)/", text), name
