"""`[B]` meets `[B, 1]` in a loss: every row is compared with every other

## What it does
Finds two operands of a loss, or of the sum that makes its target, of which one has a last axis of size 1 that the other
one lacks.

## Why is this bad?
Broadcasting makes a matrix of all pairs of rows. The loss runs, has a plausible size, and pulls every prediction
towards the mean of all targets.

## Example
```python
target = reward + gamma * target_net(next_obs).squeeze(-1)   # [B]
loss = F.mse_loss(critic(obs), target)                       # [B, 1] against [B]
```

## Use instead
```python
loss = F.mse_loss(critic(obs).squeeze(-1), target)
```

## When it is all right
An axis that is put in by hand (`x[:, None]`, `unsqueeze`, `view(-1, 1)`), as for pairwise losses, is not reported;
neither is anything whose number of axes the text does not tell.

## References
- van Hasselt et al., Deep reinforcement learning with double Q-learning, 2016
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import meetings_at
from gradaudit.rules.criteria.update_report import update_finding
from gradaudit.tape import INDEX, REST, Node, Shape

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis

CODE, NAME = "GA603", "broadcast-loss"
SUMS = frozenset({"add", "sub"})
KEEPS = frozenset({"stop", "cast", "identity", "clone"})


def check(analysis: Analysis) -> Iterator[Finding]:
    shapes = analysis.tape.shapes
    if not shapes:
        return
    graph = analysis.graph
    met = {meeting.node for node in graph.nodes for meeting in meetings_at(analysis, node)}
    told = set()
    for node in graph.nodes:
        if node in met or node.op in SUMS:
            pair = _pair(node, shapes)
            if pair is not None and node.location not in told:
                told.add(node.location)
                yield _finding(analysis, node, pair, "error" if node in met else "warning")


def _pair(node: Node, shapes: dict[Node, Shape]) -> tuple[Shape, Shape] | None:
    """The two shapes, the longer one first, where one operand is a column and the other one is not."""
    operands = [edge.source for edge in node.inputs if edge.kind != INDEX][:2]
    if len(operands) < 2 or any(operand not in shapes for operand in operands):
        return None
    operands.sort(key=lambda operand: -len(shapes[operand]))
    long, short = (shapes[operand] for operand in operands)
    cores = [_core(operand) for operand in operands]
    if cores[0] is cores[1] or cores[0].op == "reshape" or not column(long, short):
        return None
    return long, short


def _core(node: Node) -> Node:
    while node.op in KEEPS and node.inputs:
        node = node.inputs[0].source
    return node


def column(long: Shape, short: Shape) -> bool:
    """`[..., B, 1]` against `[..., B]`, of more than one row as far as is known."""
    if len(long) != len(short) + 1 or long[-1] != 1 or not short or short[-1] == 1:
        return False
    return all(a == b or (None in (a, b) and REST not in (a, b)) for a, b in zip(long, short, strict=False))


def _finding(analysis: Analysis, node: Node, pair: tuple[Shape, Shape], severity: str) -> Finding:
    long, short = (_text(shape) for shape in pair)
    return update_finding(
        analysis,
        CODE,
        NAME,
        f"an operand of shape {long} meets one of shape {short}: every row is combined with every other",
        severity,
        node.location,
        fix=f"give both the same shape: `squeeze(-1)` on the one of shape {long}",
        leaves=(),
    )


def _text(shape: Shape) -> str:
    sizes = ["..." if size == REST else "B" if size is None else str(size) for size in shape]
    return "[" + ", ".join("B" if size == "..." else size for size in sizes) + "]"
