"""The target and the online network are one network under two names

## What it does
Finds a network that has two names where a copy was meant: an update copies it into itself, or a function asks it for
answers under both names, with gradient under the one and without under the other.

## Why is this bad?
Both names are the same parameters. The target moves with every step of the optimizer, the update does nothing, and
gradient through the target is gradient through the online network.

## Example
```python
self.q_net_target = self.q_net
...
self.q_net_target.load_state_dict(self.q_net.state_dict())
```

## Use instead
```python
self.q_net_target = copy.deepcopy(self.q_net)
```

## When it is all right
Under a switch that asks for it (`use_target=False`), and in JAX, where arrays do not change and a second name is as
good as a copy.

## References
- Mnih et al., Human-level control through deep reinforcement learning, 2015
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.lagging import called
from gradaudit.rules.criteria.update_report import update_finding

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis
    from gradaudit.tape import Event

CODE, NAME = "GA502", "target-alias"
RANK = 5


def check(analysis: Analysis) -> Iterator[Finding]:
    for event in analysis.tape.events:
        if event.kind == "alias":
            yield update_finding(
                analysis,
                CODE,
                NAME,
                f"this is a second name for {called(event.leaves)}, no copy: its updates copy it into itself",
                "error",
                event.location,
                fix="make it a copy: copy.deepcopy(...)",
                leaves=event.leaves,
            )
        elif event.kind == "second_name" and _is_trained(analysis, event):
            yield update_finding(
                analysis,
                CODE,
                NAME,
                f"this is a second name for {called(event.leaves)}, no copy: it moves as that one does",
                "warning",
                event.location,
                fix="make it a copy: copy.deepcopy(...)",
                leaves=event.leaves,
            )


def _is_trained(analysis: Analysis, event: Event) -> bool:
    """Whether an optimizer of the program holds any of it."""
    return any(leaf in one.leaves for one in analysis.tape.optimizers for leaf in event.leaves)
