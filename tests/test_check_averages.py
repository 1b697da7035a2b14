"""What check sees of an update beside its loss: how much an average keeps, and where an optimizer is made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gradaudit.check import Options, check, check_target  # noqa: E402

Write = Callable[[Any, Any, float], None]

WRITES: dict[str, Write] = {
    "mul_ add_": lambda old, new, rate: old.mul_(1 - rate).add_(new, alpha=rate),
    "two statements": lambda old, new, rate: (old.mul_(1 - rate), old.add_(rate * new)),
    "lerp_": lambda old, new, rate: old.lerp_(new, rate),
    "copy_": lambda old, new, rate: old.copy_((1 - rate) * old + rate * new),
    "data": lambda old, new, rate: setattr(old, "data", new.data * rate + old.data * (1 - rate)),
    "increment": lambda old, new, rate: old.add_(rate * (new - old)),
    "decrement": lambda old, new, rate: old.sub_(rate * (old - new)),
}


def update(write: Write, rate: float) -> Callable[..., Any]:
    online = torch.nn.Linear(4, 2)
    lagging = copy.deepcopy(online)
    optimizer = torch.optim.SGD(online.parameters(), lr=0.1)

    def step(x: Any, reward: Any) -> Any:
        with torch.no_grad():
            target = reward + 0.9 * lagging(x)
        loss = (online(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(lagging.parameters(), online.parameters(), strict=True):
                write(old, new, rate)
        return loss

    return step


@pytest.mark.parametrize("how", WRITES)
def test_an_average_that_keeps_too_little(how: str) -> None:
    inputs = torch.randn(5, 4), torch.randn(5, 2)
    hasty = check(update(WRITES[how], 0.99), inputs)
    assert [one.code for one in hasty.findings] == ["GA504"]
    assert "keeps 0.01" in hasty.findings[0].message
    assert check(update(WRITES[how], 0.01), inputs).findings == []


def held_by_one_optimizer() -> Callable[..., Any]:
    net = torch.nn.Linear(4, 2)
    net_target = copy.deepcopy(net)
    both = torch.optim.SGD([*net.parameters(), *net_target.parameters()], lr=0.1)  # made here

    def step(x: Any, reward: Any) -> Any:
        loss = (net(x) - reward - 0.9 * net_target(x).detach()).square().mean()
        both.zero_grad()
        loss.backward()
        both.step()
        return loss

    return step


def test_an_optimizer_is_told_where_it_is_made() -> None:
    report = check(held_by_one_optimizer(), (torch.randn(5, 4), torch.randn(5, 2)))
    (found,) = (one for one in report.findings if one.code == "GA501")
    with open(__file__) as file:
        assert file.readlines()[found.location.line - 1].endswith("# made here\n")


def ensemble(trained: int) -> Callable[..., Any]:
    critics = torch.nn.ModuleList(torch.nn.Linear(4, 1) for _ in range(5))
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in critics]

    def step(x: Any, reward: Any) -> None:
        for critic, optimizer in zip(critics[:trained], optimizers, strict=False):
            loss = (critic(x)[:, 0] - reward).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def test_members_with_an_optimizer_each() -> None:
    """Two rounds of a loop are audited: what the others train is trained all the same."""
    inputs = torch.randn(5, 4), torch.randn(5)
    assert check(ensemble(5), inputs, trained="critics").findings == []
    some = check(ensemble(3), inputs, trained="critics").findings
    assert {one.message.split("`")[1] for one in some} == {"critics.3", "critics.4"}


def test_a_snapshot_that_is_no_copy() -> None:
    net = torch.nn.Linear(4, 2)

    def regression(snapshot: torch.nn.Module) -> Callable[..., Any]:
        def loss(x: Any, reward: Any) -> Any:
            with torch.no_grad():
                target = reward + 0.9 * snapshot(x)
            return (net(x) - target).square().mean()

        return loss

    inputs = torch.randn(5, 4), torch.randn(5, 2)
    assert [one.code for one in check(regression(net), inputs).findings] == ["GA502"]
    assert check(regression(copy.deepcopy(net)), inputs).findings == []


def test_the_name_of_an_argument_is_no_second_network() -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "clean" / "closed_over_target_torch.py"
    reports = check_target(f"{fixture}:loss_fn", Options())
    assert [one for report in reports for one in report.findings] == []
