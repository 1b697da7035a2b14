"""The formats tell the same, and each is what its reader expects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fakes import Shell

from gradaudit import report as reports
from gradaudit.config import FORMATS
from gradaudit.finding import Edit, Finding, Fix, Step
from gradaudit.report import Report, render
from gradaudit.rule import Rule
from gradaudit.tape import Location

SOURCE = "import torch\ndef step(q):\n\ttarget = r + q(s)  # ünï\n    loss = (q(s) - target) ** 2\n"
WHERE = Location("src/a b.py", 3, 2, 3, 19, "step")
EDIT = Edit(Location("src/a b.py", 3, 11, 3, 19), "(r + q(s)).detach()")
FIRST = Finding(
    "GA101",
    "bootstrap-target",
    "the target, 100% of it,\nreaches `q`",
    "error",
    WHERE,
    "torch",
    Fix("stop it: `.detach()`", "safe", (EDIT,)),
    (Step(Location("src/a b.py", 4, 5), "the loss"), Step(Location("lib.py", 7, 3), "parameters of q")),
)
SECOND = Finding("GA204", "foreign-gradient", "trains the critic", "warning", Location("z.py", 1))
RULES = tuple(
    Rule(code, name, f"About {code}", "A page", lambda _: iter(()))
    for code, name in (("GA101", "bootstrap-target"), ("GA204", "foreign-gradient"))
)
REPORT = Report((FIRST, SECOND), (), RULES, 3, 1, lambda path: SOURCE if path == "src/a b.py" else "")


def test_json_has_the_keys_of_the_contract() -> None:
    first, second = json.loads(render(REPORT, "json"))
    assert list(first) == (
        "code name message severity path line column end_line end_column function framework fix trace".split()
    )
    assert first["fix"]["applicability"] == "safe" and first["fix"]["edits"][0]["text"] == EDIT.text
    assert first["trace"][1] == {"path": "lib.py", "line": 7, "column": 3, "message": "parameters of q"}
    assert second["fix"] is None and second["trace"] == []
    assert (second["end_line"], second["end_column"]) == (1, 1)


def test_json_lines_is_json_line_by_line() -> None:
    lines = render(REPORT, "json-lines").splitlines()
    assert [json.loads(line) for line in lines] == json.loads(render(REPORT, "json"))


def test_concise() -> None:
    lines = render(REPORT, "concise").splitlines()
    assert lines[-1] == "z.py:1:1: GA204 [warning] trains the critic"
    assert len(lines) == 2
    assert lines[0] == "src/a b.py:3:2: GA101 [error] the target, 100% of it, reaches `q`"


def test_text_shows_source_caret_trace_help_and_a_summary() -> None:
    text = render(REPORT, "text")
    lines = text.splitlines()
    source = next(place for place, line in enumerate(lines) if line.startswith("3 |"))
    assert lines[source] == "3 |     target = r + q(s)  # ünï"
    assert lines[source + 1] == "  |     " + "^" * 17
    assert "= trace: from the loss to the origin" in text
    assert re.search(r"4 +loss = \(q\(s\) - target\) \*\* 2 +# the loss", text)
    assert re.search(r"lib\.py:7 +parameters of q", text)
    assert "= help: stop it: `.detach()`" in text
    assert lines[-1] == "Found 2 problems (1 error, 1 warning) in 2 of 3 files (1 suppressed)."


def test_text_cuts_a_long_line_and_a_long_trace() -> None:
    where = Location("a.py", 1, 300, 1, 303)
    steps = tuple(Step(Location("a.py", 2), f"step {number}") for number in range(40))
    finding = Finding("GA101", "x", "m", "error", where, trace=steps)
    text = render(Report((finding,), source=lambda _: "x" * 299 + "abc" + "y" * 300 + "\nz\n"), "text")
    assert all(len(line) < 200 for line in text.splitlines())
    caret = next(line for line in text.splitlines() if "^" in line)
    shown = next(line for line in text.splitlines() if "abc" in line)
    assert shown[caret.index("^") : caret.index("^") + 3] == "abc" and caret.count("^") == 3
    assert "step 0" in text and "step 39" in text and "step 20" not in text and "28 more steps" in text


def test_text_survives_a_place_that_is_not_there() -> None:
    finding = Finding("GA101", "x", "m", "error", Location("a.py", 99, 99), trace=(Step(Location("b.py", 0), "s"),))
    assert "a.py:99:99" in render(Report((finding,), source=lambda _: "x\n"), "text")


def test_sarif() -> None:
    document = json.loads(render(REPORT, "sarif"))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    first, second = run["results"]
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "GA101"
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "src/a%20b.py"
    assert place["region"] == {"startLine": 3, "startColumn": 2, "endLine": 3, "endColumn": 19}
    flow = first["codeFlows"][0]["threadFlows"][0]["locations"]
    assert [step["location"]["message"]["text"] for step in flow] == ["the loss", "parameters of q"]
    assert first["fixes"][0]["artifactChanges"][0]["replacements"][0]["insertedContent"]["text"] == EDIT.text
    assert (first["level"], second["level"]) == ("error", "warning")
    assert first["partialFingerprints"] != second["partialFingerprints"]


def test_fingerprints_survive_lines_above_and_tell_equal_lines_apart() -> None:
    def prints(source: str, *lines: int) -> list[str]:
        findings = tuple(Finding("GA101", "x", "m", "error", Location("a.py", line)) for line in lines)
        rows = json.loads(render(Report(findings, source=lambda _: source), "gitlab"))
        return [row["fingerprint"] for row in rows]

    assert prints("x\nx\n", 1, 2) == prints("\n\n  x\ny\nx\n", 3, 5)
    assert len(set(prints("x\nx\n", 1, 2))) == 2


def test_github_escapes() -> None:
    first, second = render(REPORT, "github").splitlines()
    assert first.startswith("::error title=gradaudit (GA101 bootstrap-target),file=src/a b.py,line=3,col=2,")
    assert "100%25 of it,%0Areaches" in first and first.count("::") == 2
    assert second.startswith("::warning ")


def test_gitlab() -> None:
    first, second = json.loads(render(REPORT, "gitlab"))
    assert first["location"] == {"path": "src/a b.py", "lines": {"begin": 3, "end": 3}}
    assert (first["severity"], second["severity"]) == ("major", "minor")


def test_junit() -> None:
    suites = ElementTree.fromstring(render(REPORT, "junit"))
    assert suites.attrib["failures"] == "2"
    failures = suites.findall(".//failure")
    assert [failure.attrib["type"] for failure in failures] == ["error", "warning"]
    empty = ElementTree.fromstring(render(Report(), "junit"))
    assert len(empty.findall(".//testcase")) == 1 and not empty.findall(".//failure")
    strange = Finding("GA101", "x", "a \x00 b \x1b", "error", Location("a.py", 1))
    ElementTree.fromstring(render(Report((strange,)), "junit"))


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_tells_of_every_finding_and_none_of_suppressed_ones(shell: Shell, output_format: str) -> None:
    shell.write("a.py", "x  # => GA101\ny  # => GA204\nz  # => GA101 # gradaudit: ignore[GA101]\n")
    result = shell.run("lint", "--output-format", output_format)
    assert result.exit_code == 1 and result.stderr == ""
    message_of = {"GA101": "100%25 of it, at GA101" if output_format == "github" else "100% of it, at GA101"}
    assert result.stdout.count(message_of["GA101"]) == (2 if output_format == "junit" else 1)
    assert "GA204" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("output_format", FORMATS)
def test_no_finding_is_a_report_too(tmp_path: Path, output_format: str) -> None:
    text = render(Report(files=2), output_format)
    if output_format in ("json", "gitlab"):
        assert json.loads(text) == []
    if output_format in ("concise", "github", "json-lines"):
        assert text == ""


def test_colour_only_where_it_is_asked_for() -> None:
    assert "\x1b[" in render(REPORT, "text", reports.colour)
    assert "\x1b" not in render(REPORT, "text")
    assert "\x1b" not in render(REPORT, "sarif", reports.colour)
