"""With every identifier neutral, the same is found: structure tells the roles, names only where nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from expectations import Fixture, alone, disagreements, fixtures
from rename import rename_paths
from test_fixtures import lint

pytest.importorskip("torch", reason="the library's attributes tell what is not the program's own")

LIBRARY_REWARD = "in a function without a caller only its name tells the reward from the other arguments"
FROM_NAMES: dict[str, str] = {
    "clean/residual_gradient_jax": "the algorithm's name says that both sides are meant to be trained",
    "clean/residual_gradient_torch": "the algorithm's name says that both sides are meant to be trained",
    "ga101/errors_in_place_torch_live": LIBRARY_REWARD,
    "ga104/gae_library_torch_off_by_default": LIBRARY_REWARD,
    "ga302/contrastive_memory_torch_live": "only its name tells that what is called there is a network",
    "ga105/loss_object_jax_live": "the method says by its name that it computes a loss",
    "ga204/own_return_nnx_live": "a filter names the attribute that it takes",
    "ga204/own_return_nnx_ok": "a filter names the attribute that it takes",
    "ga401/filtered_nnx_ok": "a filter names the attribute that it takes",
    "ga203/asked_score_jax_ok": "the flag says what it is for by its own name",
    "ga401/unasked_term_torch_asked": "the method says by its name that it computes a loss",
    "ga104/unnamed_values_jax_no_effect": "the switch says what it is for by its own name",
    "ga104/q_lambda_jax_no_effect": LIBRARY_REWARD,
    "ga104/q_lambda_jax_off_by_default": LIBRARY_REWARD,
    "ga104/td_library_torch_no_effect": LIBRARY_REWARD,
    "ga104/td_library_torch_off_by_default": LIBRARY_REWARD,
}
"""Fixtures whose findings are known from names alone. One that is found without them must leave this list."""

SO_FAR: frozenset[str] = frozenset()
"""Fixtures that structure tells as well, but that are found by their names so far. They too must leave the list."""

NOT_RENAMED = {
    "ga900/syntax_error": "it is no Python",
    "clean/hf_trainer_torch": "parameters are filled from the keys of a dictionary",
    "ga101/config_driven_torch_ok": "parameters are filled from the keys of a configuration",
    "ga101/config_driven_torch_leak": "parameters are filled from the keys of a configuration",
    "language/lightning_module_ok": "hyper-parameters are saved under the names of parameters",
    "language/lightning_module_lost": "hyper-parameters are saved under the names of parameters",
}
PROGRAMS = [fixture for fixture in fixtures() if fixture.name not in NOT_RENAMED]


@pytest.mark.parametrize("fixture", PROGRAMS, ids=lambda fixture: fixture.name)
def test_renamed(fixture: Fixture, tmp_path: Path) -> None:
    """What is expected of the program, line by line, is found when its names are gone: its comments are still there."""
    texts = rename_paths(fixture.files)
    for path, text in texts.items():
        compile(text, str(path), "exec")
    renamed = alone(fixture, tmp_path, texts)
    wanted = [replace(one, severity=None) for one in renamed.expectations]
    problems = disagreements(wanted, lint(renamed.path))
    if fixture.name in FROM_NAMES or fixture.name in SO_FAR:
        assert problems, "structure tells it now: take it off the list"
    else:
        assert not problems, "\n".join(problems)
