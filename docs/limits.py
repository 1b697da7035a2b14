"""The page of soundness choices and known limits: what is written, and the list that the fixtures keep."""

from __future__ import annotations

from pathlib import Path

from live import Programs

TEXT = Path(__file__).with_name("limits.md")


def page(programs: Programs) -> str:
    rows = [
        f"| {codes.replace('|', ', ')} | `{one.path}`, line {line} | {reason or one.summary} |"
        for one in programs.all.values()
        for line, codes, reason in one.limits
    ]
    table = "\n".join(["| rule | where | why it is not seen |", "|---|---|---|", *sorted(rows)])
    return TEXT.read_text(encoding="utf-8").replace("{{ limits }}", table)
