"""With every identifier neutral, the same is found: structure tells the roles, names only where nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from expectations import FIXTURES, Fixture, fixtures
from rename import rename_paths
from test_fixtures import lint

pytest.importorskip("torch", reason="the library's attributes tell what is not the program's own")

FROM_NAMES: dict[str, str] = {}
"""Fixtures whose findings are known from names alone, each with the name that matters."""

NOT_RENAMED = {
    "clean/hf_trainer_torch": "parameters are filled from the keys of a dictionary",
    "language/lightning_module_ok": "hyper-parameters are saved under the names of parameters",
    "language/lightning_module_lost": "hyper-parameters are saved under the names of parameters",
}
PROGRAMS = [fixture for fixture in fixtures() if fixture.name not in NOT_RENAMED]


def places(fixture: Fixture, base: Path) -> list[tuple[str, int, str]]:
    return sorted({(found.path.relative_to(base).as_posix(), found.line, found.code) for found in lint(fixture.path)})


@pytest.mark.parametrize("fixture", PROGRAMS, ids=lambda fixture: fixture.name)
def test_renamed(fixture: Fixture, tmp_path: Path) -> None:
    if fixture.name in FROM_NAMES:
        pytest.xfail(FROM_NAMES[fixture.name])
    (tmp_path / "pyproject.toml").touch()
    for path, text in rename_paths(fixture.files).items():
        compile(text, str(path), "exec")
        copy = tmp_path / path.relative_to(FIXTURES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    renamed = Fixture(tmp_path / fixture.path.relative_to(FIXTURES))
    assert places(renamed, tmp_path.resolve()) == places(fixture, FIXTURES)
