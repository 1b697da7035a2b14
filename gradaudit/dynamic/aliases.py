"""One network under two names, one of which is a target's: it moves with what it should lag behind."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from gradaudit.dynamic.judge import first_use, lagging_name
from gradaudit.dynamic.judgement import Case, Judgement, finding
from gradaudit.dynamic.lines import end_of
from gradaudit.dynamic.reachable_text import copied, place_of, trees
from gradaudit.tape import Location, Node

TAKEN = re.compile(r"(^|_)(snapshot|previous|prev|anchor)($|_|\d)")
Pair = tuple[str, str]
"""The name that should be another network's, and the name of what it is."""


def aliases(case: Case) -> Iterator[Judgement]:
    """Names that the user gave different roles; without roles those that tell by themselves, and those of which the
    text copies one into the other; whole networks only."""
    recording = case.recording
    stated = networks_of(recording.claimed)
    for pair, leaves in stated.items():
        yield _judged(case, pair, leaves, "error", ", stated as frozen,", ", stated as trained,")
    claimed = _claimed_storage(case)
    for pair, leaves in networks_of(claimed).items():
        yield _judged(case, pair, leaves, "error", ", stated as frozen,", ", stated as trained,")
    passing = recording.one_storage if recording.one_storage and _is_replaced(case) else frozenset()
    compared = {} if claimed or passing else _compared_storage(case)
    for pair, leaves in networks_of(compared).items():
        yield _judged(case, pair, leaves, "error", ", which this loss does not train,", ", which it trains,")
    several = {leaf: names for leaf, names in recording.spellings.items() if len(names) > 1 and leaf not in passing}
    copies = _copies(case) if several else []  # the user's files are parsed for it
    telling = {leaf: names for leaf, names in several.items() if _told(names, copies) is not None}
    loops, given = _passing_names(case) if telling else (set(), set())
    spelled = {leaf: _meant(case, names, loops, given) for leaf, names in telling.items()}
    named = {leaf: told for leaf, names in spelled.items() if (told := _told(names, copies)) is not None}
    for pair, leaves in networks_of(named).items():
        whole = [leaf for leaf, names in recording.spellings.items() if any(_within(name, pair[0]) for name in names)]
        used = case.analysis.mask(leaves) & case.analysis.dep(case.view.sink.loss)
        if (
            pair not in stated
            and not compared
            and used
            and len(whole) == len(leaves)
            and not _part(case, pair[0], leaves)
        ):
            yield _judged(case, pair, leaves, "warning", "", "")


def _part(case: Case, name: str, leaves: list[Node]) -> bool:
    """Whether the name is that of one tensor of a network, which a loop over parameters leaves behind."""
    return any(
        leaf.leaf is not None and leaf.leaf.owner is not None and name in case.recording.spellings[leaf]
        for leaf in leaves
    )


def networks_of(pairs: Mapping[Node, Pair]) -> dict[Pair, list[Node]]:
    """The pairs without what their names end in alike: the networks, and their leaves."""
    found: dict[Pair, list[Node]] = {}
    for leaf, (one, other) in pairs.items():
        first, second = one.split("."), other.split(".")
        while len(first) > 1 and len(second) > 1 and first[-1] == second[-1]:
            first, second = first[:-1], second[:-1]
        found.setdefault((".".join(first), ".".join(second)), []).append(leaf)
    return found


def _told(names: Sequence[str], copies: Sequence[Pair]) -> Pair | None:
    return _told_by_names(names) or _told_by_copies(names, copies)


def _told_by_copies(names: Sequence[str], copies: Sequence[Pair]) -> Pair | None:
    """Two names that differ in the one word for which the text has `word.load_state_dict(other.state_dict())`."""
    for target, source in copies:
        for name in names:
            parts = name.split(".")
            if parts.count(target) == 1:
                original = ".".join(source if part == target else part for part in parts)
                if original in names:
                    return name, original
    return None


def _copies(case: Case) -> list[Pair]:
    """What is copied into what that was set to it before, in the user's files: the last names of both. Under a switch
    (`if not use_target:`) that is meant so."""
    found: list[Pair] = []
    for _, tree in trees(case):
        nodes = list(ast.walk(tree))
        under = {id(inner) for node in nodes if isinstance(node, ast.If) for inner in ast.walk(node)}
        plain = [node for node in nodes if isinstance(node, ast.Assign) and id(node) not in under]
        second = {(end_of(target), end_of(node.value)) for node in plain for target in node.targets}
        for node in nodes:
            one, other = copied(node) if isinstance(node, ast.Call) else ("", "")
            for pair in ((one, other), (other, one)) if one and other and one != other else ():
                if pair in second and pair not in found:
                    found.append(pair)
    return found


def _told_by_names(names: Sequence[str]) -> Pair | None:
    lagging = [name for name in names if _is_copys(name)]
    others = [name for name in names if name not in lagging]
    return (lagging[0], others[0]) if lagging and others else None


