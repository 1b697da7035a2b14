"""The rules that lint runs, on the tape of a run; and where their findings are to be tried with a stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice

from gradaudit import catalog
from gradaudit.dynamic.asked import asked_for
from gradaudit.dynamic.cuts import chain
from gradaudit.dynamic.judgement import Case, Judgement
from gradaudit.dynamic.module_text import has_company
from gradaudit.dynamic.recording import NONE, ZERO, Cut
from gradaudit.dynamic.roles import FROZEN
from gradaudit.dynamic.shapes import TRANSPARENT
from gradaudit.finding import Finding, Step
from gradaudit.rule import Rule
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.starved import starved_predictions
from gradaudit.rules.criteria.terms import starved_terms
from gradaudit.rules.criteria.unfed import stopped_towers
from gradaudit.speaker import who_speaks
from gradaudit.tape import Location, Node

OPERAND_CODES = frozenset(("GA201", "GA303", "GA304"))
"""Rules whose defect is one operand of an operation: a stop at the operation's result would stop the learning, too."""

STARVING = frozenset(("GA401", "GA402"))
"""Rules that miss gradient; where roles are stated, `starved` speaks."""

MOST_TRIED = 12


@cache
def load_rules() -> list[Rule]:
    """Every rule there is; to ask all that is installed for more takes long, and a run has many losses."""
    return [entry.load() for entry in catalog.entries()]


def by_rules(case: Case, rules: Sequence[Rule] | None = None) -> Iterator[Judgement]:
    """One judgement for each finding of the shared rules."""
    loaded = load_rules() if rules is None else rules
    found: list[Finding] = []
    for rule in loaded:
        if rule.code not in STARVING or whole_update(case) or (rule.code == "GA401" and _asked_by_name(case)):
            found += _applied(case, rule)
        elif rule.code == "GA401":
            empty = _stopped_in_vain(case)
            found += [finding for finding in _applied(case, rule) if finding.location in empty]
    for finding in who_speaks(found, loaded):
        if asked_for(finding.location):
            continue
        roots = roots_of(case, finding)
        cut = find_cut(case, finding, roots)
        moved, lost = _moved(case, placed(finding), cut), lost_groups(case, cut)
        yield Judgement(moved, cut, lost, starved=_starved(case, finding, roots), nodes=tuple(_nodes(cut)))


def _stopped_in_vain(case: Case) -> set[Location]:
    """Where what passes nothing, or the wrong way, is stopped, whatever else is trained."""
    analysis = case.analysis
    swapped = [one for one in starved_predictions(analysis) if analysis.alive(one.meeting) & one.leaves]
    return {one.event.location for one in (*starved_terms(analysis), *stopped_towers(analysis), *swapped)}


def _starved(case: Case, finding: Finding, roots: int) -> tuple[str, ...]:
    """The groups that a comparison leaves out beside those that it trains: another loss of the run may train them."""
    if finding.code != "GA401" or not any(
        case.analysis.alive(found.meeting) and not case.analysis.alive(found.meeting) & found.leaves
        for found in starved_predictions(case.analysis)
        if found.event.location == finding.location
    ):
        return ()
    return tuple(group.name for group in case.groups if case.mask([group]) & roots)


def _applied(case: Case, rule: Rule) -> list[Finding]:
    """A rule's findings that stand on a line. A rule that fails costs a note, not the audit."""
    try:
        return [finding for finding in rule.check(case.analysis) if finding.location.line]
    except Exception as error:
        case.recording.notes.append(f"{rule.code} could not be applied: {error!r}")
        return []


def _asked_by_name(case: Case) -> bool:
    """Whether gradient is taken for named arguments (jax): a comparison in the loss that trains none of them, though
    its prediction is made of them, trains nothing. Part of a sum, or one of several, it may leave them to the others.
    """
    named = case.recording.tape.framework == "jax" and case.view.sink.differentiated is not None
    if not named or learns_elsewhere(case):
        return False
    if case.view.own is not None and not case.view.live(case.view.sink.loss) & case.view.own:
        return True  # the text goes on with some entries of the gradient, and these are zero
    return not case.analysis.alive(case.view.sink.loss) or not has_company(case.recording.call.function)


