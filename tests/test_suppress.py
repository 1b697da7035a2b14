"""Suppression comments."""

from __future__ import annotations

import pytest
from fakes import Shell

from gradaudit.finding import Finding
from gradaudit.suppress import apply, suppressions
from gradaudit.tape import Location


def left(text: str, line: int = 1, code: str = "GA101") -> bool:
    finding = Finding(code, "bootstrap-target", "message", "error", Location("a.py", line))
    outcome = apply(text, [finding])
    assert len(outcome.kept) + len(outcome.taken) == 1
    return bool(outcome.kept)


@pytest.mark.parametrize(
    "comment",
    [
        "# gradaudit: ignore[GA101] a residual gradient, on purpose",
        "#gradaudit:ignore[GA101]",
        "# gradaudit: ignore[GA204, GA101]",
        "# gradaudit: ignore[GA1]",
        "# gradaudit: ignore[bootstrap-target]",
        "# gradaudit: ignore",
        "# type: ignore # gradaudit: ignore[GA101]",
        "# noqa: GA101",
        "# noqa:E501,GA101",
        "# noqa: E501 GA101 because",
    ],
)
def test_comments_that_suppress(comment: str) -> None:
    assert not left(f"loss = x  {comment}\n")


@pytest.mark.parametrize(
    "comment",
    [
        "# gradaudit: ignore[GA204]",
        "# gradaudit: ignore[]",
        "# gradaudit: ignored",
        "# noqa",
        "# noqa: E501",
        "# noqa because of GA101",
        "; y = '# gradaudit: ignore[GA101]'",
    ],
)
def test_comments_that_do_not(comment: str) -> None:
    assert left(f"loss = x  {comment}\n")


def test_the_first_line_of_the_statement() -> None:
    text = "loss = f(  # gradaudit: ignore[GA101] reason\n    a,\n    b,\n)\nloss = f(\n    a,\n)\n"
    assert not left(text, line=3)
    assert left(text, line=6)


def test_a_compound_statement_does_not_cover_its_body() -> None:
    text = "for x in y:  # gradaudit: ignore[GA101]\n    loss = x\n"
    assert left(text, line=2)
    assert not left(text, line=1)


def test_a_decorated_function() -> None:
    text = "@f\n@g  # gradaudit: ignore[GA101]\ndef h():  # gradaudit: ignore[GA204]\n    pass\n"
    assert not left(text, line=2)
    assert not left(text, line=2, code="GA204")
    assert left(text, line=1)


def test_a_whole_file() -> None:
    assert not left("x = 1\n# gradaudit: ignore-file[GA101] generated\n")
    assert not left("# gradaudit: ignore-file\nx = 1\n", line=2)
    assert left("# gradaudit: ignore-file[GA2]\nx = 1\n", line=2)


def test_a_broken_file_is_read_as_far_as_it_goes() -> None:
    assert not left("x = 1  # gradaudit: ignore[GA101]\ny = (\n")
    assert suppressions("x = '''# gradaudit: ignore") == []


def test_the_report_counts_them(shell: Shell) -> None:
    shell.write("a.py", "x  # => GA101 # gradaudit: ignore[GA101] why not\n")
    result = shell.run("lint")
    assert (result.exit_code, result.stdout) == (0, "No findings in 1 file (1 suppressed).\n")
    assert shell.run("lint", "--no-suppressions").exit_code == 1


def test_a_comment_that_suppresses_nothing_is_told_as_information(shell: Shell) -> None:
    shell.write("a.py", "x = 1  # gradaudit: ignore[GA101]\ny  # => GA102 # gradaudit: ignore[GA1, GA999]\n")
    shell.write("b.py", "x = 1  # gradaudit: ignore[GA999]\nz = 1  # noqa: GA101\n")
    result = shell.run("lint", "--output-format", "concise")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "a.py:1:8: GA901 [info] nothing is suppressed here: GA101",
        "b.py:1:8: GA901 [info] there is no such rule: GA999",
    ]
    assert shell.run("lint", "--ignore", "GA901").stdout.startswith("No findings")
    assert shell.run("lint", "--select", "GA9,GA2", "a.py").stdout.startswith("No findings")
