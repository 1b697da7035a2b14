"""A page for each rule: its docstring, and an example that is linted while the page is built."""

from __future__ import annotations

from collections.abc import Iterator

from live import Program, Programs, changes

from gradaudit import catalog
from gradaudit.catalog import Entry

KINDS = {
    "GA1": "Targets and advantages",
    "GA2": "Policies, weights, temperatures, states",
    "GA3": "Teachers, copies, codebooks",
    "GA4": "Gradient that is missing",
    "GA5": "Target networks and what updates them",
    "GA6": "Ensembles and shapes",
    "GA9": "The linter's own",
}
LONGEST = 70
"""Lines of a program that is shown whole."""


def file_of(entry: Entry) -> str:
    return f"rules/{entry.code.lower()}-{entry.name}.md"


def pages(programs: Programs, systems: dict[str, list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """(path, markdown); `systems`: code -> (title, path) of the pages that show a finding of that code."""
    yield "rules/index.md", _index()
    for entry in catalog.entries():
        yield file_of(entry), _page(entry, programs, systems.get(entry.code, []))


def _index() -> str:
    parts = [
        "# Rules\n\nEach rule is a criterion over the recorded computation, not over names: what decides is where",
        " gradient goes. `gradaudit explain GA101` shows the same pages in a terminal.\n",
    ]
    for prefix, title in KINDS.items():
        rows = [
            f"| [{entry.code}]({file_of(entry).removeprefix('rules/')}) | {entry.name} | {entry.load().summary} |"
            for entry in catalog.entries()
            if entry.code.startswith(prefix)
        ]
        if rows:
            parts += [f"\n## {title}\n\n| code | name | says |\n|---|---|---|\n", "\n".join(rows), "\n"]
    return "".join(parts)


def _page(entry: Entry, programs: Programs, systems: list[tuple[str, str]]) -> str:
    _, _, body = entry.load().page.partition("\n")
    parts = [f"# {entry.code} {entry.name}\n\n{entry.load().summary}.\n", body.strip(), "\n"]
    shown = _examples(entry.code, programs)
    if shown:
        parts.append("\n## What it looks like\n")
        parts += [_example(one, programs) for one in shown]
    if systems:
        links = ", ".join(f"[{title}](../{path})" for title, path in systems)
        parts.append(f"\n## Systems in which it is shown\n\n{links}.\n")
    return "\n".join(parts)


def _examples(code: str, programs: Programs) -> list[Program]:
    """The shortest program of each framework on which the rule speaks."""
    wrong = [one for one in programs.all.values() if code in one.expected and one.path.startswith(code.lower())]
    wrong = [one for one in wrong if any(found.code == code for found in programs.findings(one))]
    shortest: dict[str, Program] = {}
    for one in sorted(wrong, key=lambda one: len(one.text.splitlines())):
        shortest.setdefault(one.framework, one)
    return [shortest[name] for name in ("PyTorch", "JAX", "TensorFlow", "") if name in shortest][:2]


def _example(program: Program, programs: Programs) -> str:
    title = f"### In {program.framework}\n" if program.framework else ""
    lines = program.text.splitlines()
    code = program.text if len(lines) <= LONGEST else _around(program, programs)
    parts = [title, f"```python\n{code.rstrip()}\n```\n", f"```text\n{programs.output(program)}```\n"]
    right = programs.nearest_right(program)
    if right is not None:
        parts.append(f"From a correct program to this one:\n\n```diff\n{changes(right, program)}\n```\n")
    return "\n".join(parts)


def _around(program: Program, programs: Programs) -> str:
    """The lines around the findings of a long program."""
    lines = program.text.splitlines()
    wanted: set[int] = set()
    for found in programs.findings(program):
        wanted.update(range(found.location.line - 12, found.location.line + 9))
    shown: list[str] = []
    for number, line in enumerate(lines, start=1):
        if number in wanted:
            shown.append(line)
        elif shown and shown[-1] != "# ...":
            shown.append("# ...")
    return "\n".join(shown)