def _is_copys(name: str) -> bool:
    """Whether a name says that it is another network's: one that lags behind, or one as it was some time ago."""
    return lagging_name(name) or any(TAKEN.search(part) for part in name.lower().split("."))


def _within(name: str, network: str) -> bool:
    return name == network or name.startswith(network + ".")


def _judged(case: Case, pair: Pair, leaves: list[Node], severity: str, first: str, second: str) -> Judgement:
    one, other = pair
    shared = case.recording.one_storage.issuperset(leaves)
    where = _data_assignment(case) if shared else _assignment(case, one, other)
    if where is None:
        where = first_use(case, case.analysis.mask(leaves)).location
    what = "hold one storage" if shared else "are one network under two names"
    message = f"`{one}`{first} and `{other}`{second} {what}: it does not lag behind, it moves along"
    fix = "copy the values: `target.data.copy_(online.data)`" if shared else "make a copy: `copy.deepcopy(...)`"
    return Judgement(finding(case, "GA502", severity, message, where, fix=fix))


def _claimed_storage(case: Case) -> dict[Node, Pair]:
    """What is stated as frozen and shares its storage with what is stated as trained."""
    stated = case.recording.tape.roles
    return _sharing(
        case,
        {leaf for leaf, role in stated.items() if role == "frozen"},
        {leaf for leaf, role in stated.items() if role == "trained"},
    )


def _compared_storage(case: Case) -> dict[Node, Pair]:
    """What the loss takes for a constant though its storage is that of what it trains."""
    loss = case.view.sink.loss
    live = case.view.live(loss)
    constant = case.analysis.dep(loss) & ~live
    return _sharing(case, set(case.analysis.leaves(constant)), set(case.analysis.leaves(live)))


def _sharing(case: Case, still: set[Node], moving: set[Node]) -> dict[Node, Pair]:
    """Those of the ones whose storage is also one of the others', and the names of both."""
    recording = case.recording
    moved = {recording.spellings[leaf][0] for leaf in recording.one_storage & moving}
    found: dict[Node, Pair] = {}
    for leaf in sorted(recording.one_storage & still, key=lambda leaf: leaf.time):
        names = recording.spellings[leaf]
        other = next((name for name in names if name in moved), "")
        if other:
            found[leaf] = names[0], other
    return found


def _data_assignment(case: Case) -> Location | None:
    """`target.data = online.data`, in a file of the loss or of an object in its reach."""
    named = (
        one for one in _data_assignments(case) if end_of(one[1].value) == "data" or isinstance(one[1].value, ast.Name)
    )
    return next((place_of(file, node) for file, node in named), None)


def _is_replaced(case: Case) -> bool:
    """Whether the text gives storage of its own to some parameter later: `target.data = rate * a + b`."""
    return any(isinstance(node.value, ast.BinOp) for _, node in _data_assignments(case))


def _data_assignments(case: Case) -> Iterator[tuple[str, ast.Assign]]:
    """Every `parameter.data = ...`."""
    for file, tree in trees(case):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(end_of(target) == "data" for target in node.targets):
                yield file, node


def _assignment(case: Case, one: str, other: str) -> Location | None:
    """`target = online`, in a file of the loss or of an object in its reach."""
    ends = {one.rpartition(".")[2], other.rpartition(".")[2]}
    if len(ends) != 2:
        return None
    for file, tree in trees(case):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign):
                continue
            if any({end_of(target), end_of(node.value)} == ends for target in node.targets):
                return place_of(file, node)
    return None


def _meant(case: Case, names: Sequence[str], passing: set[str], given: set[str]) -> list[str]:
    """The names that say what a network is. What a function calls its argument says it beside other names that the loss
    itself uses: `net` and `snapshot` in one closure are two names, `lagged` and the caller's `q2` are one network's.
    """
    code = getattr(case.recording.call.function, "__code__", None)
    captured = set(getattr(code, "co_freevars", ()))
    seen = captured | set(getattr(code, "co_names", ()))
    meant = [name for name in names if _head(name) not in passing | given - captured]
    if any(_head(name) in given for name in meant):
        return [name for name in meant if _head(name) in seen]
    return meant


def _head(name: str) -> str:
    return name.partition(".")[0]


def _passing_names(case: Case) -> tuple[set[str], set[str]]:
    """What loops leave behind (`for p in target.parameters(): ...`), a second name that nobody means; and what
    functions call what they are given."""
    passing: set[str] = set()
    given: set[str] = set()
    assigned: set[str] = set()
    for _, tree in trees(case):
        for node in ast.walk(tree):
            if isinstance(node, ast.For):
                passing.update(part.id for part in ast.walk(node.target) if isinstance(part, ast.Name))
            elif isinstance(node, ast.arg):
                given.add(node.arg)
            elif isinstance(node, ast.Assign):
                assigned.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return passing, given - assigned
