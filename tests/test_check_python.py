"""check as a library: the report, the assertion, cases, the pytest plugin, and that nothing is left behind."""

from __future__ import annotations

import copy
import functools
import itertools
import linecache
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

import gradaudit  # noqa: E402
from gradaudit.check import LeakError  # noqa: E402
from gradaudit.errors import CheckError  # noqa: E402


def program() -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    old = nn.Linear(3, 1)

    def loss(x: Any, reward: Any) -> Any:
        goal = reward + 0.9 * old(x).squeeze(-1)
        return F.mse_loss(net(x).squeeze(-1), goal)

    def right(x: Any, reward: Any) -> Any:
        goal = reward + 0.9 * old(x).squeeze(-1).detach()
        return F.mse_loss(net(x).squeeze(-1), goal)

    return {"loss": loss, "right": right, "net": net, "old": old, "inputs": (torch.randn(7, 3), torch.randn(7))}


def test_report() -> None:
    parts = program()
    report = gradaudit.check(parts["loss"], parts["inputs"], frozen="old", trained=["net"])
    assert not report.ok and report.framework == "torch"
    assert [finding.code for finding in report.findings] == ["GA102"]
    assert {group.name: group.state for group in report.groups if group.stated}["old"] == "nonzero"
    proof = report.proofs[0]
    assert proof is not None and proof.identical and proof.states["old"] == "none"
    assert "GA102" in str(report) and "\x1b" not in str(report)
    assert gradaudit.check(parts["right"], parts["inputs"], frozen="old", trained="net").ok


def test_inputs_as_function_and_dict() -> None:
    parts = program()
    x, reward = parts["inputs"]
    for inputs in ({"x": x, "reward": reward}, lambda: (x, reward), [x, reward]):
        assert not gradaudit.check(parts["loss"], inputs, frozen="old").ok


def test_assertion() -> None:
    parts = program()
    with pytest.raises(LeakError, match="`old`, stated as frozen") as caught:
        gradaudit.assert_no_leak(parts["loss"], parts["inputs"], frozen="old")
    assert isinstance(caught.value, AssertionError) and caught.value.report.findings
    assert gradaudit.assert_no_leak(parts["right"], parts["inputs"], frozen="old").ok
    with pytest.raises(CheckError, match="matches nothing"):
        gradaudit.assert_no_leak(parts["right"], parts["inputs"], frozen="elder")


def test_check_is_module_and_function() -> None:
    import gradaudit.check as module

    assert module.check is not None and callable(gradaudit.check)


def test_case_leaves_the_loss_alone() -> None:
    parts = program()
    decorated = gradaudit.case(parts["inputs"], frozen="old", trained="net")(parts["loss"])
    assert decorated is parts["loss"]
    assert not gradaudit.check(decorated).ok
    assert gradaudit.check(decorated, frozen="net.0.bias", trained="old").findings


