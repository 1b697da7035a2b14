"""`gradaudit check` as text: a table of groups, then every finding with its way and its proof."""

from __future__ import annotations

import io
import linecache

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from gradaudit.check import CheckReport
from gradaudit.dynamic.judgement import Judgement
from gradaudit.dynamic.proof import sentences
from gradaudit.dynamic.recording import NONE, Group, Proof
from gradaudit.finding import Finding, Step
from gradaudit.tape import Location

WIDTH = 120
STATES = {"none": "no path", "zero": "zero on these inputs", "nonzero": "yes"}
COLOURS = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


def render(report: CheckReport, colour: bool = False) -> str:
    """The report as text; without colour it has no escape codes at all."""
    if report.parts:
        return "\n".join(render(part, colour) for part in report.parts)
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=WIDTH,
        force_terminal=colour,
        no_color=not colour,
        color_system="auto" if colour else None,
        highlight=False,
        soft_wrap=True,
        legacy_windows=False,
    )
    console.print(Text.assemble((report.target, "bold"), f"  {report.framework}  loss {report.loss:.9g}"))
    console.print()
    console.print(_table(report))
    for note in report.notes:
        console.print(f"note: {note}", style="dim")
    for finding, proof, judgement in zip(report.findings, report.proofs, report.judgements, strict=True):
        console.print()
        _finding(console, finding, proof, judgement)
    console.print()
    console.print(_summary(report))
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    return "\n".join(lines) + "\n"


def _table(report: CheckReport) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    ranks = report.recording.ranks if report.recording is not None else {}
    for name in ("group", "role", "gradient", "norm", "tensors", *(["ranks"] if ranks else [])):
        table.add_column(name, justify="right" if name in ("norm", "tensors") else "left", no_wrap=True)
    leaking = {name for judgement in report.judgements for name in judgement.leaks}
    starving = {name for judgement in report.judgements for name in judgement.starved}
    for group in report.groups:
        wrong = group.name in leaking or group.name in starving
        row: list[Text | str] = [
            Text(group.name, style="bold"),
            _role(group),
            Text(_state(group) + ("  <-" if wrong else ""), style="red" if wrong else ""),
            "" if group.state == NONE else f"{group.norm:.4g}",
            str(group.tensors),
        ]
        if ranks:
            row.append(", ".join(map(str, ranks.get(group.name, ()))) or "-")
        table.add_row(*row)
    return table


def _role(group: Group) -> str:
    return group.role if group.stated or not group.role else f"{group.role}?"


def _state(group: Group) -> str:
    return STATES[group.state] if group.differentiated else "not differentiated"


def _finding(console: Console, finding: Finding, proof: Proof | None, judgement: Judgement) -> None:
    where = finding.location
    head = Text(f"{where.path}:{where.line}:{where.column}: ")
    head.append(finding.code, style=COLOURS[finding.severity])
    head.append(f" [{finding.severity}] {finding.message}")
    console.print(head)
    source = _source(where)
    if source:
        console.print(Text(f"  {where.line} | {source}"))
    if finding.trace:
        console.print(_tree(finding))
    if proof is not None:
        lines = sentences(judgement, proof)
        console.print(Text.assemble("  ", ("proof", "bold green" if not proof.note else "bold"), f": {lines[0]}"))
        for line in lines[1:]:
            console.print(f"         {line}", markup=False)
    if finding.fix is not None:
        console.print(Text.assemble("  ", ("help", "green"), f": {finding.fix.message}"))


def _tree(finding: Finding) -> Tree:
    """From the loss down to the parameter."""
    tree = Tree(_step(finding.trace[0], finding), guide_style="dim")
    branch = tree
    for step in finding.trace[1:12]:
        branch = branch.add(_step(step, finding))
    if len(finding.trace) > 12:
        branch.add(Text(f"... {len(finding.trace) - 12} more steps", style="dim"))
    root = Tree("", hide_root=True, guide_style="dim")
    root.add(tree)
    return root


def _step(step: Step, finding: Finding) -> Text:
    where = step.location
    place = str(where.line) if where.path == finding.location.path else f"{where.path}:{where.line}"
    source = _source(where)
    text = Text(f"{place}  ", style="dim")
    if step.message.startswith(("the parameter ", "parameters of ")):
        return text.append(step.message, style="bold")
    at_cut = where.path == finding.location.path and where.line == finding.location.line
    text.append(source[:70] or step.message, style="red" if at_cut else "default")
    if source:
        text.append(f"  # {step.message}", style="dim")
    return text


def _source(where: Location) -> str:
    return linecache.getline(where.path, where.line).strip()


def _summary(report: CheckReport) -> Text:
    hidden = f" ({report.suppressed} suppressed)" if report.suppressed else ""
    if not report.findings:
        return Text(f"No findings{hidden}.", style="green")
    count = len(report.findings)
    kinds = [
        f"{number} {severity}{'s' if number > 1 and severity != 'info' else ''}"
        for severity in ("error", "warning", "info")
        if (number := sum(one.severity == severity for one in report.findings))
    ]
    return Text(f"Found {count} problem{'s' if count > 1 else ''} ({', '.join(kinds)}){hidden}.")
