"""The configuration file: where it is found, what it says, and how it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import Shell

from gradaudit import config
from gradaudit.errors import ConfigError


def load(folder: Path) -> config.Config:
    return config.load(None, folder)


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.fail_on, settings.output_format, settings.select) == ("warning", "text", ())


def test_every_key(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.gradaudit]\nselect = ["GA1"]\nignore = ["GA104"]\nexclude = ["old/"]\nfail-on = "error"\n'
        'output-format = "concise"\nrespect-gitignore = false\nforce-exclude = true\n'
        'per-file-ignores = { "tests/**" = ["GA101"] }\n'
    )
    (tmp_path / "src").mkdir()
    settings = load(tmp_path / "src")
    assert settings.root == tmp_path
    assert settings.wants("GA101", "bootstrap-target") and not settings.wants("GA104", "unsafe-default")
    assert settings.per_file_ignores == {"tests/**": ("GA101",)}
    assert (settings.fail_on, settings.output_format, settings.respect_gitignore) == ("error", "concise", False)


def test_gradaudit_toml_wins_and_a_pyproject_without_our_table_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gradaudit.toml").write_text('fail-on = "error"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.gradaudit]\nfail-on = "info"\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert load(tmp_path / "sub").fail_on == "error"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('fail_on = "error"\n', ["'fail_on'", "'fail-on'"]),
        ('fail-on = "warn"\n', ["'warn'", "'warning'"]),
        ('select = "GA1"\n', ["select", "list of strings"]),
        ("exclude = [1]\n", ["exclude", "list of strings"]),
        ("force-exclude = 1\n", ["force-exclude", "true or false"]),
        ("per-file-ignores = []\n", ["per-file-ignores", "table"]),
        ('output-format = "jsn"\n', ["'json'"]),
        ("zzz = 1\n", ["'zzz'", "known are"]),
        ("= 1\n", ["not valid TOML"]),
    ],
)
def test_what_is_wrong_is_one_line_that_says_what_would_be_right(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "gradaudit.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "gradaudit.toml" in message
    assert all(word in message for word in words)


def test_a_broken_configuration_is_exit_2(shell: Shell) -> None:
    shell.write("pyproject.toml", '[tool.gradaudit]\nselct = ["GA1"]\n')
    result = shell.run("lint")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and "'selct'" in result.stderr and "'select'" in result.stderr
    assert shell.run("lint", "--no-config").exit_code == 0


def test_the_command_line_wins(shell: Shell) -> None:
    shell.write("gradaudit.toml", 'fail-on = "never"\noutput-format = "json"\nexclude = ["b.py"]\n')
    shell.write("a.py", "x  # => GA101\n")
    shell.write("b.py", "x  # => GA101\n")
    result = shell.run("lint")
    assert result.exit_code == 0 and [row["path"] for row in json.loads(result.stdout)] == ["a.py"]
    assert shell.run("lint", "--fail-on", "error", "--output-format", "text").exit_code == 1


def test_a_named_configuration_file(shell: Shell) -> None:
    shell.write("ci.toml", 'fail-on = "never"\n')
    shell.write("a.py", "x  # => GA101\n")
    assert shell.run("lint").exit_code == 1
    assert shell.run("lint", "--config", "ci.toml").exit_code == 0


def test_per_file_ignores(shell: Shell) -> None:
    shell.write("gradaudit.toml", 'per-file-ignores = { "tests/" = ["GA1"] }\n')
    shell.write("tests/a.py", "x  # => GA101\ny  # => GA204\n")
    shell.write("b.py", "x  # => GA101\n")
    rows = json.loads(shell.run("lint", "--output-format", "json").stdout)
    assert [(row["path"], row["code"]) for row in rows] == [("b.py", "GA101"), ("tests/a.py", "GA204")]
