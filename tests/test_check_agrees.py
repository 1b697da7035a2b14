"""The two halves check each other: what lint is to say of a fixture's text, check says of its run, and proves.

check runs a fixture's loss on its inputs, or the whole program, without being told any role. What a run cannot show is
listed in `agreement`, with its reason; what the halves call by different names here.

Each half finds out by itself; with GRADAUDIT_TEXT set, check also tries what lint says of the text, as users see it.
Short torch programs are always compared and some that use jax, which takes seconds to compile; the others are where
GRADAUDIT_ALL is set.
"""

from __future__ import annotations

import os

import pytest
from agreement import JAX_COMPARED, OUTSIDE, always, checked, differences, framework, linted, runs, strangers
from expectations import Fixture, fixtures
from test_fixtures import missing_frameworks, quick_compilation

pytest.importorskip("torch")
pytest.importorskip("jax")

OTHER_NAMES = {
    "ga101/loss_class_torch_live": "the attribute that holds the network, and the variable that it comes from",
    "ga303/quantiser_torch_module_half": "the part that is called, and the object that holds it",
    "language/compound_guards_lost": "the only network of an object, and the object",
    "ga304/quantiser_template_torch_live": "an argument of the method that is judged by itself, and what it is given",
    "ga304/bounded_normal_torch_live": "an argument of the method that is judged by itself, and what it is given",
    "ga401/dpg_equinox_stopped": "the value that is stopped, and the network that makes it",
    "ga504/tree_map_jax_fires": "the parameters of the function that averages, and what it is given",
    "ga401/adapted_torch_stopped": "parameters in a dictionary, and the names of the dictionaries",
    "ga302/ensemble_distill_torch_live": "a network that a function makes, and the list that it is put into",
}
"""Fixtures on which both halves find the same at the same line, but call the network by different names."""

RAISES = "the backward that would show it raises, and is no loss of the run"
BESIDE = "what another loss trains, whose gradient changes the same tree, is in no run of this one"
AVERAGED = "a run does not tell that data is averaged into a parameter"
DIFFER = {
    "ga201/preference_torch_live_reference": "a run shows a network that nobody steps, and calls it a teacher (GA302)",
    "ga206/numbered_states_torch_carried": RAISES,
    "ga301/one_batch_labels_torch_live": "a run does not tell which rows of one answer a value is of",
    "ga206/streams_torch_carried": RAISES,
    "ga206/truncated_torch_fires": RAISES,
    "ga101/popped_haiku_live": "in a run the rewritten bias of the last layer is one more summand of the prediction",
    "ga204/game_torch_ok": "at its first loss a run does not know yet that the second is the same value, negated",
    "ga201/optimizer_given_torch_live": "rows are drawn: a run does not tell that both sides are of the same rows",
    "ga101/stop_switched_off_jax_live": "a function that gives back what it gets leaves nothing of itself in a run",
    "ga204/shared_encoder_flax_joint_live": "which layers of one module are whose is not told apart in a run of jax",
    "ga204/two_gradients_flax_raised": BESIDE,
    "ga204/one_tree_of_players_jax_raised": BESIDE,
    "ga101/successor_features_jax_live": "a run of the loss does not tell which network the lagged parameters follow",
    "ga401/truncated_torch_every_step": "a run has no loops: that one stop stands in every step is in the text only",
    "ga303/averaged_codebook_torch_live": AVERAGED,
    "ga303/averaged_codebook_nnx_live": AVERAGED,
    "ga303/averaged_sums_torch_live": AVERAGED,
    "ga303/averaged_sums_nnx_live": AVERAGED,
    "ga302/contrastive_memory_torch_live": "a run knows whom the optimizer leaves out: this is GA204 there",
    "ga201/agreement_jax_live": "in a run log(softmax(x)) and log_softmax(x) are two values",
    "ga401/shared_bottom_flax_ok": "a run does not tell which parameters began as copies of others",
    "ga204/constant_critic_equinox_live": BESIDE,
    "ga204/followed_encoder_flax_live": BESIDE,
    "ga204/model_haiku_live": BESIDE,
    "ga204/phasic_value_flax_live": BESIDE,
    "ga204/phasic_value_torch_live": BESIDE,
    "ga204/shared_encoder_torch_one_optimizer_live": BESIDE,
    "ga401/auxiliary_head_torch_stopped": BESIDE,
    "ga201/adapter_reference_jax_live": "a run of the loss alone tells it where the sum is used, too",
    "ga204/own_return_nnx_live": BESIDE,
    "ga204/raised_members_jax_live": BESIDE,
    "ga401/meta_discount_jax_stopped": "in a run nothing is there of what a stop cut inside of a derivative",
    "ga105/loss_object_jax_live": "the reward is made in the loss and is the same for all: in a run it is no data",
}
"""Fixtures on which the halves differ, most of them compared only where GRADAUDIT_ALL is set; each fails as soon as
they do not."""

ALL = [fixture for fixture in fixtures() if runs(fixture)]
COMPARED = [fixture for fixture in ALL if always(fixture) or os.environ.get("GRADAUDIT_ALL")]


def marked(fixture: Fixture) -> object:
    if fixture.name not in DIFFER:
        return fixture
    return pytest.param(fixture, marks=pytest.mark.xfail(reason=DIFFER[fixture.name], strict=True))


def quiet(fixture: Fixture, request: pytest.FixtureRequest) -> None:
    if missing := missing_frameworks(fixture.source):
        pytest.skip(f"not installed: {', '.join(missing)}")
    if framework(fixture) == "jax":
        quick_compilation(request)
    else:
        import torch

        torch.set_num_threads(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fixture", [marked(each) for each in COMPARED], ids=lambda one: one.name)
def test_agreement(fixture: Fixture, request: pytest.FixtureRequest) -> None:
    quiet(fixture, request)
    findings = checked(fixture, text=bool(os.environ.get("GRADAUDIT_TEXT")))
    problems = differences(fixture, findings)
    assert not problems, "\n".join([*problems, *map(str, findings)])
    if findings:
        assert bool(strangers(linted(fixture), findings)) == (fixture.name in OTHER_NAMES)


def test_every_listed_fixture_is_there() -> None:
    assert OTHER_NAMES.keys() | DIFFER.keys() | JAX_COMPARED <= {fixture.name for fixture in ALL}
    assert all(code.startswith("GA") for code in OUTSIDE)
