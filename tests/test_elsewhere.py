"""Linting one file of several: what its calls lead to is told there, what it has nothing to do with is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradaudit.cli import cli
from gradaudit.finding import Finding, Step
from gradaudit.speaker import who_speaks
from gradaudit.tape import Location

NETS = """\
import torch


def bootstrap(net, batch):
    return batch["reward"] + 0.99 * net(batch["next_obs"]).max(1).values


def frozen_bootstrap(net, batch):
    with torch.no_grad():
        return bootstrap(net, batch)


class Agent:
    def __init__(self, optimizer):
        self.net = torch.nn.Linear(4, 2)
        self.optimizer = optimizer(self.net.parameters())

    def update(self, batch):
        q = self.net(batch["obs"]).gather(1, batch["action"]).squeeze(1)
        loss = torch.nn.functional.mse_loss(q, self.target(batch))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def target(self, batch):
        with torch.no_grad():
            return bootstrap(self.net, batch)
"""
TRAIN = """\
import torch
from nets import bootstrap, frozen_bootstrap

net = torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam(net.parameters())


def train(batch):
    q = net(batch["obs"]).gather(1, batch["action"]).squeeze(1)
    target = {call}(net, batch)
    loss = torch.nn.functional.mse_loss(q, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
HERITAGE = """\
import torch
from nets import Agent, bootstrap


class Careless(Agent):
    def __init__(self):
        super().__init__(torch.optim.Adam)

    def target(self, batch):
        return bootstrap(self.net, batch)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Writes the files, lints the paths, and gives (path, line, code) of what was found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("")

    def run(files: dict[str, str], *paths: str) -> list[tuple[str, int, str]]:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        output = CliRunner().invoke(cli, ["lint", "--output-format", "json", *paths]).stdout
        return [(row["path"], row["line"], row["code"]) for row in json.loads(output)]

    return run


def test_a_call_that_leaks_is_told_in_the_file_that_was_asked_for(told) -> None:  # type: ignore[no-untyped-def]
    files = {"nets.py": NETS, "train.py": TRAIN.format(call="bootstrap")}
    assert told(files, "train.py") == [("train.py", 10, "GA101")]
    assert told(files, "nets.py") == told(files, ".") == [("nets.py", 5, "GA101")]


def test_the_same_call_under_no_grad_is_silent(told) -> None:  # type: ignore[no-untyped-def]
    assert told({"nets.py": NETS, "train.py": TRAIN.format(call="frozen_bootstrap")}, "train.py") == []


def test_an_override_that_lost_its_stop(told) -> None:  # type: ignore[no-untyped-def]
    files = {"nets.py": NETS, "careless.py": HERITAGE}
    assert told(files, "careless.py") == [("careless.py", 10, "GA101")]


HELPED = (
    NETS
    + """

def loss_of(net, batch):
    q = net(batch["obs"]).gather(1, batch["action"]).squeeze(1)
    return torch.nn.functional.mse_loss(q, bootstrap(net, batch))
"""
)
HELPER_USED = """\
import torch
from nets import loss_of

net = torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam(net.parameters())


def train(batch):
    loss = loss_of(net, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_what_happens_in_a_helper_is_told_at_the_call(told) -> None:  # type: ignore[no-untyped-def]
    files = {"nets.py": HELPED, "train.py": HELPER_USED}
    assert told(files, "train.py") == [("train.py", 9, "GA101")]
    assert told(files, ".") == [("nets.py", 5, "GA101")]


TWICE = """\
import torch
from nets import loss_of

net = torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam(net.parameters())


def train(batch):
    with torch.no_grad():
        before = loss_of(net, batch)
    loss = loss_of(net, batch) - before
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_of_two_calls_the_one_with_gradient_is_told(told) -> None:  # type: ignore[no-untyped-def]
    assert told({"nets.py": HELPED, "train.py": TWICE}, "train.py") == [("train.py", 11, "GA101")]


def test_what_the_helper_takes_back_is_gone(told) -> None:  # type: ignore[no-untyped-def]
    stated = ".max(1).values  # gradaudit: ignore[GA101] a residual gradient"
    files = {"nets.py": HELPED.replace(".max(1).values", stated), "train.py": HELPER_USED}
    assert told(files, "train.py") == []


WEIGHTED = """\
import jax
import jax.numpy as jnp


def weigh(q, temperature):
    q = jax.lax.stop_gradient(q)
    weights = {softmax}
    dual = temperature * (0.1 + jnp.mean(jax.nn.logsumexp(q / temperature, 0)) - jnp.log(7.0))
    return weights, dual


def policy_loss(duals, log_probs, q):
    weights, dual = weigh(q, jax.nn.softplus(duals.temperature))
    return -jnp.mean(jnp.sum(weights * log_probs, 0)) + dual


def advantage_loss(advantages, log_probs):
    return -jnp.mean({weight} * log_probs)
"""
WEIGHTED_USED = """\
from losses import advantage_loss, policy_loss

learner.add(policy_loss)
learner.add(advantage_loss)
print(policy_loss(duals, log_probs, q), advantage_loss(q, log_probs))
"""


def test_a_weight_with_its_own_dual_is_told_whoever_calls(told) -> None:  # type: ignore[no-untyped-def]
    """Of the weight that an argument makes, the callers tell: they may have stopped it."""
    softmax, weight = "jax.nn.softmax(q / temperature, 0)", "jnp.exp(advantages)"
    live = WEIGHTED.format(softmax=softmax, weight=weight)
    assert told({"losses.py": live, "train.py": WEIGHTED_USED}, "losses.py") == [("losses.py", 7, "GA202")]
    stopped = WEIGHTED.format(softmax=f"jax.lax.stop_gradient({softmax})", weight=weight)
    assert told({"losses.py": stopped, "train.py": WEIGHTED_USED}, "losses.py") == []


LOSSES = """\
from torch.nn.functional import mse_loss


def td_loss(model, lagged, batch, gamma):
    obs, action, reward, next_obs, done = batch
    value = model.value(obs)[range(len(action)), action]
    target = reward + gamma * (1 - done) * lagged.value(next_obs).max(-1)[0]
    return mse_loss(value, target{stop})
"""
LEARN = """\
from copy import deepcopy

import torch
from losses import td_loss as loss_fn


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def value(self, x):
        return self.layer(x)


def run(buffer):
    model = Net()
    lagged = deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(100):
        loss = loss_fn(model, lagged, buffer.sample(32), 0.99)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lagged.load_state_dict(model.state_dict())
"""


@pytest.mark.parametrize("stop", ["", ".detach()"])
def test_a_loss_is_told_by_who_differentiates_it(told, stop: str) -> None:  # type: ignore[no-untyped-def]
    files = {"losses.py": LOSSES.format(stop=stop), "learn.py": LEARN}
    expected = [] if stop else [("losses.py", 7, "GA101")]
    assert told(files, "losses.py") == expected
    assert told(files, ".") == expected


VERSION = """\
import torch
import torch.nn as nn
import torch.nn.functional as F


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 2)

    def get_loss(self, obs, action, reward, next_obs):
        ahead = self.q(next_obs).max(1).values{stop}
        return F.mse_loss(self.q(obs).gather(1, action).squeeze(1), reward + 0.99 * ahead)


def train(model, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        model.get_loss(*batch).backward()
        optimizer.step()
"""


def test_of_two_classes_of_one_name_the_file_means_its_own(told) -> None:  # type: ignore[no-untyped-def]
    first, second = VERSION.format(stop=""), VERSION.format(stop=".detach()")
    files = {"a_version.py": first, "version.py": second}
    assert {place[2] for place in told(files, "a_version.py")} == {"GA101"}
    assert told(files, "version.py") == []


def test_one_way_is_told_once() -> None:
    """The class alone is told of at one line, the script that uses it at two: the same way from the loss."""
    steps = tuple(Step(Location("agent.py", line), "is made here") for line in (40, 38, 51))
    told = [
        Finding(
            "GA203",
            "temperature-loss",
            "gets gradient",
            "warning",
            Location("agent.py", line),
            "",
            None,
            steps,
            (),
            entry,
        )
        for line, entry in ((51, "agent.py:Agent"), (38, "main.py:<script>"), (51, "main.py:<script>"))
    ]
    assert [one.location.line for one in who_speaks(told, [])] == [51]
    assert [one.location.line for one in who_speaks(told[1:], [])] == [38, 51]  # of one entry: two cuts
