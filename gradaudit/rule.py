"""What a rule is: one module in `gradaudit.rules` (or behind the entry-point group of that name).

A rule module is called `gaNNN_some_name`; its code and name are its file's. It has

    a docstring         the user's page, under the headings of `HEADINGS`
    check(analysis)     yields findings; `analysis` is a `gradaudit.paths.Analysis` of one tape

and may have `RANK: int`: where two rules speak of one root at one cut, the lower rank speaks (RULES: who speaks when
several match).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradaudit.finding import Finding

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

HEADINGS = (
    "What it does",
    "Why is this bad?",
    "Example",
    "Use instead",
    "When it is all right",
    "References",
)


@dataclass(frozen=True, slots=True)
class Rule:
    code: str
    name: str
    summary: str
    page: str
    check: Callable[[Analysis], Iterator[Finding]]
    rank: int = 1000
