"""lint never fails on a file: odd text, odd folders, and programs that are larger than we are willing to follow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gradaudit.config import Config
from gradaudit.lint import lint_paths
from gradaudit.report import Report
from gradaudit.static import state

HEAD = "import torch\n"
TEXTS = {
    "empty": b"",
    "bom": b"\xef\xbb\xbf" + HEAD.encode(),
    "nul": HEAD.encode() + b"\0x = 1\n",
    "latin-1": "# coding: latin-1\nimport torch\nname = 'é'\n".encode("latin-1"),
    "not utf-8": HEAD.encode() + b"name = '\xe9'\n",
    "no such coding": b"# coding: klingon\nimport torch\n",
    "crlf and form feed": b"import torch\r\n\x0cx = torch.ones(3)\r\nx.sum().backward()\r\n",
    "a long line": (HEAD + "x = [" + "1, " * 50_000 + "]\nx = torch.tensor(x)\n").encode(),
    "deep parentheses": (HEAD + "x = " + "(" * 300 + "1" + ")" * 300 + "\n").encode(),
    "a long sum": (HEAD + "x = torch.ones(3)" + " + 1" * 3000 + "\nx.backward()\n").encode(),
    "a long chain": (HEAD + "x = torch.ones(3)" + ".relu()" * 800 + "\nx.backward()\n").encode(),
    "its own base": (HEAD + "class A(A): pass\nclass B(C): pass\nclass C(B): pass\nB().step(torch.ones(1))\n").encode(),
    "its own decorator": (HEAD + "@f\ndef f(x): return f(f)(x)\nf(torch.ones(3)).backward()\n").encode(),
    "its own metaclass": (HEAD + "class M(type, metaclass=M): pass\nclass A(metaclass=M): x = A\nA.x.x().y\n").encode(),
    "an object that holds itself": (
        HEAD + "class A:\n    def __init__(self): self.a = None\n"
        "def f(a: A, net: torch.nn.Module):\n    a.a = a\n    net(a).sum().backward()\n"
    ).encode(),
    "containers that hold themselves": (
        HEAD + "from torch import nn\nclass A(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.d = {'a': nn.Linear(1, 1)}\n        self.d['d'] = self.d\n        self.e = self.d\n"
        "        self.m = nn.ModuleDict()\n        self.m['m'] = self.m\n        self.n = self.m\n"
        "    def forward(self, x): return self.d['a'](x)\nA()(torch.ones(1)).sum().backward()\n"
    ).encode(),
    "a table of thousands": (
        HEAD + "t = {" + ", ".join(f"'k{i}': ('v{i}', {i})" for i in range(4_000)) + "}\n"
        "for k, (v, i) in t.items():\n    torch.ones(i).sum().backward()\n"
    ).encode(),
    "odd arithmetic": (HEAD + "x = 'a' * 10 ** 9\ny = 2 ** 10 ** 10\nz = 1 << 10 ** 9\n").encode(),
    "odd indices": (HEAD + "x = {}\nx[[]] = 1\ny = x[{}]\nx[slice(1)] = y\nd = {[]: 1, **x}\nprint(d[x])\n").encode(),
    "odd calls": (HEAD + "torch.max()\ntorch.where(1)\nisinstance()\nsuper()\ngetattr(1)\ndict(1)\nzip(*3)\n").encode(),
    "a network that is differentiated": (
        HEAD + "def run(network, data):\n    loss = network(data).sum()\n    network.backward()\n    return loss\n"
    ).encode(),
    "odd targets": (HEAD + "*a, b = torch.ones(3)\n(a[0], b.c), *d = a\nfor x.y, z[0] in a: pass\ndel x\n").encode(),
}
DEEP = {"deep parentheses", "a long sum", "a long chain"}


def lint(*paths: str) -> Report:
    return lint_paths([Path(path) for path in paths or (".",)], Config())


@pytest.mark.parametrize("name", TEXTS)
def test_any_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_bytes(TEXTS[name])
    report = lint()
    assert report.files == 1
    assert not [problem for problem in report.problems if "internal error" in problem or "could not be" in problem]
    assert name in DEEP or not [problem for problem in report.problems if "nested too deeply" in problem]
    assert {finding.code for finding in report.findings} <= {"GA900", "GA402"}


def test_files_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    os.symlink("..", "folder/loop")
    os.symlink("nowhere.py", "dangling.py")
    os.symlink("itself.py", "itself.py")
    Path("folder.py").mkdir()
    assert lint().files == 0
    report = lint("dangling.py", "itself.py")
    assert report.files == 2 and len(report.problems) == 2 and not report.findings


def test_modules_that_import_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("setup.py").write_text("")
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        Path(f"{name}.py").write_text(
            f"import torch\nfrom {other} import *\nfrom {other} import x as y, missing\nimport {other}\n"
            f"x = y\nclass K({other}.K): pass\nK().z(torch.ones(1)).backward()\n{other}.{name}.{other}.nothing()\n"
        )
    assert not lint().problems


def test_a_long_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a file's budget is a matter of evaluations: the cut is in the same place each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "FILE", 4_000)
    body = "".join(f"def f{n}(x):\n" + "".join(f"    x = x * {n} + y\n" for _ in range(200)) for n in range(10))
    step = "def step(q, obs, opt):\n    loss = q(obs).mean()\n    loss.backward()\n    opt.step()\n"
    Path("long.py").write_text(HEAD + body + step)
    assert lint() is not None
    assert lint().findings == lint().findings
