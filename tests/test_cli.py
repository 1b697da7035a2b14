"""The command line: which files, which rules, which exit code, what goes where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import Shell

from gradaudit import lint, progress

LEAK = "q = 1\nloss = q  # => GA101\n"
WARNING = "loss = q  # => GA102\n"
INFO = "loss = q  # => GA104\n"


def paths(output: str) -> list[str]:
    return [row["path"] for row in json.loads(output)]


def test_nothing_to_report_is_exit_0(shell: Shell) -> None:
    shell.write("a.py")
    result = shell.run("lint")
    assert (result.exit_code, result.stdout) == (0, "No findings in 1 file.\n")


@pytest.mark.parametrize(
    ("text", "fail_on", "code"),
    [
        (LEAK, "error", 1),
        (LEAK, "never", 0),
        (WARNING, "warning", 1),
        (WARNING, "error", 0),
        (INFO, "warning", 0),
        (INFO, "info", 1),
    ],
)
def test_fail_on_decides_the_exit_code(shell: Shell, text: str, fail_on: str, code: int) -> None:
    shell.write("a.py", text)
    assert shell.run("lint", "--fail-on", fail_on).exit_code == code


def test_fail_on_is_warning_by_default(shell: Shell) -> None:
    shell.write("a.py", WARNING)
    shell.write("b/b.py", INFO)
    assert shell.run("lint").exit_code == 1
    assert shell.run("lint", "b").exit_code == 0


def test_a_missing_path_is_exit_2(shell: Shell) -> None:
    result = shell.run("lint", "nowhere.py")
    assert result.exit_code == 2
    assert "nowhere.py" in result.stderr and "Traceback" not in result.stderr


def test_an_unknown_option_is_exit_2(shell: Shell) -> None:
    result = shell.run("lint", "--output-fromat", "json")
    assert result.exit_code == 2 and "--output-format" in result.stderr


def test_a_crash_costs_one_line_and_not_the_run(shell: Shell) -> None:
    shell.write("a.py", "CRASH")
    shell.write("b.py", LEAK)
    result = shell.run("lint", "--output-format", "json")
    assert result.exit_code == 1
    assert paths(result.stdout) == ["b.py"]
    assert len(result.stderr.splitlines()) == 1 and "a.py" in result.stderr


def test_a_crash_under_debug_is_exit_101(shell: Shell) -> None:
    shell.write("a.py", "CRASH")
    result = shell.run("lint", "--debug")
    assert result.exit_code == 101
    assert "ZeroDivisionError" in result.stderr and "report it" in result.stderr and result.stdout == ""


def test_a_file_that_cannot_be_read_costs_one_line(shell: Shell) -> None:
    shell.write("a.py", "UNREADABLE")
    shell.write("b.py", LEAK)
    result = shell.run("lint", "--output-format", "json")
    assert (result.exit_code, result.stderr) == (1, "gradaudit: a.py: not UTF-8\n")
    assert paths(result.stdout) == ["b.py"]


def test_a_syntax_error_is_a_finding(shell: Shell) -> None:
    shell.write("a.py", "def f(:\n")
    result = shell.run("lint", "--output-format", "json")
    (row,) = json.loads(result.stdout)
    assert (row["code"], row["line"], row["severity"]) == ("GA900", 1, "error")
    assert shell.run("lint", "--ignore", "GA9").exit_code == 0


def test_select_and_ignore(shell: Shell) -> None:
    shell.write("a.py", "a  # => GA101\nb  # => GA102\nc  # => GA204\n")

    def codes(*options: str) -> list[str]:
        return [row["code"] for row in json.loads(shell.run("lint", "--output-format", "json", *options).stdout)]

    assert codes() == ["GA101", "GA102", "GA204"]
    assert codes("--select", "GA101,GA2") == ["GA101", "GA204"]
    assert codes("--select", "bootstrap-target") == ["GA101"]
    assert codes("--ignore", "GA1") == ["GA204"]
    assert codes("--ignore", "GA1", "--select", "GA101", "--select", "GA2") == ["GA101", "GA204"]
    assert codes("--select", "GA1", "--ignore", "GA102") == ["GA101"]


def test_an_unknown_rule_is_exit_2_and_names_the_nearest(shell: Shell) -> None:
    shell.write("a.py")
    result = shell.run("lint", "--select", "GA111")
    assert result.exit_code == 2 and "GA111" in result.stderr and "GA101" in result.stderr


def test_one_line_has_one_speaker_and_others_stand_beside_it(shell: Shell) -> None:
    shell.write("a.py", "a  # => GA204 => GA101 => GA403\n")
    result = shell.run("lint", "--output-format", "json")
    assert [row["code"] for row in json.loads(result.stdout)] == ["GA101", "GA403"]


def test_what_is_left_out(shell: Shell) -> None:
    for name in ("a.py", "src/b.py", ".hidden/c.py", "venv/d.py", "x/site-packages/e.py", "env2/f.py", "out/g.py"):
        shell.write(name, LEAK)
    shell.write("env2/pyvenv.cfg", "")
    shell.write(".gitignore", "out/\n")
    assert paths(shell.run("lint", "--output-format", "json").stdout) == ["a.py", "src/b.py"]
    assert paths(shell.run("lint", "--no-gitignore", "--output-format", "json").stdout) == [
        "a.py",
        "out/g.py",
        "src/b.py",
    ]
    named = shell.run("lint", "x/site-packages", ".hidden", "out", "venv/d.py", "--output-format", "json")
    assert paths(named.stdout) == [".hidden/c.py", "out/g.py", "venv/d.py", "x/site-packages/e.py"]
    assert paths(shell.run("lint", "--exclude", "src", "--output-format", "json").stdout) == ["a.py"]


def test_gitignore_of_the_repository_and_of_folders_below(shell: Shell) -> None:
    shell.write(".git/HEAD", "")
    shell.write(".gitignore", "*_gen.py\n/top.py\n")
    shell.write("pkg/.gitignore", "!keep_gen.py\nlocal.py\n")
    for name in ("pkg/a_gen.py", "pkg/keep_gen.py", "pkg/local.py", "pkg/top.py", "pkg/deep/b_gen.py"):
        shell.write(name, LEAK)
    assert paths(shell.run("lint", "--output-format", "json", "pkg").stdout) == ["pkg/keep_gen.py", "pkg/top.py"]


def test_a_named_file_is_linted_unless_exclusion_is_forced(shell: Shell) -> None:
    shell.write("a.py", LEAK)
    assert shell.run("lint", "a.py", "--exclude", "a.py").exit_code == 1
    assert shell.run("lint", "a.py", "--exclude", "a.py", "--force-exclude").exit_code == 0
    shell.write("old/b.py", LEAK)
    assert shell.run("lint", "old", "--exclude", "old/").exit_code == 1
    nothing = shell.run("lint", ".", "--exclude", "*.py")
    assert (nothing.exit_code, nothing.stderr) == (0, "gradaudit: no Python files to lint\n")


def test_output_is_sorted_and_the_same_whatever_the_order_of_paths(shell: Shell) -> None:
    shell.write("b.py", LEAK + WARNING)
    shell.write("a.py", WARNING)
    first = shell.run("lint", "b.py", "a.py").stdout
    assert first == shell.run("lint", "a.py", ".", "b.py").stdout
    assert first.index("a.py:1:1") < first.index("b.py:2:1") < first.index("b.py:3:1")


def test_paths_outside_the_working_directory_are_relative_too(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.write("a.py", LEAK)
    (shell.folder / "sub").mkdir()
    monkeypatch.chdir(shell.folder / "sub")
    assert paths(shell.run("lint", "--output-format", "json", str(shell.folder / "a.py")).stdout) == ["../a.py"]


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0 and all(word in done.stdout for word in ("lint", "rules", "explain"))


def test_rules_lists_every_rule() -> None:
    done = run("rules", "--output-format", "json")
    rows = json.loads(done.stdout)
    assert [row["code"] for row in rows] == sorted(row["code"] for row in rows)
    assert {"code": "GA900", "name": "syntax-error", "summary": "The file cannot be parsed"} in rows
    assert all(row["code"] in run("rules").stdout for row in rows)


def test_explain() -> None:
    assert "What it does" in run("explain", "GA900").stdout
    assert run("explain", "ga900").stdout == run("explain", "syntax-error").stdout
    done = run("explain", "GA90")
    assert done.returncode == 2 and "did you mean 'GA90" in done.stderr and done.stdout == ""


def test_version_is_quick_to_import() -> None:
    code = "import sys, gradaudit.cli; print(sorted({'rich', 'libcst', 'pathspec', 'tomllib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert run("--version").stdout.startswith("gradaudit")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradaudit", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        cwd=Path(__file__).parent,
    )


def test_the_progress_bar_hands_every_file_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [Path(f"{number}.py") for number in range(5)]
    assert list(progress.bar(files)) == files
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(progress.bar(files)) == files
    assert capsys.readouterr().out == ""


def test_an_interruption_is_neither_clean_nor_a_finding(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    shell.write("a.py")
    monkeypatch.setattr(lint, "lint_file", interrupted)
    result = shell.run("lint")
    assert (result.exit_code, result.stdout, result.stderr.strip()) == (130, "", "gradaudit: interrupted")


def test_usage_without_a_command_is_shown() -> None:
    done = run()
    assert "Usage: gradaudit" in done.stdout + done.stderr
    assert run("nonsense").returncode == 2


NASTY = {
    "empty.py": b"",
    "bom.py": b"\xef\xbb\xbfimport torch\n",
    "latin.py": b'# coding: latin-1\nimport torch\nx = "\xe9"\n',
    "cycle_a.py": b"import torch\nfrom cycle_b import y\nx = y\n",
    "cycle_b.py": b"import torch\nfrom cycle_a import x\ny = x\n",
    "odd.py": b"import torch\nclass A(A): pass\nclass B(C): pass\nclass C(B): pass\nB().f()\n"
    b"def r(x): return r(x)\nr(torch.ones(3)).backward()\nwhile True: x = torch.stack([x])\n",
    "long.py": b"import torch\nx = " + b"+".join([b"1"] * 20_000) + b"\n",
    "null.py": b"import torch\x00\n",
    "broken.py": b"import torch\r\ndef f(:\r\n",
    "deep.py": b"import torch\nx = " + b"(" * 500 + b"1" + b")" * 500 + b"\n",
    "not_utf8.py": b'import torch\nx = "\xff"\n',
    "no_codec.py": b"# coding: nonsense\nimport torch\n",
}


def test_no_file_ends_the_run(tmp_path: Path) -> None:
    for name, data in NASTY.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "nowhere.py").symlink_to("missing.py")
    done = run("lint", "--no-config", "--output-format", "json", str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    found = {Path(row["path"]).name: row for row in json.loads(done.stdout)}
    assert set(found) == {"null.py", "broken.py", "deep.py"}
    assert {row["code"] for row in found.values()} == {"GA900"} and found["broken.py"]["line"] == 2
    assert "not_utf8.py" in done.stderr and "no_codec.py" in done.stderr
    assert all(line.startswith("gradaudit: ") for line in done.stderr.splitlines())