def learns_elsewhere(case: Case) -> bool:
    """Whether gradient is taken for the first argument because nobody said for which (jax), and another argument gets
    some, too: it may be that one which is trained."""
    return case.recording.call.argnums is None and any(
        not group.differentiated and group.state not in (NONE, ZERO) for group in case.groups
    )


def whole_update(case: Case) -> bool:
    """Whether the run shows what steps: of a loss alone nobody knows what else trains the groups it leaves out."""
    return any(event.kind == "step" and event.location.line for event in case.recording.tape.events)


def placed(finding: Finding) -> Finding:
    """The finding with every step of its trace on a line: a parameter stands where it was last used."""
    steps: list[Step] = []
    for step in finding.trace:
        if step.location.line:
            steps.append(step)
        elif steps:
            steps.append(Step(steps[-1].location, step.message))
    return replace(finding, trace=tuple(steps))


def _moved(case: Case, finding: Finding, cut: Cut | None) -> Finding:
    """Where one of two values that are made on one line (in a helper) is to be stopped, the line of its own caller."""
    if cut is None or finding.code not in OPERAND_CODES or len(cut.values) != 1:
        return finding
    (node,) = cut.values
    twins = [one for one in case.view.slice if one is not node and one.leaf is None and _span(one) == _span(node)]
    shared = {(where.path, where.line) for twin in twins for where in chain(twin)}
    if not twins or (finding.location.path, finding.location.line) not in shared:
        return finding
    own = next((where for where in chain(node) if (where.path, where.line) not in shared), None)
    return finding if own is None else replace(finding, location=own)


def _subtracted(case: Case, node: Node) -> bool:
    """Whether the value is what a difference takes away (`new - old`), perhaps after a change of shape."""
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        for user, edge in case.view.consumers(one):
            if user.op == "sub":
                if len(user.inputs) > 1 and user.inputs[1] is edge:
                    return True
            elif user.op in TRANSPARENT and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def roots_of(case: Case, finding: Finding) -> int:
    """The leaves a finding is about; all that the loss reaches where it does not say."""
    roots = case.analysis.mask(getattr(finding, "roots", frozenset()))
    return roots or case.view.live(case.view.sink.loss)


def find_cut(case: Case, finding: Finding, roots: int, all_of: int = 0) -> Cut | None:
    """A stop at the finding's place that takes all gradient from none but its roots, and from `all_of`; None where
    there is none.

    Where one operand is the defect, everything that learns must go on to learn.
    """
    tried = list(islice(_candidates(case, finding, roots), MOST_TRIED))
    tried.sort(key=lambda cut: stopped_leaves(case, cut) & ~roots != 0)
    losses = [_lost(case, cut) for cut in tried]
    everything = case.view.live(case.view.sink.loss)
    if finding.code in OPERAND_CODES and _is_fixed(case, roots):
        whole = next((cut for cut, lost in zip(tried, losses, strict=True) if lost == roots), None)
        if whole is not None:
            return whole
    if finding.code in OPERAND_CODES:
        for cut, lost in zip(tried, losses, strict=True):
            if not lost:
                return cut
    found = [(cut, lost) for cut, lost in zip(tried, losses, strict=True) if not lost & ~roots and lost != everything]
    found = [(cut, lost) for cut, lost in found if not all_of & ~lost]
    frozen = roots & case.mask(group for group in case.groups if group.stated and group.role == FROZEN)
    kept = (cut for cut, lost in found if not frozen & ~lost)
    return next(kept, found[0][0] if found else None)


def _is_fixed(case: Case, roots: int) -> bool:
    """Whether all of these belong to copies of others: they are to get nothing at all."""
    facts, leaves = roles(case.analysis), case.analysis.leaves(roots)
    return bool(leaves) and all(facts.is_copy(leaf) or facts.stated(leaf) == FROZEN for leaf in leaves)


def stopped_leaves(case: Case, cut: Cut) -> int:
    """The leaves whose gradient goes through a stopped value."""
    live = 0
    for value in (*cut.values, *(node.inputs[index].source for node, index in cut.operands)):
        live |= case.view.live(value)
    return live


