"""A page for each system: how gradient is to flow in it, a correct program, and what gradaudit says of each mistake."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from live import Program, Programs, changes, likeness

from gradaudit import catalog

DATA = Path(__file__).with_name("systems.toml")


@dataclass(frozen=True)
class System:
    title: str
    slug: str
    group: str
    text: str
    programs: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"systems/{self.slug}.md"


def systems() -> list[System]:
    rows = tomllib.loads(DATA.read_text(encoding="utf-8"))["system"]
    return [
        System(row["title"], row["slug"], row["group"], row["text"].strip(), tuple(row["programs"])) for row in rows
    ]


def shown_in(programs: Programs) -> dict[str, list[tuple[str, str]]]:
    """Code -> (title, path) of the systems on whose page it is found."""
    found: dict[str, list[tuple[str, str]]] = {}
    for system in systems():
        codes = {one.code for program in _wrong(system, programs) for one in programs.findings(program)}
        for code in sorted(codes):
            found.setdefault(code, []).append((system.title, system.path))
    return found


def pages(programs: Programs) -> Iterator[tuple[str, str]]:
    yield "systems/index.md", _index()
    for system in systems():
        yield system.path, _page(system, programs)


def _index() -> str:
    parts = [
        "# Systems\n\nHow gradient is to flow in each algorithm, a correct program, and what gradaudit says of each",
        " mistake. The programs are gradaudit's own fixtures, in the styles that people write them in; every report on",
        " these pages is made while they are built.\n",
    ]
    for group in dict.fromkeys(system.group for system in systems()):
        parts.append(f"\n## {group}\n\n")
        parts += [f"- [{one.title}]({one.slug}.md)\n" for one in systems() if one.group == group]
    return "".join(parts)


def _right(system: System, programs: Programs) -> list[Program]:
    return [one for one in programs.matching(list(system.programs)) if programs.is_right(one)]


def _wrong(system: System, programs: Programs) -> list[Program]:
    return [one for one in programs.matching(list(system.programs)) if one.expected]


def _page(system: System, programs: Programs) -> str:
    right, wrong = _right(system, programs), _wrong(system, programs)
    parts = [f"# {system.title}\n\n{system.text}\n"]
    chosen = _one_a_framework(right)
    if chosen:
        parts.append("\n## A correct program\n")
        parts += [_whole(one, len(chosen) > 1) for one in chosen]
    if wrong:
        parts.append("\n## What goes wrong\n")
        parts += [_mistake(one, right, programs) for one in wrong]
    limits = [one for one in programs.matching(list(system.programs)) if one.limits and not one.expected]
    if limits:
        parts.append("\n## What lint does not see yet\n")
        parts += [_limit(one) for one in limits]
    return "\n".join(parts)


def _one_a_framework(right: list[Program]) -> list[Program]:
    chosen: dict[str, Program] = {}
    for one in sorted(right, key=lambda one: ("_ok" not in one.stem, len(one.text))):
        chosen.setdefault(one.framework, one)
    return [chosen[name] for name in ("PyTorch", "JAX", "TensorFlow") if name in chosen][:2]


def _whole(program: Program, several: bool) -> str:
    title = f"### {program.framework}\n\n" if several else ""
    return f"{title}`{program.path}`: {program.summary} gradaudit has nothing to report.\n\n{_python(program.text)}"


def _mistake(program: Program, right: list[Program], programs: Programs) -> str:
    codes = ", ".join(sorted({one.code for one in programs.findings(program)}))
    links = ", ".join(_link(code) for code in codes.split(", ") if code)
    parts = [f"### {_title(program)} {{ #{program.name.replace('/', '-')} }}\n"]
    near = max(right, key=lambda one: likeness(one, program), default=None)
    if near is not None and near.framework == program.framework and likeness(near, program) > 0.6:
        parts.append(f"Rule {links}. From `{near.path}` to `{program.path}`:\n")
        parts.append(f"```diff\n{changes(near, program)}\n```\n")
    else:
        parts.append(f"Rule {links}. `{program.path}`: {program.summary}\n\n{_folded(program)}")
    parts.append(f"```text\n{programs.output(program)}```\n")
    return "\n".join(parts)


def _title(program: Program) -> str:
    """`sac_torch_alpha_in_target` is "Alpha in target (PyTorch)"."""
    words = re.split(r"_(?:torch|jax|flax|haiku|nnx|equinox|eqx|keras|tf1|tf2)_?", program.stem, maxsplit=1)
    mistake = (words[1] if len(words) > 1 and words[1] else words[0]).replace("_", " ")
    system = words[0].replace("_", " ")
    return f"{system}: {mistake} ({program.framework})" if program.framework else f"{system}: {mistake}"


def _link(code: str) -> str:
    from rule_pages import file_of

    entry = catalog.find(code)
    return f"[{code} {entry.name}](../{file_of(entry)})"


def _limit(program: Program) -> str:
    reasons = "; ".join(f"line {line}, {codes}: {reason}" for line, codes, reason in program.limits)
    return f"`{program.path}`: {program.summary} {reasons}.\n\n{_folded(program)}"


def _folded(program: Program) -> str:
    inside = "\n".join(f"    {line}".rstrip() for line in _python(program.text).splitlines())
    return f'??? example "The program"\n\n{inside}\n\n'


def _python(source: str) -> str:
    return f"```python\n{source.rstrip()}\n```\n"
