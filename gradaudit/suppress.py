"""Suppression comments: `# gradaudit: ignore[GA101] reason`, `# gradaudit: ignore-file[GA101]`, `# noqa: GA101`.

A comment counts on the finding's own line and on the first line of the statement the finding is in. A bare
`# gradaudit: ignore` means every code; a bare `# noqa` is meant for other tools and means none of ours.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass

from gradaudit.config import names_rule
from gradaudit.finding import Finding

_OURS = re.compile(r"#\s*gradaudit:\s*(?P<word>ignore-file|ignore)\b(?:\s*\[(?P<codes>[^\]]*)\])?", re.IGNORECASE)
_NOQA = re.compile(r"#\s*noqa:\s*(?P<codes>[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Suppression:
    """One comment. `codes` is empty where it means every code; `line` 0 stands for the whole file."""

    line: int
    codes: tuple[str, ...]
    column: int
    comment_line: int
    ours: bool

    def covers(self, finding: Finding) -> bool:
        return not self.codes or self.means(finding.code, finding.name)

    def means(self, code: str, name: str) -> bool:
        """Whether it names this rule."""
        return any(names_rule(word, code, name) for word in self.codes)


def suppressions(text: str) -> list[Suppression]:
    """Every suppression comment of a file, in order; comments inside strings do not count."""
    if not _OURS.search(text) and not _NOQA.search(text):
        return []
    found: list[Suppression] = []
    for line, column, comment in _comments(text):
        for match in _OURS.finditer(comment):
            whole_file = match["word"].lower() == "ignore-file"
            codes = _codes(match["codes"])
            if match["codes"] is None or codes:
                found.append(Suppression(0 if whole_file else line, codes, column + match.start() + 1, line, True))
        for match in _NOQA.finditer(comment):
            found.append(Suppression(line, _codes(match["codes"]), column + match.start() + 1, line, False))
    return found


def _codes(text: str | None) -> tuple[str, ...]:
    return tuple(code for code in re.split(r"[,\s]+", text or "") if code)


def _comments(text: str) -> Iterable[tuple[int, int, str]]:
    """(line, 0-based column, text) of the comments that can be read; a broken end of file ends the list."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.start[1], token.string
    except (tokenize.TokenError, SyntaxError):
        return


def first_lines(text: str, lines: Iterable[int]) -> dict[int, set[int]]:
    """For each of `lines`, the first lines of the statement it is in (a decorated one has two)."""
    wanted = set(lines)
    result: dict[int, set[int]] = {line: {line} for line in wanted}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return result
    innermost: dict[int, tuple[int, set[int]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            start = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))])
            end = node.end_lineno or node.lineno
            for line in wanted:
                if start <= line <= end and (line not in innermost or end - start <= innermost[line][0]):
                    innermost[line] = (end - start, {start, node.lineno})
    for line, (_, starts) in innermost.items():
        result[line] |= starts
    return result


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file's findings: those that stand, those that a comment takes back, and the comments that took none back."""

    kept: list[Finding]
    taken: list[Finding]
    unused: list[Suppression]


def apply(text: str, findings: list[Finding]) -> Outcome:
    """Hold a file's findings against its comments."""
    relevant = findings or _OURS.search(text)  # `noqa` speaks to us only where there is something to take back
    comments = suppressions(text) if relevant else []
    if not comments:
        return Outcome(findings, [], [])
    starts = first_lines(text, {finding.location.line for finding in findings}) if findings else {}
    outcome = Outcome([], [], list(comments))
    for finding in findings:
        lines = starts[finding.location.line] | {0}
        silent = [comment for comment in comments if comment.line in lines and comment.covers(finding)]
        (outcome.taken if silent else outcome.kept).append(finding)
        for comment in silent:
            if comment in outcome.unused:
                outcome.unused.remove(comment)
    return outcome