def _candidates(case: Case, finding: Finding, roots: int) -> Iterator[Cut]:
    """The value made at the place, each operand of it, then everything that leaves its line."""
    view, where = case.view, finding.location
    span = (where.path, where.line, where.column, where.end_line, where.end_column)
    exact = [node for node in view.slice if node.leaf is None and _stands_at(node, span) and view.live(node) & roots]
    line = [node for node in view.slice if node.leaf is None and _on_line(node, finding) and view.live(node) & roots]
    last = _leaving(case, exact)
    if finding.code in OPERAND_CODES and len(last) > 1:
        for node in sorted(last, key=lambda node: (not _subtracted(case, node), node.time)):
            yield Cut(values=frozenset((node,)))
    if last:
        yield Cut(values=frozenset(last))
    yield from _operands(case, exact, roots)
    leaving = _leaving(case, line)
    if leaving and set(leaving) != set(last):
        yield Cut(values=frozenset(leaving))
        for node in reversed(leaving):
            yield Cut(values=frozenset((node,)))
    yield from _operands(case, [node for node in line if node not in exact], roots)


def _operands(case: Case, nodes: list[Node], roots: int) -> Iterator[Cut]:
    """One operand of an operation, the later ones first (`new - old`); of all its repetitions at once."""
    places: dict[tuple[object, str, int], list[tuple[Node, int]]] = {}
    for node in nodes:
        live = [i for i, edge in enumerate(node.inputs) if edge.passes and case.view.live(edge.source) & roots]
        if len(live) > 1 or case.view.live(node) & ~roots:
            for index in live:
                places.setdefault((_span(node), node.op, index), []).append((node, index))
    for key in sorted(places, key=lambda key: -key[-1]):
        yield Cut(operands=frozenset(places[key]))


def _leaving(case: Case, nodes: list[Node]) -> list[Node]:
    """Those whose value is used by something that is not among them."""
    inside = set(nodes)
    return [
        node
        for node in nodes
        if node is not case.view.sink.loss and any(user not in inside for user, _ in case.view.consumers(node))
    ]


def _span(node: Node) -> tuple[str, int, int, int, int]:
    where = node.location
    return (where.path, where.line, where.column, where.end_line, where.end_column)


def _stands_at(node: Node, span: tuple[str, int, int, int, int]) -> bool:
    """Whether the node, or a call that it was made in, is the expression at this place."""
    return any((at.path, at.line, at.column, at.end_line, at.end_column) == span for at in chain(node))


def _on_line(node: Node, finding: Finding) -> bool:
    """Whether the node, or a call that it was made in, stands on the finding's line."""
    path, line = finding.location.path, finding.location.line
    if (node.location.path, node.location.line) == (path, line):
        return True
    call = node.call
    while call is not None:
        if (call.location.path, call.location.line) == (path, line):
            return True
        call = call.parent
    return False


def _lost(case: Case, cut: Cut) -> int:
    """The leaves that gradient no longer reaches with this stop, by the structure of the tape."""
    reached = 0
    for node in reached_past(case, [cut]):
        reached |= case.analysis.bit(node)
    return case.view.live(case.view.sink.loss) & ~reached


def reached_past(case: Case, cuts: Sequence[Cut]) -> set[Node]:
    """What gradient still reaches with all these stops; a stopped value itself it does not."""
    loss = case.view.sink.loss
    values = {node for cut in cuts for node in cut.values}
    operands = {place for cut in cuts for place in cut.operands}
    seen: set[Node] = set() if loss in values else {loss}
    waiting = list(seen)
    while waiting:
        node = waiting.pop()
        for index, edge in enumerate(node.inputs):
            source = edge.source
            if edge.passes and source not in seen and source not in values and (node, index) not in operands:
                seen.add(source)
                waiting.append(source)
    return seen


def lost_groups(case: Case, cut: Cut | None) -> tuple[str, ...]:
    if cut is None:
        return ()
    lost = _lost(case, cut)
    return tuple(
        group.name
        for group in case.groups
        if group.state != NONE and (mask := case.mask([group]) & case.view.mask) and not mask & ~lost
    )


def _nodes(cut: Cut | None) -> Iterator[Node]:
    if cut is not None:
        yield from sorted({*cut.values, *(node for node, _ in cut.operands)}, key=lambda node: node.time)
