"""A target update writes the online network, or keeps too little of the target

## What it does
Finds a soft or hard update between two networks that goes the wrong way: it writes the network that an optimizer
trains, from a copy that nothing else writes. It also finds an average that keeps less than half of the old target at
every step (`tau` where `1 - tau` belongs), and `optax.incremental_update` with its two trees exchanged.

## Why is this bad?
Written the wrong way round, the online network is pulled back to where it started, and the target never moves: nothing
is learned but a blend with the initial weights. With `tau` and `1 - tau` exchanged, the target is all but the online
network itself, and the bootstrap chases its own tail.

## Example
```python
for p, t in zip(online.parameters(), target.parameters()):
    p.data.copy_(tau * t.data + (1 - tau) * p.data)
```

## Use instead
```python
for p, t in zip(online.parameters(), target.parameters()):
    t.data.copy_(tau * p.data + (1 - tau) * t.data)
```

## When it is all right
A copy back from an average that training keeps up to date (weights swapped in for an evaluation, slow weights, a
snapshot), initial weights that parameters are drawn back to, a reset in a function that is called so, a hard copy, and
a weight that the text does not tell are not reported.

## References
- Lillicrap et al., Continuous control with deep reinforcement learning, 2016
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.lagging import Lagging, called, lagging
from gradaudit.rules.criteria.update_report import update_finding

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis
    from gradaudit.tape import Event

CODE, NAME = "GA504", "reversed-update"
RANK = 6
HALF = 0.5


def check(analysis: Analysis) -> Iterator[Finding]:
    facts = lagging(analysis)
    told = set()
    for event in facts.going_on:
        if event.location in told:
            continue
        if facts.reversed(event):
            told.add(event.location)
            yield _reversed(analysis, event)
        elif _hasty(facts, event):
            told.add(event.location)
            yield _magnitude(analysis, event)


def _hasty(facts: Lagging, event: Event) -> bool:
    """An average, at every step, of which the old value is the smaller part."""
    weight = event.weight
    if event.kind != "soft_update" or weight is None or event.conditional and not facts.with_each_step(event):
        return False
    return 0 < weight < HALF and facts.follows(event)


def _reversed(analysis: Analysis, event: Event) -> Finding:
    online, target = called(analysis, event.leaves), called(analysis, event.sources)
    return update_finding(
        analysis,
        CODE,
        NAME,
        f"this update writes {online}, which is being trained, from {target}, which nothing updates: it is reversed",
        "error",
        event.location,
        fix=f"write {target} from {online}",
        leaves=event.leaves,
    )


def _magnitude(analysis: Analysis, event: Event) -> Finding:
    weight = event.weight or 0.0
    target, online = called(analysis, event.leaves), called(analysis, event.sources)
    return update_finding(
        analysis,
        CODE,
        NAME,
        f"this average keeps {weight:.4g} of {target} and takes {1 - weight:.4g} of {online} at every step: "
        f"the weights are exchanged",
        "warning",
        event.location,
        fix=f"keep most of {target}: weight {1 - weight:.4g} for its old value, {weight:.4g} for {online}",
        leaves=event.leaves,
    )
