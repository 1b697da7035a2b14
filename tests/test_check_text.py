"""What check takes from the text of a loss's module: optimizers that only a main block makes, whose step follows a
loss, which argument a gradient is taken for, and whether other losses train what this one leaves out."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from gradaudit import check
from gradaudit.dynamic.module_text import argnums_in_text, has_company
from gradaudit.dynamic.recording import LossCall
from gradaudit.entries import entries_replaced

Load = Callable[[str], ModuleType]

GAN = """
import torch
from torch import nn

maker = nn.Linear(3, 4)
judge = nn.Linear(4, 1)


def loss_fn(real, noise):
    fake = maker(noise){stop}
    return judge(fake).mean() - judge(real).mean()


def make_inputs():
    return torch.randn(7, 4), torch.randn(7, 3)


def maker_loss(noise):
    return -judge(maker(noise)).mean()


if __name__ == "__main__":
    of_judge = list(judge.parameters())
    optimizers = torch.optim.Adam(of_judge), torch.optim.Adam(maker.parameters())
    judge_step, maker_step = torch.optim.Adam(of_judge), torch.optim.Adam(params=maker.parameters())
    for _ in range(2):
        judge_step.zero_grad()
        loss_fn(*make_inputs()).backward()
        judge_step.step()
        maker_step.zero_grad()
        maker_loss(torch.randn(7, 3)).backward()
        maker_step.step()
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    def loaded(text: str) -> ModuleType:
        path = tmp_path / "text_of_a_loss.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return module

    return loaded


def codes(module: ModuleType) -> list[str]:
    return [one.code for one in check(module.loss_fn, module.make_inputs).findings]


def test_a_main_block_says_who_steps_the_loss(load: Load) -> None:
    assert codes(load(GAN.replace("{stop}", ""))) == ["GA204"]


def test_its_correct_neighbour_is_silent(load: Load) -> None:
    assert codes(load(GAN.replace("{stop}", ".detach()"))) == []


HEAD = """
import torch
from torch import nn

encoder = nn.Linear(4, 6)
head = nn.Linear(6, 2)


def loss_fn(features, labels):
    return nn.functional.cross_entropy(head(encoder(features).detach()), labels)


def make_inputs():
    return torch.randn(7, 4), torch.randint(0, 2, (7,))


if __name__ == "__main__":
    optimizer = torch.optim.SGD([{{"params": encoder.parameters()}}, {{"params": head.parameters()}}], lr=0.1)
    optimizer.zero_grad()
    loss_fn(*make_inputs()).backward()
{more}
    optimizer.step()
"""


def test_what_the_only_loss_of_a_module_leaves_out_is_trained_by_nothing(load: Load) -> None:
    assert codes(load(HEAD.format(more=""))) == ["GA401"]


def test_another_loss_may_train_what_this_one_leaves_out(load: Load) -> None:
    assert codes(load(HEAD.format(more="    encoder(make_inputs()[0]).pow(2).mean().backward()"))) == []


JOINT = """
import torch
from torch import nn

actor = nn.Linear(4, 3)
log_temperature = nn.Parameter(torch.zeros(()))


def actor_loss(observation):
    log_prob = torch.log_softmax(actor(observation), dim=-1)
    return (log_temperature.exp().detach() * log_prob.exp() * log_prob).sum(-1).mean()


def loss_fn(observation):
    log_prob = torch.log_softmax(actor(observation), dim=-1)
    return -(log_temperature.exp() * ((log_prob.exp() * log_prob).sum(-1) + 0.5).detach()).mean()


def make_inputs():
    return (torch.randn(7, 4),)


if __name__ == "__main__":
    first = torch.optim.Adam(actor.parameters())
    second = torch.optim.Adam([log_temperature])
    first.zero_grad()
    second.zero_grad()
    (actor_loss(*make_inputs()) + loss_fn(*make_inputs())).backward()
    first.step()
    second.step()
"""


def test_a_sum_of_losses_is_stepped_by_several(load: Load) -> None:
    assert codes(load(JOINT)) == []


EVIL = """
import torch
from torch import nn

made = []
net = nn.Linear(4, 1)


def given():
    made.append(1)
    return net.parameters()


def loss_fn(features):
    return net(features).pow(2).mean()


if __name__ == "__main__":
    optimizer = torch.optim.SGD(given(), lr=0.1)
    optimizer = torch.optim.SGD([p for p in [made.append(2)]], lr=0.1)
"""


def test_nothing_is_run_but_what_collects_parameters(load: Load) -> None:
    torch = pytest.importorskip("torch")
    module = load(EVIL)
    assert check(module.loss_fn, (torch.randn(7, 4),)).findings == []
    assert module.made == []


GRADIENTS = """
import jax


def loss_fn(data, params):
    return ((data @ params) ** 2).mean()


def other(params):
    return (params**2).sum()


{lines}
"""


