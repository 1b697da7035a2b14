"""check on rlax's losses: right with their stop, and with its switch turned off a leak at the user's line."""

from __future__ import annotations

import inspect
from operator import attrgetter
from typing import Any

import pytest

jax = pytest.importorskip("jax")
rlax = pytest.importorskip("rlax")
distrax = pytest.importorskip("distrax")
numpy = pytest.importorskip("numpy")

import jax.numpy as jnp  # noqa: E402

import gradaudit  # noqa: E402

STEPS, OBS, ACTIONS, ATOMS = 5, 4, 3, 7
RANDOM = numpy.random.default_rng(0)


def draw(*shape: int) -> Any:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def network() -> dict[str, Any]:
    heads = {"q": draw(OBS, ACTIONS), "v": draw(OBS), "pi": draw(OBS, ACTIONS), "atoms": draw(OBS, ACTIONS * ATOMS)}
    shared = {"trunk": draw(OBS, OBS)}
    return heads | shared | {"temperature": draw(), "alpha": draw()}


PARAMS = {"online": network(), "slow": network()}
BATCH = {
    "obs": draw(STEPS, OBS),
    "next_obs": draw(STEPS, OBS),
    "action": jnp.arange(STEPS) % ACTIONS,
    "next_action": jnp.arange(1, STEPS + 1) % ACTIONS,
    "reward": draw(STEPS),
    "discount": jnp.full(STEPS, 0.9),
    "rho": jnp.exp(0.1 * draw(STEPS)),
    "old_log_prob": jnp.full(STEPS, -1.1),
    "mu": jnp.full(STEPS, 1 / 3),
}
LAMBDA = jnp.array(0.9)
LEVELS = (jnp.arange(ATOMS) + 0.5) / ATOMS
SUPPORT = jnp.linspace(-2.0, 2.0, ATOMS)
WEIGHTS = jnp.ones(STEPS)
UNIFORM = jnp.full((STEPS, ACTIONS), 1 / ACTIONS)


def q(net: Any, obs: Any) -> Any:
    return obs @ net["q"]


def v(net: Any, obs: Any) -> Any:
    return obs @ net["v"]


def logits(net: Any, obs: Any) -> Any:
    return (obs @ net["atoms"]).reshape(-1, ACTIONS, ATOMS)


def quantiles(net: Any, obs: Any) -> Any:
    return logits(net, obs).swapaxes(1, 2)


def log_prob(net: Any, batch: Any) -> Any:
    return jax.nn.log_softmax(batch["obs"] @ net["pi"])[jnp.arange(STEPS), batch["action"]]


def rows(function: Any, stop: bool, *args: Any) -> Any:
    return jax.vmap(lambda *row: function(*row, stop_target_gradients=stop))(*args)


def td_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    return rlax.l2_loss(rows(rlax.td_learning, stop, v(p, b["obs"]), b["reward"], b["discount"], v(t, b["next_obs"])))


def q_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    known = b["action"], b["reward"], b["discount"]
    return rlax.l2_loss(rows(rlax.q_learning, stop, q(p, b["obs"]), *known, q(t, b["next_obs"])))


def double_q_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    known = b["action"], b["reward"], b["discount"]
    values = q(t, b["next_obs"]), q(p, b["next_obs"])
    return rlax.l2_loss(rows(rlax.double_q_learning, stop, q(p, b["obs"]), *known, *values))


def qv_max(p: Any, t: Any, b: Any, stop: bool) -> Any:
    return rlax.l2_loss(rows(rlax.qv_max, stop, v(p, b["obs"]), b["reward"], b["discount"], q(t, b["next_obs"])))


def retrace(p: Any, t: Any, b: Any, stop: bool) -> Any:
    taken = b["action"], b["next_action"], b["reward"], b["discount"], UNIFORM, b["mu"], LAMBDA
    return rlax.l2_loss(rlax.retrace(q(p, b["obs"]), q(t, b["next_obs"]), *taken, stop_target_gradients=stop))


def vtrace(p: Any, t: Any, b: Any, stop: bool) -> Any:
    values = v(p, b["obs"]), v(t, b["next_obs"])
    return rlax.l2_loss(rlax.vtrace(*values, b["reward"], b["discount"], b["rho"], stop_target_gradients=stop))


