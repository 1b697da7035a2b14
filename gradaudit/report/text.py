"""`--output-format text`: every finding with its source, its way from the loss to the origin, and what to write."""

from __future__ import annotations

from collections import Counter

from gradaudit.finding import SEVERITIES, Finding, Step
from gradaudit.report import Paint, Report, line_of
from gradaudit.report.concise import headline

MAX_STEPS = 12
MAX_WIDTH = 140


def render(report: Report, paint: Paint) -> str:
    parts = [_finding(report, finding, paint) for finding in report.findings]
    return "".join(part + "\n\n" for part in parts) + _summary(report, paint) + "\n"


def _finding(report: Report, finding: Finding, paint: Paint) -> str:
    location = finding.location
    width = len(str(max([location.line, *(step.location.line for step in finding.trace)])))
    bar = paint("|", "dim")
    lines = [headline(finding, paint)]
    source = line_of(report, location.path, location.line)
    if source.strip():
        shown, first, length = _clip(source, location.column, _caret_length(finding, source))
        lines.append(f"{' ' * width} {bar}")
        lines.append(f"{paint(f'{location.line:>{width}}', 'dim')} {bar} {shown}")
        lines.append(f"{' ' * width} {bar} {' ' * first}{paint('^' * length, finding.severity)}")
    if finding.trace:
        lines.append(f"{' ' * width} {paint('=', 'dim')} {paint('trace:', 'bold')} from the loss to the origin")
        lines += [f"{' ' * width}     {text}" for text in _trace(report, finding, paint)]
    if finding.fix is not None:
        lines.append(f"{' ' * width} {paint('=', 'dim')} {paint('help:', 'help')} {finding.fix.message}")
        lines += [f"{' ' * width}     {paint('+ ' + edit.text, 'help')}" for edit in finding.fix.edits if edit.text]
    return "\n".join(lines)


def _trace(report: Report, finding: Finding, paint: Paint) -> list[str]:
    """One line a step: place, source or message; the middle of a long way is left out."""
    steps = list(finding.trace)
    cut = len(steps) - MAX_STEPS
    head = steps if cut <= 0 else steps[: MAX_STEPS // 2]
    tail = [] if cut <= 0 else steps[-(MAX_STEPS // 2) :]
    places = [_place(step, finding) for step in steps]
    width = max(len(place) for place in places)
    lines = [_step(report, step, finding, width, paint) for step in head]
    if cut > 0:
        lines.append(paint(f"... {cut} more steps", "dim"))
    return lines + [_step(report, step, finding, width, paint) for step in tail]


def _place(step: Step, finding: Finding) -> str:
    where = step.location
    return f"{where.line}" if where.path == finding.location.path else f"{where.path}:{where.line}"


def _step(report: Report, step: Step, finding: Finding, width: int, paint: Paint) -> str:
    source = line_of(report, step.location.path, step.location.line).strip()
    if len(source) > MAX_WIDTH // 2:
        source = source[: MAX_WIDTH // 2 - 3] + "..."
    place = paint(f"{_place(step, finding):>{width}}", "dim")
    return f"{place}  {source}  {paint('# ' + step.message, 'dim')}" if source else f"{place}  {step.message}"


def _caret_length(finding: Finding, source: str) -> int:
    """How many characters to underline: the finding's span, or what is left of the line."""
    location = finding.location
    same_line = location.end_line in (0, location.line)
    end = location.end_column if same_line and location.end_column > location.column else len(source) + 1
    if not same_line or location.end_column > location.column:
        return max(1, min(end, len(source) + 1) - location.column)
    return 1


def _clip(source: str, column: int, length: int) -> tuple[str, int, int]:
    """The line without tabs and not wider than a screen, with the caret's place in it."""
    first = len(source[: column - 1].expandtabs(4))
    length = max(1, len(source[: column - 1 + length].expandtabs(4)) - first)
    shown = source.expandtabs(4)
    if len(shown) <= MAX_WIDTH:
        return shown, first, length
    start = max(0, min(first - 20, len(shown) - MAX_WIDTH))
    shown = shown[start : start + MAX_WIDTH]
    return shown, first - start, max(1, min(length, len(shown) - (first - start)))


def _summary(report: Report, paint: Paint) -> str:
    files = f"{report.files} file{'' if report.files == 1 else 's'}"
    hidden = f" ({report.suppressed} suppressed)" if report.suppressed else ""
    if not report.findings:
        return f"{paint('No findings', 'help')} in {files}{hidden}."
    count = Counter(finding.severity for finding in report.findings)
    kinds = ", ".join(
        paint(f"{count[severity]} {severity}{'s' if count[severity] > 1 and severity != 'info' else ''}", severity)
        for severity in reversed(SEVERITIES)
        if count[severity]
    )
    places = len({finding.location.path for finding in report.findings})
    total = len(report.findings)
    return f"Found {total} problem{'' if total == 1 else 's'} ({kinds}) in {places} of {files}{hidden}."
