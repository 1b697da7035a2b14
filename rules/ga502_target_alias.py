"""The target and the online network are one network under two names

## What it does
Finds a network that has two names where a copy was meant: an update copies it into itself, or a function asks it for
answers under both names, with gradient under the one and without under the other. Or a network that is given the
storage of another one (`p_target.data = p.data`) that it is to lag behind.

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
good as a copy. A module of flax nnx is an object, though, and needs `nnx.clone`.

## References
- Mnih et al., Human-level control through deep reinforcement learning, 2015
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.lagging import called, lagging
from gradaudit.rules.criteria.update_report import update_finding
from gradaudit.tape import OWN, SHARED

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis
    from gradaudit.tape import Event, Node

CODE, NAME = "GA502", "target-alias"
RANK = 5
MAKE_A_COPY = "make it a copy: copy.deepcopy(...)"


def check(analysis: Analysis) -> Iterator[Finding]:
    for event in analysis.tape.events:
        told = _told(analysis, event)
        if told is not None:
            message, severity, fix = told
            yield update_finding(analysis, CODE, NAME, message, severity, event.location, fix=fix, leaves=event.leaves)


def _told(analysis: Analysis, event: Event) -> tuple[str, str, str] | None:
    """Message, severity and fix of an event that makes one network out of two."""
    if event.kind == "alias":
        mine = called(analysis, event.leaves)
        message = f"this is a second name for {mine}, no copy: its updates copy it into itself"
        return message, "error", MAKE_A_COPY
    if event.kind == "second_name" and _is_trained(analysis, event):
        mine = called(analysis, event.leaves)
        return f"this is a second name for {mine}, no copy: it moves as that one does", "warning", MAKE_A_COPY
    if event.storage == SHARED and _is_to_lag(analysis, event):
        mine, theirs = called(analysis, event.leaves), called(analysis, event.sources)
        message = f"this gives {mine} the storage of {theirs}, no copy: every step of the optimizer changes both"
        return message, "error", "copy the values: `target.data.copy_(online.data)`, or `online.data.clone()`"
    return None


def _is_to_lag(analysis: Analysis, event: Event) -> bool:
    """Is what now shares the storage of a trained network a target, an average or a reference of it?

    Under a switch somebody asks for it, and a later update that gives it storage of its own ends it.
    """
    facts = lagging(analysis)
    mine, theirs = set(event.leaves), set(event.sources)
    if event.guard or mine & facts.held or not theirs <= facts.held:
        return False
    written = [other for other in facts.updates if mine & set(other.leaves)]
    if any(other.storage == OWN for other in written):
        return False
    follows = any(other.kind == "soft_update" and theirs & set(other.sources) for other in written)
    return follows or facts.bootstraps(mine) or _is_beside(analysis, mine, theirs)


def _is_beside(analysis: Analysis, mine: set[Node], theirs: set[Node]) -> bool:
    """Does a loss that trains the other network compare it with this one, which it does not train?"""
    reference, trained = analysis.mask(mine), analysis.mask(theirs)
    return bool(reference and trained) and any(
        view.trained & trained == trained
        and not view.trained & reference
        and reference & ~analysis.dep(view.sink.loss) == 0
        for view in analysis.views
    )


def _is_trained(analysis: Analysis, event: Event) -> bool:
    """Whether an optimizer of the program holds any of it."""
    return any(leaf in one.leaves for one in analysis.tape.optimizers for leaf in event.leaves)
