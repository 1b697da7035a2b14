"""What lint says of the text of a loss, tried on its run: who is told by name there is told by gradient here.

A run knows nothing of the program around it: which optimizer steps what, which return a reward goes into, which
network is a copy of which. The text does. A finding of the text counts for a run that passed along its trace, in which
the parameters that it names get gradient that they should not have, or none where they should have some.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from gradaudit.dynamic.aliases import networks_of
from gradaudit.dynamic.by_rules import STARVING, find_cut, lost_groups, placed, stopped_leaves
from gradaudit.dynamic.cuts import chain
from gradaudit.dynamic.judgement import Case, Judgement
from gradaudit.dynamic.lines import display_path, parsed
from gradaudit.dynamic.recording import Cut
from gradaudit.finding import Finding
from gradaudit.rules.criteria.mutual import upstream
from gradaudit.tape import Location, Node

Line = tuple[str, int]
Words = tuple[str, ...]
Span = tuple[str, int, int]

ONE_NAME = "GA502"
UPDATES = frozenset(("GA501", "GA503", "GA504", "GA505", "GA104", "GA403", "GA601", "GA602", "GA603", "GA900", "GA901"))
"""What is not said of a loss's gradient: a run of the loss neither shows nor contradicts it."""

_BETWEEN = re.compile(r"[^\w]+")


@dataclass(frozen=True, slots=True)
class Told:
    """A finding of the text and the names of the parameters that it is about, each as its words: `agent`, `critic`."""

    finding: Finding
    leaves: tuple[Words, ...]


def words(path: str) -> Words:
    """`self.nets["critic"][0]` is nets, critic and 0."""
    found = tuple(word for word in _BETWEEN.split(path) if word)
    return found[1:] if found[:1] == ("self",) else found


def from_text(case: Case, told: Iterable[Told]) -> Iterator[Judgement]:
    """The findings of the text that this run proves."""
    passed = Passed(case)
    for one in told:
        found = replace(one.finding, location=_shown(one.finding.location))
        found = placed(
            replace(found, trace=tuple(replace(step, location=_shown(step.location)) for step in found.trace))
        )
        if found.code == ONE_NAME:
            yield from _second_name(case, found)
        elif found.code not in UPDATES and passed.along(found):
            leaves = _named(case, one.leaves)
            if leaves and found.code in STARVING:
                yield from _starved(case, found, leaves)
            elif leaves:
                yield from _leaking(case, found, leaves, passed)


def _shown(location: Location) -> Location:
    return replace(location, path=display_path(os.path.abspath(location.path)))


def _made(case: Case) -> Iterator[Node]:
    """All that the loss is made of, but for parameters and data."""
    return (node for node in upstream(case.view.sink.loss) if node.leaf is None)


def _line(location: Location) -> Line:
    return location.path, location.line


class Passed:
    """The lines on which the loss was made, or from which what made it was called."""

    def __init__(self, case: Case) -> None:
        self.lines = {_line(at) for node in _made(case) for at in chain(node) if at.line}
        self.functions = {self._function(line) for line in self.lines}
        self.asked = _extent(case)
        self.last = {self._function(_line(at)) for at in chain(case.view.sink.loss) if at.line}

    def along(self, found: Finding) -> bool:
        """Whether the run went the way of the finding: through the function that was called or that gave the loss, and
        by no other function in between. A loss that is handed what was made before goes a part of that way."""
        way = list(dict.fromkeys(_line(step.location) for step in found.trace[1:]))
        gone = [number for number, line in enumerate(way) if line in self.lines]
        if not any(self._is_asked(way[number]) for number in gone):
            return False
        return all(self._function(line) in self.functions for line in way[gone[0] : gone[-1]])

    def _function(self, line: Line) -> Span:
        path, number = line
        inner = [span for span in _functions(path) if span[0] <= number <= span[1]]
        return (path, *max(inner, default=(0, 0)))

    def _is_asked(self, line: Line) -> bool:
        path, first, last = self.asked
        return not path or (line[0] == path and first <= line[1] <= last) or self._function(line) in self.last


@lru_cache(maxsize=64)
def _functions(path: str) -> tuple[tuple[int, int], ...]:
    """First and last lines of the functions of a file."""
    nodes = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return tuple((node.lineno, node.end_lineno or node.lineno) for node in nodes)