@pytest.mark.parametrize(
    ("lines", "argnums"),
    [
        ("g = lambda d, p: jax.grad(loss_fn)(d, p)", (0,)),
        ("g = lambda d, p: jax.grad(loss_fn, argnums=1)(d, p)", (1,)),
        ("g = lambda d, p: jax.value_and_grad(loss_fn, (0, 1))(d, p)", (0, 1)),
        ("g = lambda d, p: jax.grad(lambda q: loss_fn(d, q) + other(q))(p)", (1,)),
        ("g = lambda d, p: jax.grad(loss_fn, argnums=p)(d, p)", None),
        ("g = lambda d, p: (jax.grad(loss_fn)(d, p), jax.grad(loss_fn, 1)(d, p))", None),
        ("", None),
    ],
)
def test_which_argument_the_text_takes_the_gradient_for(load: Load, lines: str, argnums: tuple[int, ...]) -> None:
    pytest.importorskip("jax")
    assert argnums_in_text(load(GRADIENTS.format(lines=lines)).loss_fn) == argnums


@pytest.mark.parametrize(
    ("lines", "company"),
    [
        ("g = lambda d, p: jax.grad(loss_fn)(d, p)", False),
        ("g = lambda d, p: jax.grad(lambda q: loss_fn(d, q) + other(q))(p)", True),
        ("g = lambda d, p: (jax.grad(loss_fn)(d, p), jax.grad(other)(p))", True),
    ],
)
def test_whether_a_loss_has_company(load: Load, lines: str, company: bool) -> None:
    pytest.importorskip("jax")
    assert has_company(load(GRADIENTS.format(lines=lines)).loss_fn) is company


def test_a_function_without_a_text_says_nothing() -> None:
    space: dict[str, object] = {}
    exec("def loss_fn(x): return x", space)
    function = LossCall("t", space["loss_fn"]).function  # type: ignore[arg-type]
    assert argnums_in_text(function) is None
    assert not has_company(function)


FOLLOWED = """
import copy
import torch
from torch import nn


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
        self.two = copy.deepcopy(self.one)
        self.guess = nn.Linear(4, 4)

    @torch.no_grad()
    def update(self):
        for a, b in zip(self.two.parameters(), self.one.parameters()):
            a.mul_(0.9).add_(0.1 * b)

    def forward(self, x, y):
        return (self.guess(self.one(x)) - self.two(y){stop}).square().mean()


views = Views()
opt = torch.optim.SGD(views.parameters(), lr=0.1)


def loss_fn(x, y):
    return views(x, y)


def make_inputs():
    return torch.randn(7, 5), torch.randn(7, 5)
"""


def test_a_copy_that_the_text_averages_is_a_target_whatever_its_name_and_whoever_holds_it(load: Load) -> None:
    module = load(FOLLOWED.replace("{stop}", ""))
    (found,) = (one for one in check(module.loss_fn, module.make_inputs()).findings if one.severity != "info")
    assert found.code in ("GA301", "GA302") and "`views.two`, a target by its update" in found.message
    still = load(FOLLOWED.replace("{stop}", ".detach()"))
    findings = check(still.loss_fn, still.make_inputs()).findings
    assert [one.severity for one in findings] in ([], ["info"])  # the optimizer holds all of one module


SECOND = """
import copy
import torch
from torch import nn

ahead = nn.Linear(4, 2)
behind = {made}
opt = torch.optim.SGD(ahead.parameters(), lr=0.1)


def loss_fn(x, r, y):
    with torch.no_grad():
        later = behind(y).max(1).values
    return (ahead(x)[:, 0] - r - 0.9 * later).square().mean()


def make_inputs():
    return torch.randn(7, 4), torch.randn(7), torch.randn(7, 4)


def train():
    for step in range(10):
        opt.zero_grad()
        loss_fn(*make_inputs()).backward()
        opt.step()
        if step % 5 == 0:
            behind.load_state_dict(ahead.state_dict())
"""


@pytest.mark.parametrize(("made", "codes"), [("ahead", ["GA502"]), ("copy.deepcopy(ahead)", [])])
def test_one_network_whose_text_copies_it_into_itself(load: Load, made: str, codes: list[str]) -> None:
    module = load(SECOND.format(made=made))
    assert [one.code for one in check(module.loss_fn, module.make_inputs()).findings] == codes


@pytest.mark.parametrize(
    ("lines", "entries"),
    [
        ("def f(t, m, n):\n    c = m / n\n    return {**t, 'codes': c}", {"codes"}),
        ("def f(t, m, n):\n    return {**t, 'codes': 0.9 * m + 0.1 * n}", {"codes"}),
        ("def f(t, g):\n    return {**t, 'w': t['w'] - 0.1 * g['w']}", set()),
        ("def f(t, g):\n    w = t['w'] - 0.1 * g['w']\n    w2 = jnp.clip(w, -1, 1)\n    return {**t, 'w': w2}", set()),
        ("def f(t, w):\n    return {**t, 'w': w}", set()),
        ("def f(t, u):\n    w = optax.apply_updates(t['w'], u * 2)\n    return {**t, 'w': w}", set()),
        ("def f(m, n):\n    return {'codes': m / n}", set()),
    ],
)
def test_entries_that_the_text_replaces_with_what_is_reckoned_from_data(lines: str, entries: set[str]) -> None:
    assert entries_replaced(ast.parse(lines)) == entries
