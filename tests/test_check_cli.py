"""The check command and its Python face: targets, inputs, roles, errors with their exit codes, reports."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from gradaudit.cli import main  # noqa: E402

COUNTER = itertools.count()
PROGRAM = """
import torch
from torch import nn
from torch.nn import functional as F

net, target_net = nn.Linear(4, 1), nn.Linear(4, 1)
unused = nn.Linear(2, 2)
number = 3

def make_inputs():
    return torch.randn(13, 4), torch.randn(13), torch.randn(13, 4)

def loss_fn(obs, reward, next_obs):
    target = reward + 0.9 * target_net(next_obs).squeeze(-1)
    return F.mse_loss(net(obs).squeeze(-1), target)

def right(obs, reward, next_obs):
    return loss_fn(obs, reward, next_obs.detach()) * 0 + F.mse_loss(net(obs).squeeze(-1), reward)

def fixed(obs, reward, next_obs):
    with torch.no_grad():
        target = reward + 0.9 * target_net(next_obs).squeeze(-1)
    return F.mse_loss(net(obs).squeeze(-1), target)
"""


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(program: str, *arguments: str, target: str = "loss_fn") -> Result:
        name = f"program_{next(COUNTER)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(program), encoding="utf-8")
        with pytest.raises(SystemExit) as stop:
            main(["check", f"{name}:{target}" if target else name, *arguments])
        out, err = capfd.readouterr()
        return Result(int(stop.value.code or 0), out, err)

    return call


def extended(program: str) -> str:
    return PROGRAM + textwrap.dedent(program)


def test_leak_and_fix(run: Run) -> None:
    leak = run(PROGRAM, "--frozen", "target_net", "--trained", "net")
    assert leak.code == 1
    assert "GA102 [error]" in leak.out and ":14:14:" in leak.out
    assert "bit for bit the same" in leak.out and "the leak is gone: target_net" in leak.out
    assert leak.err == ""
    fixed = run(PROGRAM, "--frozen", "target_net", "--trained", "net", target="fixed")
    assert fixed.code == 0 and "No findings." in fixed.out


def test_three_states(run: Run) -> None:
    report = json.loads(run(PROGRAM, "--output-format", "json", "--fail-on", "never", target="right").out)
    states = {group["name"]: group["state"] for group in report["groups"]}
    assert states == {"net": "nonzero", "target_net": "zero", "unused": "none"}
    assert {group["norm"] for group in report["groups"] if group["state"] != "nonzero"} == {0.0}


def test_json_contract(run: Run) -> None:
    result = run(PROGRAM, "--frozen", "target_net", "--output-format", "json")
    report = json.loads(result.out)
    assert {"target", "framework", "loss", "groups", "findings"} <= set(report)
    assert report["framework"] == "torch"
    (finding,) = report["findings"]
    keys = "code name message severity path line column end_line end_column function framework fix trace proof"
    assert set(finding) == set(keys.split())
    assert finding["line"] == 14 and finding["function"] == "loss_fn"
    assert finding["trace"][0]["line"] == 15
    assert finding["proof"]["identical"] and finding["proof"]["gone"]
    assert [change["group"] for change in finding["proof"]["changed"]] == ["target_net"]


def test_same_twice(run: Run) -> None:
    program = extended("""
        noisy = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        def loss_fn(obs, reward, next_obs):
            goal = reward + target_net(next_obs).squeeze(-1) + torch.randn(13)
            return F.mse_loss(noisy(obs).squeeze(-1), goal)
        """)
    one, two = (run(program, "--frozen", "target_net") for _ in range(2))
    assert one.code == two.code == 1
    assert one.out.splitlines()[1:5] == two.out.splitlines()[1:5]
    assert "bit for bit the same" in one.out


def test_generated_inputs(run: Run) -> None:
    specs = ["--input", "obs=float32:11x4", "--input", "reward=float32:11", "--input", "next_obs=float32:11x4"]
    assert run(PROGRAM.replace("make_inputs", "other"), *specs, "--frozen", "target_net").code == 1
    missing = run(PROGRAM.replace("make_inputs", "other"), *specs[:2])
    assert missing.code == 2
    assert "no inputs for `reward`, `next_obs`" in missing.err and "--input reward=float32" in missing.err
    assert "def make_inputs" in missing.err
    wrong = run(PROGRAM, "--input", "obs=float99:3")
    assert wrong.code == 2 and "name=float32:32x4" in wrong.err
    other = run(PROGRAM, "--input", "nothing=float32:3")
    assert other.code == 2 and "no such parameter" in other.err


def test_named_inputs(run: Run) -> None:
    assert run(PROGRAM.replace("make_inputs", "some"), "--inputs", ":some", "--frozen", "target_net").code == 1


def test_integers_in_range(run: Run) -> None:
    program = """
        import torch
        table = torch.nn.Embedding(6, 3)
        def loss_fn(action):
            assert action.dtype == torch.int64 and action.shape == (32,) and action.max() < 6
            return table(action).square().mean()
        """
    assert run(program, "--input", "action=int64:32:0..6", "--trained", "table").code == 0


@pytest.mark.parametrize(
    ("inputs", "signature"),
    [
        ('{"batch": {"x": X}}', "batch"),
        ('{"x": X}', "batch"),
        ("Pair(X, X)", "batch"),
        ("Data(X)", "batch"),
        ("(X,), {'scale': 2.0}", "batch, scale=1.0"),
    ],
)
def test_batches(run: Run, inputs: str, signature: str) -> None:
    program = f"""
        import torch, typing, dataclasses
        class Pair(typing.NamedTuple):
            x: torch.Tensor
            y: torch.Tensor
        @dataclasses.dataclass
        class Data:
            x: torch.Tensor
        X = torch.ones(5, 4)
        net = torch.nn.Linear(4, 1)
        def make_inputs():
            return {inputs}
        def loss_fn({signature}):
            x = batch if isinstance(batch, torch.Tensor) else batch["x"] if isinstance(batch, dict) else batch.x
            return net(x).square().mean()
        """
    result = run(program, "--trained", "net")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("returned", "note"),
    [
        ("loss, {'aux': 1}", ""),
        ("{'loss': loss, 'other': loss * 2}", ""),
        ("{'one': loss, 'two': loss * 2, 'name': 'x'}", "the loss is the sum of one, two"),
        ("(loss, loss * 2)", "the first of several results"),
    ],
)
def test_results(run: Run, returned: str, note: str) -> None:
    program = f"""
        import torch
        net = torch.nn.Linear(4, 1)
        def loss_fn():
            loss = net(torch.ones(5, 4)).square().mean()
            return {returned}
        """
    result = run(program, "--trained", "net")
    assert result.code == 0, result.err
    assert note in result.out


METHODS = """
    import copy, torch
    from torch import nn
    class Agent:
        def __init__(self, width=4):
            self.body = nn.Linear(width, 1)
            self.shadow_body = copy.deepcopy(self.body)
            self.parts = {"heads": [nn.Linear(width, 1)]}
        def loss(self, x):
            goal = x[:, :1] + 0.9 * self.shadow_body(x + 1)
            return (self.body(x) - goal).square().mean()
    class Module(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body, self.shadow_body = nn.Linear(width, 1), nn.Linear(width, 1)
        def training_step(self, batch, batch_idx):
            goal = batch[:, :1] + 0.9 * self.shadow_body(batch + 1)
            return {"loss": (self.body(batch) - goal).square().mean()}
        def forward(self, batch):
            return self.training_step(batch, 0)
    agent, module = Agent(), Module(4)
    agents = {"first": [agent]}
    def build():
        return Module(4)
    def make_inputs():
        return (torch.ones(7, 4) * torch.arange(7)[:, None],)
"""


@pytest.mark.parametrize(
    ("target", "frozen", "extra"),
    [
        ("agent.loss", "agent.shadow_body", []),
        ("agent.loss", "shadow_body", []),
        ("Agent.loss", "agent.shadow_body", []),
        ("agents.first.0.loss", "*.shadow_body", []),
        ("module.training_step", "module.shadow_body.*", []),
        ("module", "module.shadow_body", []),
        ("Module.training_step", "module.shadow_body", ["--factory", "build"]),
        ("training_step", "self.shadow_body", ["--factory", "build"]),
    ],
)
def test_methods(run: Run, target: str, frozen: str, extra: list[str]) -> None:
    result = run(METHODS, "--frozen", frozen, *extra, target=target)
    assert result.code == 1, result.err + result.out
    assert "GA102 [error]" in result.out and "shadow_body" in result.out


def test_method_needs_factory(run: Run) -> None:
    result = run(METHODS, target="Module.training_step")
    assert result.code == 2 and "--factory" in result.err


ERRORS = {
    "no such attribute": (PROGRAM, "los_fn", "has no 'los_fn'; did you mean 'loss_fn'?"),
    "inside a function": (
        extended("def train():\n    def inner_loss(a): return net(a).mean()"),
        "inner_loss",
        "it is defined inside `train` (line",
    ),
    "a script": (
        extended("if __name__ == '__main__':\n    net(torch.ones(1, 4)).mean().backward()"),
        "update",
        "its update stands under `if __name__ == ...`",
    ),
    "not callable": (PROGRAM, "number", "is an int, not a function that returns a loss"),
    "not scalar": (extended("def loss_fn(a, b, c): return net(a)"), "loss_fn", "has shape (13, 1), not one number"),
    "a number": (extended("def loss_fn(a, b, c): return net(a).mean().item()"), "loss_fn", "a plain number"),
    "nothing": (extended("def loss_fn(a, b, c): net(a)"), "loss_fn", "returns nothing"),
    "no parameters": (extended("def loss_fn(a, b, c): return b.mean()"), "loss_fn", "depends on no parameter"),
    "not finite": (extended("def loss_fn(a, b, c): return net(a).mean() / 0"), "loss_fn", "on these inputs"),
    "shapes": (extended("def loss_fn(a, b, c): return net(a.T).mean()"), "loss_fn", "raised RuntimeError: mat1"),
    "user error": (extended("def loss_fn(a, b, c): return 1 / 0"), "loss_fn", "raised ZeroDivisionError"),
    "too few": (extended("def loss_fn(a, b, c, d): return net(a).mean()"), "loss_fn", "do not fit"),
    "empty": (extended("def loss_fn(a, b, c): return {}"), "loss_fn", "without a scalar tensor; it is empty"),
    "asynchronous": (extended("async def loss_fn(a, b, c): return net(a).mean()"), "loss_fn", "returns a coroutine"),
    "exits": (extended("def loss_fn(a, b, c): raise SystemExit(3)"), "loss_fn", "ended the process (exit 3)"),
    "cannot import": ("import torch\nraise ValueError('broken')", "loss_fn", "cannot be imported: ValueError: broken"),
    "missing dependency": ("import no_such_package_here", "loss_fn", "No module named 'no_such_package_here'"),
    "syntax": ("def loss_fn(:\n", "loss_fn", "cannot be imported: SyntaxError"),
    "inputs raise": (
        PROGRAM.replace("return torch.randn(13, 4)", "1 / 0\n    return torch.randn(13, 4)"),
        "loss_fn",
        "make_inputs raised ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(run: Run, name: str) -> None:
    program, target, message = ERRORS[name]
    result = run(program, target=target)
    assert result.code == 2, result.out + result.err
    assert result.out == ""
    last = [line for line in result.err.splitlines() if line.startswith("gradaudit: ")]
    assert len(last) == 1, result.err
    assert message in last[0]


def test_traceback_is_the_users(run: Run) -> None:
    result = run(extended("def loss_fn(a, b, c): return 1 / 0"))
    assert "Traceback" in result.err and "ZeroDivisionError: division by zero" in result.err
    assert "check_cli" not in result.err and "torch_recorder" not in result.err


def test_missing_module(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    for target, message in (
        ("no_such_module:loss", "there is no module 'no_such_module'"),
        ("no/such/file.py:loss", "there is no such file"),
        ("no_such_module", "names no function: write no_such_module:loss_fn"),
        ("no/such/folder", "there is no such file or folder"),
        ("module:", "names no function: write module:loss_fn"),
        (":loss_fn", "names no module"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["check", target])
        assert stop.value.code == 2
        assert message in capfd.readouterr().err


def test_roles(run: Run) -> None:
    nothing = run(PROGRAM, "--frozen", "target_nets")
    assert nothing.code == 2
    assert "matches nothing; did you mean 'target_net'?" in nothing.err and "names there are: net," in nothing.err
    both = run(PROGRAM, "--frozen", "net", "--trained", "net")
    assert both.code == 2 and "ambiguous role" in both.err
    specific = run(PROGRAM, "--trained", "net", "--frozen", "net.bias")
    assert specific.code == 1 and "`net.bias`" in specific.out
    kept = run(PROGRAM, "--trained", "*", "--frozen", "target_net")
    assert "`target_net`, stated as frozen" in kept.out


@pytest.mark.parametrize("name", ['nets["target"]', "nets['target']", "nets.target", "nets[target]"])
def test_roles_of_items(run: Run, name: str) -> None:
    program = PROGRAM.replace("unused = ", 'nets = {"online": net, "target": target_net}\nunused = ')
    program = program.replace("net(obs)", 'nets["online"](obs)').replace(
        "target_net(next_obs)", 'nets["target"](next_obs)'
    )
    result = run(program, "--frozen", name)
    if name == "nets[target]":
        assert result.code == 2 and "matches nothing" in result.err
    else:
        assert result.code == 1 and "stated as frozen" in result.out


def test_integer_parameters(run: Run) -> None:
    program = extended("table = nn.Parameter(torch.arange(3), requires_grad=False)")
    result = run(program, "--trained", "table")
    assert result.code == 2 and "holds int64: only floating-point" in result.err


@pytest.mark.parametrize(("made", "code"), [("copy.deepcopy(q)", "GA102"), ("nn.Linear(4, 1)", "GA302")])
def test_expectile(run: Run, made: str, code: str) -> None:
    """Values that a copy made are a target's, another network's may be a teacher's."""
    program = extended(
        """
        import copy
        q, v = nn.Linear(4, 1), nn.Linear(4, 1, bias=False)
        guide = MADE
        def value_loss(x):
            error = guide(x) - v(x)
            return (abs(0.8 - (error < 0).float()) * error**2).mean()
        def make_inputs(): return torch.ones(2, 4)
    """.replace("MADE", made)
    )
    result = run(program, "--frozen", "guide", "--trained", "v", target="value_loss")
    assert result.code == 1 and f"{code} [error] `guide`, stated as frozen" in result.out


def test_unused_argument(run: Run) -> None:
    """What a loss takes it is to train, in torch as in jax; what only lies about in the module is no finding."""
    program = extended("""
        def loss_fn(model, x): return x.mean()
        def make_inputs(): return nn.Linear(4, 1), torch.ones(2, 4)
    """)
    result = run(program)
    assert result.code == 1 and "GA402 [error] `model` is not used by this loss" in result.out


def test_frozen_by_flag(run: Run) -> None:
    program = extended("net.requires_grad_(False)")
    result = run(program, "--trained", "net")
    assert result.code == 1 and "GA402" in result.out and "requires_grad=False" in result.out


def test_loss_without_gradient(run: Run) -> None:
    program = extended("""
        def loss_fn(obs, reward, next_obs):
            return F.mse_loss(net(obs).squeeze(-1).detach(), reward)
        """)
    result = run(program)
    assert result.code == 1 and "GA401 [error]" in result.out and "detach" in result.out


def test_prints_go_to_stderr(run: Run) -> None:
    program = extended("""
        def loss_fn(obs, reward, next_obs):
            print("hello")
            return F.mse_loss(net(obs).squeeze(-1), reward)
        """)
    result = run(program, "--output-format", "json")
    assert json.loads(result.out)["findings"] == []
    assert "hello" in result.err


def test_nowhere_to_draw(run: Run, tmp_path: Path) -> None:
    """Told before the loss is run, and nothing is left behind."""
    for file, message in (
        ("out.png", "not '.png'"),
        ("no/out.svg", "no such folder"),
        ("drawn.svg", "this is a folder"),
    ):
        (tmp_path / "drawn.svg").mkdir(exist_ok=True)
        result = run(PROGRAM, "--graph", str(tmp_path / file))
        assert result.code == 2 and result.out == "" and message in result.err
    assert not list(tmp_path.glob("*.part"))


def test_argnums_are_jax(run: Run) -> None:
    result = run(PROGRAM, "--argnums", "0")
    assert result.code == 2 and "--argnums is jax's" in result.err


def test_missing_input_shows_the_whole_line(run: Run) -> None:
    result = run(PROGRAM, "--input", "obs=float32:5x4", "--input", "reward=float32:5")
    assert result.code == 2 and "--input obs=float32:5x4 --input reward=float32:5 --input next_obs=" in result.err
    result = run(PROGRAM, "--input", "nothing=float32:5")
    assert result.code == 2 and "it has obs, reward, next_obs" in result.err


def test_no_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.py").write_text(PROGRAM, encoding="utf-8")
    for target, message in (("plain.py", "(plain.py:loss_fn)"), (".", "holds no `@gradaudit.case`")):
        with pytest.raises(SystemExit) as stop:
            main(["check", target])
        told = capfd.readouterr()
        assert stop.value.code == 2 and told.out == "" and message in told.err


def interrupted(process: subprocess.Popen[str]) -> int:
    """The exit code after Ctrl-C, pressed again where Python lost it: in a finaliser it can only be ignored."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(10)
    raise AssertionError("it goes on")


def test_real_interrupt(tmp_path: Path) -> None:
    """Ctrl-C while the loss runs."""
    (tmp_path / "slow.py").write_text(
        extended("import time\ndef loss_fn(a, b, c):\n    print('running', flush=True)\n    time.sleep(60)"),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "gradaudit", "check", "slow.py:loss_fn"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        while process.stderr.readline() != "running\n":
            pass
        assert interrupted(process) == 130
        assert "gradaudit: interrupted" in process.stderr.read() and process.stdout.read() == ""


def test_interrupt(run: Run) -> None:
    result = run(extended("def loss_fn(a, b, c): raise KeyboardInterrupt"))
    assert result.code == 130 and "interrupted" in result.err and "Traceback" not in result.err


def test_suppressed(run: Run) -> None:
    comment = "squeeze(-1)  # gradaudit: ignore[GA102] on purpose\n    return"
    program = PROGRAM.replace("squeeze(-1)\n    return", comment)
    assert program != PROGRAM
    result = run(program, "--frozen", "target_net")
    assert result.code == 0 and "No findings" in result.out and "1 suppressed" in result.out


def test_cases_below_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    program = extended("""
        import gradaudit
        @gradaudit.case(make_inputs, frozen="target_net", name="first")
        def one(obs, reward, next_obs):
            return loss_fn(obs, reward, next_obs)
        @gradaudit.case(make_inputs, frozen="target_net")
        def two(obs, reward, next_obs):
            return fixed(obs, reward, next_obs)
        """)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cases_here.py").write_text(program, encoding="utf-8")
    (tmp_path / "sub" / "unrelated.py").write_text("import nothing_like_this", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["check", "sub"])
    told = capfd.readouterr().out
    assert stop.value.code == 1
    assert "2 cases, 1 with findings.\n" in told
    assert "found  sub/cases_here.py:one [first]  GA102" in told and "clean  sub/cases_here.py:two\n" in told
    (tmp_path / "sub" / "broken.py").write_text("import gradaudit.case_of_nothing", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["check", "sub"])
    told, errors = capfd.readouterr()
    assert stop.value.code == 2
    assert "1 with findings, 1 could not be audited." in told and "sub/broken.py cannot be imported" in errors


def test_light_import() -> None:
    code = (
        "import sys, gradaudit; gradaudit.case; "
        "assert not {'torch', 'jax', 'numpy', 'rich', 'libcst'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_no_other_framework(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(PROGRAM, encoding="utf-8")
    code = (
        "import sys\nfrom gradaudit.check import check\n"
        "report = check('plain:loss_fn', frozen='target_net')\n"
        "assert report.findings\nassert 'jax' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=tmp_path)