def lambda_returns(p: Any, t: Any, b: Any, stop: bool) -> Any:
    later = v(t, b["next_obs"])
    goal = rlax.lambda_returns(b["reward"], b["discount"], later, 0.9, stop_target_gradients=stop)
    return rlax.l2_loss(v(p, b["obs"]), goal)


def quantile_q_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    later = quantiles(t, b["next_obs"])

    def one(now: Any, action: Any, reward: Any, discount: Any, then: Any) -> Any:
        data = action, reward, discount, then, then, 1.0
        return rlax.quantile_q_learning(now, LEVELS, *data, stop_target_gradients=stop)

    return jax.vmap(one)(quantiles(p, b["obs"]), b["action"], b["reward"], b["discount"], later)


def categorical_q_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    later = logits(t, b["next_obs"])

    def one(now: Any, action: Any, reward: Any, discount: Any, then: Any) -> Any:
        data = action, reward, discount, SUPPORT, then
        return rlax.categorical_q_learning(SUPPORT, now, *data, stop_target_gradients=stop)

    return jax.vmap(one)(logits(p, b["obs"]), b["action"], b["reward"], b["discount"], later)


def seen(net: Any, obs: Any) -> Any:
    """Features that all heads of a network share."""
    return jnp.tanh(obs @ net["trunk"])


def categorical_td_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    def one(now: Any, reward: Any, discount: Any, then: Any) -> Any:
        data = reward, discount, SUPPORT, then
        return rlax.categorical_td_learning(SUPPORT, now, *data, stop_target_gradients=stop)

    now, later = logits(p, seen(p, b["obs"]))[:, 0], logits(t, seen(t, b["next_obs"]))[:, 0]
    return jax.vmap(one)(now, b["reward"], b["discount"], later)


def categorical_double_q_learning(p: Any, t: Any, b: Any, stop: bool) -> Any:
    def one(now: Any, action: Any, reward: Any, discount: Any, then: Any, chosen: Any) -> Any:
        data = action, reward, discount, SUPPORT, then, chosen
        return rlax.categorical_double_q_learning(SUPPORT, now, *data, stop_target_gradients=stop)

    now, later = logits(p, seen(p, b["obs"])), logits(t, seen(t, b["next_obs"]))
    chosen = q(p, seen(p, b["next_obs"]))
    return jax.vmap(one)(now, b["action"], b["reward"], b["discount"], later, chosen)


def policy_gradient(p: Any, t: Any, b: Any, stop: bool) -> Any:
    advantage = 3.0 * b["reward"] - v(p, b["obs"])
    return rlax.policy_gradient_loss(b["obs"] @ p["pi"], b["action"], advantage, WEIGHTS, use_stop_gradient=stop)


def clipped_surrogate(p: Any, t: Any, b: Any, stop: bool) -> Any:
    ratio = jnp.exp(log_prob(p, b) - b["old_log_prob"])
    advantage = 3.0 * b["reward"] - v(p, b["obs"])
    return rlax.clipped_surrogate_pg_loss(ratio, advantage, 0.2, use_stop_gradient=stop)


def generalized_advantage(p: Any, t: Any, b: Any, stop: bool) -> Any:
    data = b["reward"][1:], b["discount"][1:], 0.9, v(p, b["obs"])
    advantage = rlax.truncated_generalized_advantage_estimation(*data, stop_target_gradients=stop)
    return -(log_prob(p, b)[:-1] * advantage)


def deterministic(p: Any, t: Any, b: Any, stop: bool) -> Any:
    rises = 0.1 * b["next_obs"][:, :ACTIONS]
    return jax.vmap(lambda a, da: rlax.dpg_loss(a, da, 1.0, use_stop_gradient=stop))(b["obs"] @ p["pi"], rises)


def q_policy_gradient(p: Any, t: Any, b: Any, stop: bool) -> Any:
    return rlax.qpg_loss(b["obs"] @ p["pi"], q(p, b["obs"]), use_stop_gradient=stop)


def regret_matching(p: Any, t: Any, b: Any, stop: bool) -> Any:
    return rlax.rm_loss(b["obs"] @ p["pi"], q(p, b["obs"]), use_stop_gradient=stop)


def regret_policy_gradient(p: Any, t: Any, b: Any, stop: bool) -> Any:
    return rlax.rpg_loss(b["obs"] @ p["pi"], q(p, b["obs"]), use_stop_gradient=stop)


