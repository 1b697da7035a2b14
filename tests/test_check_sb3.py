"""check on the real stable-baselines3: whole updates as they are, and with their stop taken away."""

from __future__ import annotations

import contextlib
import importlib
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")
gymnasium = pytest.importorskip("gymnasium")
numpy = pytest.importorskip("numpy")

import gradaudit  # noqa: E402

OFF_POLICY = {"DQN": "dqn.dqn", "TD3": "td3.td3", "SAC": "sac.sac"}


def trainer(name: str) -> Any:
    """A small agent with a hundred random transitions."""
    env = gymnasium.make("CartPole-v1" if name == "DQN" else "Pendulum-v1")
    env.action_space.seed(0)
    options = {"buffer_size": 200, "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [16]}}
    model = getattr(sb3, name)("MlpPolicy", env, **options)
    model._setup_learn(100)
    obs, _ = env.reset(seed=0)
    for _ in range(100):
        action = env.action_space.sample()
        following, reward, ended, cut, info = env.step(action)
        scaled = action if name == "DQN" else model.policy.scale_action(action)
        row = numpy.array([scaled]).reshape(1, -1), numpy.array([reward]), numpy.array([ended])
        model.replay_buffer.add(obs, following, row[0], row[1], row[2], [info])
        obs = env.reset()[0] if ended or cut else following
    model._n_updates = 1
    return model


def without_stops(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """The algorithm's `with th.no_grad()` does nothing any more."""

    class Torch(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    stand_in = Torch("torch")
    stand_in.no_grad = contextlib.nullcontext  # type: ignore[attr-defined]
    monkeypatch.setattr(importlib.import_module(f"stable_baselines3.{module}"), "th", stand_in)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainer(name)
    right = gradaudit.check(model.train, (1, 32), frozen="*.policy.*target*")
    assert right.ok, str(right)
    assert not gradaudit.check(model.train, (1, 32)).findings
    without_stops(monkeypatch, OFF_POLICY[name])
    wrong = gradaudit.check(model.train, (1, 32), frozen="*.policy.*target*")
    assert {finding.code for finding in wrong.findings} == {"GA102"}
    for finding, proof in zip(wrong.findings, wrong.proofs, strict=True):
        source = open(finding.location.path).read().splitlines()[finding.location.line - 1]
        assert source.strip().startswith("target_q_values = ")
        assert proof is not None and proof.identical
    unstated = gradaudit.check(model.train, (1, 32))
    assert "GA101" in {finding.code for finding in unstated.findings}


def on_policy(name: str) -> Any:
    """A small agent that has collected one rollout."""
    env = gymnasium.make("CartPole-v1")
    options = {"n_steps": 16} | ({"batch_size": 16, "n_epochs": 1, "clip_range_vf": 0.2} if name == "PPO" else {})
    model = getattr(sb3, name)("MlpPolicy", env, seed=0, device="cpu", **options)
    _, callback = model._setup_learn(64)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=16)
    return model


LIVE: dict[str, Any] = {
    "old_log_prob": lambda data, values, log_prob: log_prob,
    "old_values": lambda data, values, log_prob: values,
    "advantages": lambda data, values, log_prob: data.returns - values,
    "returns": lambda data, values, log_prob: data.returns + 0.9 * values,
}
"""What a rollout holds, as the policy of this moment says it: with its graph."""


def keep_graph(model: Any, field: str) -> None:
    """The rollout's batches bring this field with the graph of the networks that made it."""
    collected = model.rollout_buffer.get

    def get(batch_size: int | None = None) -> Any:
        for data in collected(batch_size):
            actions = data.actions.long().flatten()
            values, log_prob, _ = model.policy.evaluate_actions(data.observations, actions)
            yield data._replace(**{field: LIVE[field](data, values.flatten(), log_prob)})

    model.rollout_buffer.get = get


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["A2C", "PPO"])
def test_on_policy(name: str) -> None:
    report = gradaudit.check(on_policy(name).train, ())
    assert not report.findings, str(report)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "field", "code"),
    [
        ("PPO", "old_log_prob", "GA201"),
        ("PPO", "old_values", "GA201"),
        ("PPO", "advantages", "GA105"),
        ("PPO", "returns", "GA101"),
        ("A2C", "advantages", "GA105"),
        ("A2C", "returns", "GA101"),
    ],
)
def test_on_policy_with_a_live_rollout(name: str, field: str, code: str) -> None:
    """The rollout buffer is of numpy arrays, which refuse a graph; a buffer of tensors keeps it."""
    model = on_policy(name)
    keep_graph(model, field)
    report = gradaudit.check(model.train, ())
    assert [finding.code for finding in report.findings] == [code], str(report)
    source = open(report.findings[0].location.path).read().splitlines()[report.findings[0].location.line - 1]
    places = ("yield data._replace(", "for rollout_data in ", "advantages = ")
    assert source.strip().startswith(places), source
    assert report.proofs[0] is not None and report.proofs[0].identical


def test_the_rollout_buffer_refuses_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why nothing can be lost in the collection itself: the run ends where the stop was taken away."""
    without_stops(monkeypatch, "common.on_policy_algorithm")
    with pytest.raises(RuntimeError, match="requires grad"):
        on_policy("A2C")
