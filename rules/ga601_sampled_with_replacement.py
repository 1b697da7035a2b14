"""A subset of an ensemble is drawn with replacement

## What it does
Finds a target whose value is the lowest (or the mean) of a few members of an ensemble, where these were drawn so that
one member may be drawn twice.

## Why is this bad?
The minimum over two draws of one member is that member's own value. With M of N members drawn with replacement, the
target is less pessimistic than the algorithm says, by an amount that depends on the luck of the draw.

## Example
```python
picked = random.choices(critics, k=2)
target = reward + gamma * torch.stack([q(next_obs) for q in picked]).amin(0)
```

## Use instead
```python
picked = random.sample(critics, 2)
target = reward + gamma * torch.stack([q(next_obs) for q in picked]).amin(0)
```
`replace=False` in numpy and JAX.

## When it is all right
One member only, draws without replacement, and indices into a batch or a buffer are not reported.

## References
- Chen et al., Randomized ensembled double Q-learning (REDQ), 2021
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.ensemble import REPLACEMENT, added_to, draws_rows, reduced_members, targets
from gradaudit.rules.criteria.update_report import update_finding

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis

CODE, NAME = "GA601", "sampled-with-replacement"


def check(analysis: Analysis) -> Iterator[Finding]:
    if REPLACEMENT not in analysis.graph.marks:
        return
    told = set()
    for _, target, _ in targets(analysis):
        for draw, reduction in reduced_members(target.source):
            if REPLACEMENT not in draw.marks or draw.location in told or draws_rows(target.source, draw):
                continue
            if not added_to(target.source, reduction):
                continue
            told.add(draw.location)
            yield update_finding(
                analysis,
                CODE,
                NAME,
                "the members of the ensemble for this target are drawn with replacement: one may be drawn twice",
                "warning",
                draw.location,
                fix="draw without replacement (`random.sample`, `replace=False`, a permutation)",
                also=[(reduction.location, "the drawn members are reduced here")],
            )