def with_a_trunk(p: Any, t: Any, b: Any, stop: bool) -> Any:
    features = seen(p, b["obs"])
    return rlax.qpg_loss(features @ p["pi"], q(p, features), use_stop_gradient=stop)


def distillation(p: Any, t: Any, b: Any, stop: bool) -> Any:
    weights = jnp.exp(3.0 * b["reward"] - v(p, b["obs"]))
    targets = rlax.PolicyTarget(actions=b["action"][None], weights=weights[None])
    return rlax.sampled_policy_distillation_loss(distrax.Categorical(logits=b["obs"] @ p["pi"]), targets, stop)


def maximum_a_posteriori(p: Any, t: Any, b: Any, stop: bool) -> Any:
    known = jax.lax.stop_gradient(q(t, b["obs"])[:, :2].T)
    scores = jax.nn.log_softmax(b["obs"] @ p["pi"])[:, :2].T
    kl = rlax.categorical_kl_divergence(UNIFORM, b["obs"] @ p["pi"])
    temperature, multiplier = (rlax.LagrangePenalty(jax.nn.softplus(p[name]), 0.1) for name in ("temperature", "alpha"))
    return rlax.mpo_loss(scores, known, temperature, [(kl, multiplier)], use_stop_gradient=stop)[0]


VALUES = (
    td_learning, q_learning, double_q_learning, qv_max, retrace, vtrace,
    lambda_returns, quantile_q_learning, categorical_q_learning, categorical_td_learning, categorical_double_q_learning,
)  # fmt: skip
POLICIES = {
    policy_gradient: "GA105",
    clipped_surrogate: "GA105",
    generalized_advantage: "GA105",
    deterministic: "GA304",
    q_policy_gradient: "GA105",
    regret_matching: "GA105",
    regret_policy_gradient: "GA105",
    with_a_trunk: "GA105",
    distillation: "GA202",
    maximum_a_posteriori: "GA203",
}
NAME = attrgetter("__name__")


def audit(function: Any, stop: bool, target: str, **roles: Any) -> Any:
    def loss(params: Any, batch: Any) -> Any:
        return jnp.mean(function(params["online"], params[target], batch, stop))

    return gradaudit.check(loss, (PARAMS, BATCH), **roles)


def told(function: Any, report: Any) -> set[str]:
    """The codes, all at lines of the function (or where it applies a loss to its rows), each proved."""
    for finding, proof in zip(report.findings, report.proofs, strict=True):
        spans = [inspect.getsourcelines(one) for one in (function, rows)]
        assert any(first <= finding.location.line < first + len(lines) for lines, first in spans), str(report)
        assert proof is not None and proof.identical and not proof.note, str(report)
    return {finding.code for finding in report.findings}


@pytest.mark.parametrize("function", VALUES, ids=NAME)
def test_values(function: Any) -> None:
    assert told(function, audit(function, False, "online")) == {"GA101"}
    assert not audit(function, True, "online").findings


@pytest.mark.parametrize("function", [td_learning, retrace, categorical_q_learning, categorical_td_learning], ids=NAME)
def test_target_network(function: Any) -> None:
    assert told(function, audit(function, False, "slow", frozen="params.slow")) == {"GA102"}
    assert not audit(function, True, "slow", frozen="params.slow").findings


@pytest.mark.parametrize("function", POLICIES, ids=NAME)
def test_policies(function: Any) -> None:
    assert told(function, audit(function, False, "online")) == {POLICIES[function]}
    assert not audit(function, True, "online").findings


def test_the_quantile_loss_itself_stops_no_target() -> None:
    """Its switch stops the sign of the error alone; the target is the caller's."""

    def loss(params: Any, batch: Any) -> Any:
        goal = batch["reward"][:, None] + 0.9 * quantiles(params["online"], batch["next_obs"])[:, :, 0]
        now = quantiles(params["online"], batch["obs"])[:, :, 0]
        return jnp.mean(jax.vmap(rlax.quantile_regression_loss, (0, None, 0))(now, LEVELS, goal))

    report = gradaudit.check(loss, (PARAMS, BATCH))
    assert [finding.code for finding in report.findings] == ["GA101"], str(report)


@pytest.mark.parametrize("function", [q_learning, categorical_q_learning, regret_policy_gradient], ids=NAME)
def test_a_library_without_its_stops(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the stop had been forgotten inside of the library."""
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda value: value)
    assert told(function, audit(function, True, "online")) == {POLICIES.get(function, "GA101")}
