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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["A2C", "PPO"])
def test_on_policy(name: str) -> None:
    env = gymnasium.make("CartPole-v1")
    options = {"n_steps": 32} | ({"batch_size": 16, "n_epochs": 1} if name == "PPO" else {})
    model = getattr(sb3, name)("MlpPolicy", env, seed=0, device="cpu", **options)
    _, callback = model._setup_learn(64)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=32)
    report = gradaudit.check(model.train, ())
    assert not report.findings, str(report)
