"""A distillation loss trains the teacher.

## What it does
Finds gradient into a network that nobody steps (a teacher, an expert, a reference) whose output a student's is compared
with.

## Why is this bad?
A teacher's graph costs memory and a second backward pass, and its batch statistics or an optimizer that is later given
all parameters will let it follow its student.

## Example
```python
loss = F.kl_div(student(x).log_softmax(-1), teacher(x).softmax(-1), reduction="batchmean")
```

## Use instead
```python
with torch.no_grad():
    labels = teacher(x).softmax(-1)
loss = F.kl_div(student(x).log_softmax(-1), labels, reduction="batchmean")
```

A teacher whose labels are stopped while its features, which a pupil's are drawn to, are not, is reported at the latter.

An answer of the network itself that teaches another one of its answers (a deep exit and the shallow ones) is a warning:
both learn from the data, and the teacher is drawn to its pupils.

## When it is all right
Networks that learn from each other (mutual learning, co-training) are held by an optimizer and are not reported; nor is
a fixed network that the loss goes through (a perceptual loss).

## References
Hinton et al. 2015, Distilling the knowledge in a neural network.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis, View
from gradaudit.rules.criteria.branches import is_teacher
from gradaudit.rules.criteria.exits import Exit, taught_by_itself
from gradaudit.rules.criteria.foreign import Foreign, foreign_flows
from gradaudit.rules.criteria.hints import half_stopped
from gradaudit.rules.criteria.mutual import Mutual, unbalanced_peers
from gradaudit.rules.criteria.place import place
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.severity import decided, severity
from gradaudit.rules.criteria.sites import stop_at
from gradaudit.rules.criteria.statistic import recorded_averages
from gradaudit.rules.criteria.teachers import (
    Beside,
    Teacher,
    fixed_beside_learners,
    random_answers,
    trained_labels,
    trained_teachers,
)
from gradaudit.tape import Location, Node

CODE, NAME = "GA302", "teacher"
RANK = 130


def check(analysis: Analysis) -> Iterator[Finding]:
    told: set[int] = set()
    seen = 0
    for flow in foreign_flows(analysis):
        if is_teacher(flow):
            seen |= flow.leaves
            yield _finding(flow)
    places: set[Location] = set()
    for teacher in trained_teachers(analysis):
        told.add(teacher.leaves)
        yield _trained(teacher)
    flows = [flow.leaves for flow in foreign_flows(analysis)]
    flows += [average.leaves for average in recorded_averages(analysis)]
    for teacher in trained_labels(analysis):
        if teacher.leaves in told or any(teacher.leaves & leaves for leaves in flows):
            continue
        finding = _labels(teacher)
        if finding.location not in places:  # each of its views is to be stopped
            places.add(finding.location)
            told.add(teacher.leaves)
            yield finding
    for teacher in half_stopped(analysis):
        if not any(teacher.leaves & leaves for leaves in [*flows, *told]):
            told.add(teacher.leaves)
            yield _half(teacher)
    yield from map(_peer, unbalanced_peers(analysis))
    yield from map(_by_itself, taught_by_itself(analysis))
    for beside in fixed_beside_learners(analysis):
        if not any(beside.leaves & leaves for leaves in [*flows, *told]):
            seen |= beside.leaves
            yield _beside(beside)
    for answer in random_answers(analysis):
        if not any(answer.leaves & leaves for leaves in (seen, *told)):
            yield _beside(answer)


def _finding(flow: Foreign) -> Finding:
    level = "info" if decided(flow.view, flow.value, flow.leaves) else severity(flow.view, flow.leaves)
    return _reached(flow.view, flow.leaves, level, flow.location, (flow.joint, flow.value))


def _beside(beside: Beside) -> Finding:
    return _reached(beside.view, beside.leaves, "warning", beside.node.location, (beside.node,))


def _reached(view: View, leaves: int, level: str, location: Location, through: tuple[Node, ...]) -> Finding:
    analysis = view.analysis
    return make_finding(
        view,
        CODE,
        NAME,
        f"the loss sends gradient into {names_of(analysis, leaves)}, a teacher that nobody trains",
        level,
        location,
        fix=f"make the teacher's output a constant: {stop_call(analysis)}, or freeze it with requires_grad_(False)",
        leaves=leaves,
        through=through,
    )


def _labels(teacher: Teacher) -> Finding:
    view, analysis = teacher.view, teacher.view.analysis
    return make_finding(
        view,
        CODE,
        NAME,
        f"all that {names_of(analysis, teacher.leaves)} gets gradient from are the labels it makes for another network",
        "warning",
        stop_at(view, teacher.node, teacher.labels, teacher.leaves),
        fix=f"make the labels constants: {stop_call(analysis)}",
        leaves=teacher.leaves,
        through=(teacher.node, teacher.labels),
    )


def _peer(found: Mutual) -> Finding:
    analysis = found.view.analysis
    location, other = found.lines
    who = names_of(analysis, found.leaves)
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"the labels that {who} makes here are live; those that it is taught with on line {other.line} are stopped",
        "warning",
        location,
        fix=f"make the labels constants: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.node,),
    )


def _half(teacher: Teacher) -> Finding:
    view, analysis = teacher.view, teacher.view.analysis
    who = names_of(analysis, teacher.leaves)
    return make_finding(
        view,
        CODE,
        NAME,
        f"one answer of {who} teaches another network as a constant; this one is drawn to its pupil",
        severity(view, teacher.leaves),
        stop_at(view, teacher.node, teacher.labels, teacher.leaves),
        fix=f"make all that the teacher says a constant: {stop_call(analysis)}",
        leaves=teacher.leaves,
        through=(teacher.node, teacher.labels),
    )


def _by_itself(found: Exit) -> Finding:
    view, analysis = found.view, found.view.analysis
    return make_finding(
        view,
        CODE,
        NAME,
        "one answer of the network makes the labels of another one, and is drawn to it: the loss trains both",
        "warning",
        place(view, found.nodes[0], found.labels, found.leaves, found.nodes),
        fix=f"make the labels constants: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.nodes[0], found.labels),
    )


def _trained(teacher: Teacher) -> Finding:
    view, analysis = teacher.view, teacher.view.analysis
    who = names_of(analysis, teacher.leaves)
    return make_finding(
        view,
        CODE,
        NAME,
        f"the loss trains {who}, which is in evaluation mode and makes the labels of another network",
        severity(view, teacher.leaves),
        stop_at(view, teacher.node, teacher.labels, teacher.leaves),
        fix=f"make the teacher's output a constant: {stop_call(analysis)}, and give the optimizer the student alone",
        leaves=teacher.leaves,
        through=(teacher.node, teacher.labels),
    )
