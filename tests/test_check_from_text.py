"""What lint says of a text counts for check where the run bears it out: the program around a loss tells what the loss
alone does not. Each program here has a defect that a run of the loss does not show by itself, and a right version."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from gradaudit.check import CheckReport, Options, check_target

torch = pytest.importorskip("torch")

CURIOUS = """
import torch
from torch import nn, optim

torch.manual_seed(0)
actor = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
surprise = nn.Linear(4, 4)
actor_steps = optim.Adam(actor.parameters(), lr=1e-3)
surprise_steps = optim.Adam(surprise.parameters(), lr=1e-3)


def gains(seen, after, reward):
    bonus = (surprise(seen) - after).pow(2).mean(-1){stop}
    total = reward + bonus
    out, later = [], torch.zeros(())
    for one in total.flip(0):
        later = one + 0.9 * later
        out.append(later)
    return torch.stack(out[::-1])


def policy_loss(seen, action, gain):
    score = actor(seen).log_softmax(-1).gather(-1, action[:, None])[:, 0]
    return -(gain * score).mean()  # here


def loss_fn(seen, action, gain):
    return policy_loss(seen, action, gain)


def make_inputs():
    seen, after = torch.randn(7, 4), torch.randn(7, 4)
    return seen, torch.randint(0, 3, (7,)), gains(seen, after, torch.randn(7))


def main():
    for _ in range(2):
        seen, after, action = torch.randn(7, 4), torch.randn(7, 4), torch.randint(0, 3, (7,))
        loss = policy_loss(seen, action, gains(seen, after, torch.randn(7)))
        actor_steps.zero_grad()
        loss.backward()
        actor_steps.step()
        error = (surprise(seen) - after).pow(2).mean()
        surprise_steps.zero_grad()
        error.backward()
        surprise_steps.step()


if __name__ == "__main__":
    main()
"""

SHARED = """
import copy

import torch
from torch import nn, optim
from torch.nn import functional as F

torch.manual_seed(0)
first, second = nn.Linear(4, 1), nn.Linear(4, 1)
slow = copy.deepcopy(first)
steps = optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)


def value(net, seen):
    return net(seen).squeeze(-1)


def leaking(seen, after, reward):
    goal = reward + 0.9 * value(slow, after)
    return F.mse_loss(value(first, seen), goal)


def right(seen, after, reward):
    goal = reward + 0.9 * value(slow, after).detach()
    return F.mse_loss(value(second, seen), goal)


def make_inputs():
    return torch.randn(7, 4), torch.randn(7, 4), torch.randn(7)


def main():
    for loss in (leaking, right):
        steps.zero_grad()
        loss(*make_inputs()).backward()
        steps.step()
        with torch.no_grad():
            for old, new in zip(slow.parameters(), first.parameters(), strict=True):
                old.lerp_(new, 0.05)


if __name__ == "__main__":
    main()
"""

RATES = """
import jax
import jax.numpy as jnp
import optax


def prediction(weights, seen):
    return jnp.tanh(seen @ weights["in"]) @ weights["out"]


def inner_loss(weights, seen, wanted):
    return jnp.mean((prediction(weights, seen) - wanted) ** 2)


def adapted(meta, seen, wanted):
    slopes = jax.grad(inner_loss)(meta["start"], seen, wanted)
    return jax.tree.map(lambda old, rate, slope: old - {step}, meta["start"], meta["rate"], slopes)  # here


def loss_fn(meta, known, new):
    return inner_loss(adapted(meta, *known), *new)


def make_inputs():
    keys = jax.random.split(jax.random.PRNGKey(0), 6)
    start = {{"in": jax.random.normal(keys[0], (3, 5)), "out": jax.random.normal(keys[1], (5, 2))}}
    tasks = [jax.random.normal(key, size) for key, size in zip(keys[2:], ((7, 3), (7, 2)) * 2)]
    return {{"start": start, "rate": jax.tree.map(lambda one: 0.1 * jnp.ones_like(one), start)}}, tasks[:2], tasks[2:]


def main():
    meta, *tasks = make_inputs()
    optimizer = optax.adam(1e-3)
    state = optimizer.init(meta)
    for _ in range(2):
        updates, state = optimizer.update(jax.grad(loss_fn)(meta, *tasks), state)
        meta = optax.apply_updates(meta, updates)


if __name__ == "__main__":
    main()
"""


def audit(folder: Path, program: str, loss: str = "loss_fn", **options: bool) -> CheckReport:
    file = folder / f"program_{zlib.crc32(program.encode())}.py"
    file.write_text(program, encoding="utf-8")
    (report,) = check_target(f"{file}:{loss}", Options(inputs="make_inputs", **options))
    return report


def line_of(text: str, mark: str = "# here") -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if mark in line)


def test_a_reward_that_is_handed_in_with_its_graph(tmp_path: Path) -> None:
    live = CURIOUS.format(stop="")
    report = audit(tmp_path, live)
    assert [(one.code, one.location.line) for one in report.findings] == [("GA105", line_of(live))]
    assert "surprise" in report.findings[0].message
    assert audit(tmp_path, CURIOUS.format(stop=".detach()")).findings == []


def test_the_run_alone_does_not_know(tmp_path: Path) -> None:
    assert audit(tmp_path, CURIOUS.format(stop=""), text=False).findings == []


def test_another_loss_of_the_file_is_not_meant(tmp_path: Path) -> None:
    assert {one.code for one in audit(tmp_path, SHARED, "leaking").findings} <= {"GA101", "GA102"}
    assert audit(tmp_path, SHARED, "leaking").findings
    assert audit(tmp_path, SHARED, "right").findings == []


def test_rates_that_learn_nothing(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    stopped = RATES.format(step="jax.lax.stop_gradient(rate * slope)")
    report = audit(tmp_path, stopped)
    assert [(one.code, one.location.line) for one in report.findings] == [("GA401", line_of(stopped))]
    assert audit(tmp_path, RATES.format(step="rate * slope")).findings == []