def snapshot(parts: dict[str, Any]) -> list[Any]:
    tensors = [*parts["net"].state_dict().values(), *parts["old"].state_dict().values(), *parts["inputs"]]
    grads = [None if one.grad is None else one.grad.clone() for one in parts["net"].parameters()]
    return [[one.clone() for one in tensors], grads, torch.get_rng_state().clone(), random.getstate()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Agent:
    def __init__(self) -> None:
        torch.manual_seed(1)
        self.net, self.old = nn.Linear(3, 3), nn.Linear(3, 3)
        self.hidden = torch.zeros(3)
        self.history: list[Any] = [1]
        self.count = 0
        self.generator = torch.Generator().manual_seed(5)

    def loss(self, batch: dict[str, Any]) -> Any:
        self.count += 1
        self.history.append(self.count)
        x = batch.pop("x")
        self.hidden = self.net(x).mean(0).detach() + self.hidden
        x.mul_(1.5)
        with torch.no_grad():
            self.old.weight.add_(1.0)
        self.net.eval()
        self.old.bias.requires_grad_(False)
        noise = torch.randn(7, 3, generator=self.generator) + torch.randn(7, 3) * random.random()
        return (self.net(x) + noise - self.old(x)).square().mean()


def test_everything_is_restored() -> None:
    parts = program()
    parts["net"](parts["inputs"][0]).sum().backward()
    before, kept = snapshot(parts), parts["net"][0].weight.grad
    version = parts["net"][0].weight._version
    gradaudit.check(parts["loss"], parts["inputs"], frozen="old")
    assert same(before, snapshot(parts))
    assert parts["net"][0].weight.grad is kept and parts["net"][0].weight._version == version


def test_objects_are_restored() -> None:
    agent = Agent()
    batch = {"x": torch.ones(7, 3)}
    weight, hidden, state = agent.old.weight.clone(), agent.hidden, agent.generator.get_state()
    reports = [gradaudit.check(agent.loss, ({"x": batch["x"]},), frozen="agent.old") for _ in range(2)]
    assert str(reports[0]) == str(reports[1])
    assert all(proof is not None and proof.identical for proof in reports[0].proofs)
    assert agent.count == 0 and agent.history == [1] and agent.hidden is hidden
    assert torch.equal(agent.old.weight, weight) and torch.equal(batch["x"], torch.ones(7, 3))
    assert agent.net.training and agent.old.bias.requires_grad
    assert torch.equal(agent.generator.get_state(), state)


def test_restored_after_an_error() -> None:
    parts = program()
    before = snapshot(parts)

    def broken(x: Any, reward: Any) -> Any:
        parts["net"](x)
        raise RuntimeError("stop here")

    with pytest.raises(CheckError, match="stop here"):
        gradaudit.check(broken, parts["inputs"])
    assert same(before, snapshot(parts))
    assert "log_prob" in vars(torch.distributions.Normal) and not hasattr(torch.distributions.Normal.log_prob, "kind")


def test_hooks_do_not_step() -> None:
    """An optimizer in the backward pass must not run."""
    parts = program()
    weight = parts["net"][0].weight
    weight.register_post_accumulate_grad_hook(lambda one: one.data.add_(100.0))
    before = weight.detach().clone()
    gradaudit.check(parts["loss"], parts["inputs"], frozen="old")
    assert torch.equal(before, weight)


def installed(folder: Path) -> bool:
    """Whether a process that starts in this folder finds the plugin by itself."""
    code = "import importlib.metadata as m; assert any(p.name == 'gradaudit' for p in m.entry_points(group='pytest11'))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=60).returncode == 0


def test_pytest_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_losses.py").write_text(
        textwrap.dedent("""
            import gradaudit, torch
            from torch import nn
            net, old = nn.Linear(3, 1), nn.Linear(3, 1)
            def inputs():
                return (torch.randn(5, 3), torch.randn(5, 1))
            @gradaudit.case(inputs, frozen="old", trained="net")
            def leaking(x, reward):
                return (net(x) - (reward + 0.9 * old(x))).square().mean()
            @gradaudit.case(inputs, frozen="old", trained="net", name="right")
            def sound(x, reward):
                return (net(x) - (reward + 0.9 * old(x).detach())).square().mean()
            @gradaudit.case(inputs, frozen="older")
            def misnamed(x, reward):
                return net(x).mean()
            def test_by_hand(gradaudit):
                gradaudit.assert_no_leak(sound)
            def test_nothing():
                pass
            """),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "test_losses.py"]
    command += [] if installed(tmp_path) else ["-p", "gradaudit.pytest_plugin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 3 passed" in done.stdout
    assert "test_losses.py::leaking FAILED" in done.stdout and "test_losses.py::sound[right] PASSED" in done.stdout
    assert "GA102 [error] `old`, stated as frozen" in done.stdout
    assert "gradaudit: --frozen 'older' matches nothing" in done.stdout


def td(net: Any, old: Any, x: Any, reward: Any) -> Any:
    return F.mse_loss(net(x).squeeze(-1), reward + 0.9 * old(x + 1).squeeze(-1))


class Callable_:
    def __init__(self, net: Any, old: Any) -> None:
        self.net, self.old = net, old

    def __call__(self, x: Any, reward: Any) -> Any:
        return td(self.net, self.old, x, reward)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["partial", "arguments", "keywords", "object", "lambda", "float64", "bfloat16", "script"]
)
def test_kinds_of_losses(kind: str) -> None:
    torch.manual_seed(0)
    net, old = nn.Linear(3, 1), nn.Linear(3, 1)
    x, reward = torch.randn(7, 3), torch.randn(7)
    loss, inputs, frozen = (lambda x, reward: td(net, old, x, reward)), (x, reward), "old"
    if kind == "partial":
        loss = functools.partial(td, net, old)
    elif kind == "arguments":
        loss, inputs = td, (net, old, x, reward)
    elif kind == "keywords":
        loss, inputs, frozen = td, {"net": net, "old": old, "x": x, "reward": reward}, "old.*"
    elif kind == "object":
        loss, frozen = Callable_(net, old), "*.old"
    elif kind in ("float64", "bfloat16"):
        net, old = net.to(getattr(torch, kind)), old.to(getattr(torch, kind))
        inputs = tuple(one.to(getattr(torch, kind)) for one in inputs)
    elif kind == "script":
        net, old = torch.jit.script(net), torch.jit.trace(old, x)
    report = gradaudit.check(loss, inputs, frozen=frozen)
    assert [finding.code for finding in report.findings] == ["GA102"], str(report)
    proof = report.proofs[0]
    assert proof is not None and proof.identical and not proof.note


