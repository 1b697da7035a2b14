"""Only some of an ensemble's critics are trained

## What it does
Finds a loss whose prediction comes from the very members of an ensemble that were drawn for its target, although the
optimizer holds the whole ensemble.

## Why is this bad?
The subset is for the target: every member learns from every batch. Trained only when drawn, each member sees a fraction
of the data, and those that are drawn fit a target that they made themselves.

## Example
```python
index = random.sample(range(n), 2)
target = reward + gamma * torch.min(*[targets[i](next_obs) for i in index])
loss = sum(F.mse_loss(critics[i](obs), target) for i in index)
```

## Use instead
```python
loss = sum(F.mse_loss(critic(obs), target) for critic in critics)
```

## When it is all right
A subset in the target only, bootstrap masks, an optimizer for each member, and other losses that train the rest.

## References
- Chen et al., Randomized ensembled double Q-learning (REDQ), 2021
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.ensemble import DRAWN, added_to, behind, draw_of, draws_rows, targets
from gradaudit.rules.criteria.update_report import update_finding
from gradaudit.tape import PARAMETER, Node

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis

CODE, NAME = "GA602", "partial-ensemble-update"


def check(analysis: Analysis) -> Iterator[Finding]:
    if not DRAWN & analysis.graph.marks:
        return
    told = set()
    met = list(targets(analysis))
    for meeting, target, prediction in met:
        for node in behind(prediction.source):
            draw = draw_of(node)
            if draw is None or meeting.node.location in told or draws_rows(prediction.source, draw):
                continue
            if not _in_target(target.source, draw):
                continue
            members = _members(node)
            if not members or _alone(analysis, members) or any(_whole(other.source, members) for _, _, other in met):
                continue
            told.add(meeting.node.location)
            yield update_finding(
                analysis,
                CODE,
                NAME,
                "only the members of the ensemble that were drawn for the target are trained here",
                "warning",
                meeting.node.location,
                fix="draw the subset for the target only, and train every member",
                leaves=members,
                also=[(draw.location, "the members are drawn here")],
            )


def _in_target(target: Node, draw: Node) -> bool:
    if draws_rows(target, draw):
        return False
    return any(draw_of(node) is draw and added_to(target, node) for node in behind(target))


def _members(node: Node) -> set[Node]:
    """The parameters of a drawn member, or of all of them where their values are drawn from."""
    found = {edge.source for edge in node.inputs if edge.kind == PARAMETER}
    return found or {part for part in behind(node, 60) if part.leaf is not None and part.leaf.kind in ("param", "arg")}


def _alone(analysis: Analysis, members: set[Node]) -> bool:
    """Has each member an optimizer of its own?"""
    return any(
        event.kind == "hold" and members & set(event.leaves) and (event.loops or event.conditional)
        for event in analysis.tape.events
    )


def _whole(prediction: Node, members: set[Node]) -> bool:
    """Are the members predicted with, without a draw?"""
    nodes = behind(prediction)
    drawn = {part for node in nodes if draw_of(node) is not None for part in behind(node)}
    return any(
        node not in drawn and members & {edge.source for edge in node.inputs} for node in nodes if node not in drawn
    )