def _extent(case: Case) -> Span:
    """Where the function stands that was called; no file where nobody knows."""
    try:
        function = inspect.unwrap(case.recording.call.function)
        lines, first = inspect.getsourcelines(function)
        return display_path(inspect.getsourcefile(function) or ""), first, first + len(lines) - 1
    except (OSError, TypeError, ValueError):
        return "", 0, 0


def _named(case: Case, names: Iterable[Words]) -> int:
    """The leaves of the run that the text means: by the whole name, or, where a function calls its argument otherwise,
    by what follows the first word."""
    every = list(names)
    return _matching(case, every) or _matching(case, [one[1:] for one in every if len(one) > 2])


def _matching(case: Case, names: list[Words]) -> int:
    spelled = case.recording.spellings
    mask = 0
    for group in case.groups:
        for leaf in group.leaves:
            known = leaf.leaf.path if leaf.leaf is not None else leaf.name
            paths = [words(path) for path in (known, *spelled.get(leaf, ()))]
            if any(_within(name, path) for name in names for path in paths):
                mask |= case.analysis.mask([leaf])
    return mask


def _within(name: Words, path: Words) -> bool:
    """Whether the words stand in the path, in this order; a name of numbers alone says nothing."""
    rest = iter(path)
    return any(not word.isdigit() for word in name) and all(word in rest for word in name)


def _leaking(case: Case, found: Finding, leaves: int, passed: Passed) -> Iterator[Judgement]:
    """Gradient that reaches what the text says it should not reach."""
    stated = case.mask(group for group in case.groups if group.stated)
    roots = leaves & case.view.live(case.view.sink.loss) & ~stated
    places = list(_places(found, passed))
    if not roots or not _live_at(case, places[0], roots):
        return
    tried = [(place, cut) for place in places if (cut := find_cut(case, replace(found, location=place), roots))]
    pure = [(place, cut) for place, cut in tried if not stopped_leaves(case, cut) & ~roots]
    own = [(place, cut) for place, cut in tried if place is found.location]
    place, cut = next(iter((*own, *_wider(case, found, roots, passed), *pure, *tried)), (places[0], None))
    nodes = sorted(cut.values if cut is not None else (), key=lambda node: node.time)
    yield Judgement(replace(found, location=place), cut, lost_groups(case, cut), nodes=tuple(nodes))


def _wider(case: Case, found: Finding, roots: int, passed: Passed) -> Iterator[tuple[Location, Cut]]:
    """At the finding's own place a stop that takes all gradient from what it is about, and from more: what the text
    knows to be switched off may be live in a run of this loss alone."""
    if _line(found.location) in passed.lines:
        cut = find_cut(case, found, case.view.live(case.view.sink.loss), roots)
        if cut is not None:
            yield found.location, cut


def _live_at(case: Case, place: Location, roots: int) -> bool:
    """Whether gradient goes on from this line to what the finding is about."""
    on_line = (node for node in case.view.slice if _line(place) in map(_line, chain(node)))
    return any(case.view.live(node) & roots for node in on_line)


def _places(found: Finding, passed: Passed) -> Iterator[Location]:
    """Its place, if the run was there, and the lines from the loss on to the parameter."""
    for place in (found.location, *(step.location for step in found.trace[1:])):
        if _line(place) in passed.lines:
            yield place


def _starved(case: Case, found: Finding, leaves: int) -> Iterator[Judgement]:
    """No gradient where the text says that some should be: the loss is made of these parameters, and trains none."""
    asked = case.mask(group for group in case.groups if group.differentiated and group.trainable and not group.stated)
    leaves &= asked & case.analysis.dep(case.view.sink.loss)
    if leaves and (not leaves & case.view.live(case.view.sink.loss) or _stops_at(case, found, leaves)):
        empty = tuple(group.name for group in case.groups if case.mask([group]) & leaves)
        yield Judgement(found, starved=empty)


def _stops_at(case: Case, found: Finding, leaves: int) -> bool:
    """Whether what carries gradient to these parameters ends on the finding's line."""
    place = _line(found.location)
    here = (node for node in _made(case) if place in map(_line, chain(node)))
    return any(not edge.passes and case.analysis.alive(edge.source) & leaves for node in here for edge in node.inputs)


def _second_name(case: Case, found: Finding) -> Iterator[Judgement]:
    """One network, in the loss, that the user has under two names."""
    used = case.analysis.dep(case.view.sink.loss)
    pairs = {
        leaf: (names[0], names[1])
        for leaf, names in case.recording.spellings.items()
        if len(names) > 1 and case.analysis.mask([leaf]) & used
    }
    if networks_of(pairs):
        yield Judgement(found)