def test_sparse_gradients() -> None:
    table, copied = nn.Embedding(9, 3, sparse=True), nn.Embedding(9, 3, sparse=True)
    report = gradaudit.check(lambda i: (table(i) - copied(i)).square().mean(), (torch.arange(5),), frozen="copied")
    assert len(report.findings) == 1 and report.proofs[0] is not None and report.proofs[0].identical


def test_one_network_under_two_names() -> None:
    """Told at the line that gives it the second name; a network that is shared on purpose is not."""
    net, head = nn.Linear(3, 3), nn.Linear(3, 1)
    twin = net

    def loss(x: Any) -> Any:
        return (net(x) - twin(x).detach()).square().mean()

    report = gradaudit.check(loss, (torch.ones(2, 3),), frozen="twin", trained="net")
    assert [(one.code, one.severity) for one in report.findings] == [("GA502", "error")]
    assert linecache.getline(__file__, report.findings[0].location.line).strip() == "twin = net"
    target_net = net

    def by_name(x: Any) -> Any:
        return (head(net(x)) - head(target_net(x)).detach()).square().mean()

    report = gradaudit.check(by_name, (torch.ones(2, 3),))
    assert [(one.code, one.severity) for one in report.findings] == [("GA502", "warning")]
    critic = nn.ModuleDict({"encoder": net, "head": head})
    target = nn.ModuleDict({"encoder": net, "head": nn.Linear(3, 1)})

    def shared(x: Any) -> Any:
        later = target["head"](target["encoder"](x)).detach()
        return (critic["head"](critic["encoder"](x)) - later).square().mean()

    assert gradaudit.check(shared, (torch.ones(2, 3),)).ok


@pytest.mark.parametrize(("how", "codes"), [("joint", ["GA501"]), ("frozen", []), ("apart", []), ("tuned", [])])
def test_a_copy_in_the_optimizer_of_its_original(how: str, codes: list[str]) -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))
    target, tuned = copy.deepcopy(net), copy.deepcopy(net)
    target.requires_grad_(how != "frozen")
    other = {"joint": target, "frozen": target, "apart": nn.Linear(3, 1), "tuned": tuned}[how]
    optimizer = torch.optim.Adam([*net.parameters(), *other.parameters()])

    def loss(x: Any, reward: Any) -> Any:
        with torch.no_grad():
            y = reward + 0.9 * target(x)
        return (net(x) - y).square().mean()

    report = gradaudit.check(loss, (torch.randn(4, 3), torch.randn(4, 1)), frozen="target")
    assert [one.code for one in report.findings] == codes, str(report)
    del optimizer


def test_a_loss_that_draws_from_outside() -> None:
    count = itertools.count()
    net, old = nn.Linear(3, 1), nn.Linear(3, 1)
    x, reward = torch.randn(7, 3), torch.randn(7)
    report = gradaudit.check(lambda x, reward: td(net, old, x * next(count), reward), (x, reward), frozen="old")
    assert "not the same twice" in str(report)


def test_state_carried_with_its_graph() -> None:
    class Recurrent:
        def __init__(self) -> None:
            self.cell = nn.GRUCell(3, 4)
            self.state = self.cell(torch.ones(1, 3))

        def loss(self, x: Any) -> Any:
            self.state = self.cell(x, self.state)
            return self.state.square().mean()

        def right(self, x: Any) -> Any:
            self.state = self.cell(x, self.state.detach())
            return self.state.square().mean()

    agent = Recurrent()
    assert [one.code for one in gradaudit.check(agent.loss, (torch.ones(1, 3),)).findings] == ["GA206"]
    assert gradaudit.check(agent.right, (torch.ones(1, 3),)).ok


def test_a_backward_for_some_of_the_parameters() -> None:
    """The policy goes through the critic, and `inputs=` leaves the critic alone."""
    torch.manual_seed(0)
    policy, critic = nn.Linear(3, 2), nn.Linear(5, 1)
    steps = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (critic, policy)]

    def update(seen: Any, action: Any, returns: Any) -> None:
        error = F.mse_loss(critic(torch.cat([seen, action], 1)), returns)
        rated = -critic(torch.cat([seen, policy(seen)], 1)).mean()
        for one in steps:
            one.zero_grad()
        error.backward()
        rated.backward(inputs=list(policy.parameters()))
        for one in steps:
            one.step()

    report = gradaudit.check(update, (torch.randn(7, 3), torch.randn(7, 2), torch.randn(7, 1)))
    assert report.findings == []
