"""A target network is made as a copy and never updated

## What it does
Finds a network that a loss bootstraps from, that was copied from the trained network at the start, and that no update
writes afterwards. Also a momentum update that a class offers and the script that trains by itself never calls, one
whose average is given to the name that a loop has for the parameter (`t = tau * p + (1 - tau) * t`), and, in JAX, an
update whose new tree nobody keeps: the function that makes it goes on with the old one.

## Why is this bad?
The target stays the network of before the first step. The values that are learned are those of one step of a random
network, and nothing ever propagates further.

## Example
```python
self.target_net = copy.deepcopy(self.net)
...
target = reward + gamma * self.target_net(next_obs).max(1).values   # and no load_state_dict anywhere
```

## Use instead
```python
if step % target_interval == 0:
    self.target_net.load_state_dict(self.net.state_dict())
```

## When it is all right
Reference policies, teachers and random targets that are meant to stay (nothing is bootstrapped from them), and a class
that offers its update to its user.

## References
- Mnih et al., Human-level control through deep reinforcement learning, 2015
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.lagging import UPDATES, called, lagging
from gradaudit.rules.criteria.report import names_of
from gradaudit.rules.criteria.update_report import update_finding

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis
    from gradaudit.tape import Event, Node

CODE, NAME = "GA503", "target-never-updated"


def check(analysis: Analysis) -> Iterator[Finding]:
    facts = lagging(analysis)
    held = facts.held
    written = {leaf for event in facts.going_on for leaf in event.leaves} | facts.offered
    written |= {leaf for event in facts.going_on if facts.reversed(event) for leaf in event.sources}
    told = set()
    for event in analysis.tape.events:
        if event.kind == "lost" and event.location not in told and not held & set(event.leaves):
            told.add(event.location)
            yield _lost(analysis, event)
    for event in facts.updates if facts.repeated else ():
        leaves = set(event.leaves)
        if event.location in told or event.conditional or event.guard or not facts.initial(event):
            continue
        if leaves & held or facts.renewal(event) is not None or not held & set(event.sources):
            continue
        if leaves & written:
            offer = facts.uncalled(event)
            if offer is not None and not leaves & (written - facts.offered):
                told.add(event.location)
                yield _uncalled(analysis, event, offer)
        elif facts.bootstraps(leaves):
            written |= leaves
            told.add(event.location)
            yield _finding(analysis, event)


def _finding(analysis: Analysis, event: Event) -> Finding:
    target, online = called(analysis, event.leaves), called(analysis, event.sources)
    return update_finding(
        analysis,
        CODE,
        NAME,
        f"{target} is bootstrapped from, but after this copy of {online} nothing updates it",
        "warning",
        event.location,
        fix=f"update {target} from {online} while training",
        leaves=event.leaves,
    )


def _lost(analysis: Analysis, event: Event) -> Finding:
    if analysis.tape.framework == "jax":
        target, online = _named(analysis, event.leaves, "target"), _named(analysis, event.sources, "its original")
        message = f"the updated {target} is kept by nobody: the old one goes on and never follows {online}"
        fix = f"give the updated {target} on in the place of the old one"
    else:
        target, online = _parts(analysis, event.leaves), _parts(analysis, event.sources)
        message = (
            f"this average of {target} and {online} is given to the loop's own name and lost: {target} is not updated"
        )
        fix = "write it into the parameter: `.data.copy_(...)`"
    made = [(one.location, f"{target} is updated here") for one in _same(analysis, event)]
    return update_finding(
        analysis, CODE, NAME, message, "error", event.location, fix=fix, leaves=event.leaves, also=made
    )


def _named(analysis: Analysis, leaves: Iterable[Node], role: str) -> str:
    """What a tree is called, or, of one without a name, what it is."""
    return next((role for leaf in leaves if leaf.leaf is None and not leaf.name), "") or called(analysis, leaves)


def _same(analysis: Analysis, lost: Event) -> Iterator[Event]:
    """The last update before this event whose result is meant."""
    same = (event for event in reversed(analysis.tape.events) if event.kind in UPDATES and event.time < lost.time)
    yield from islice((event for event in same if event.leaves == lost.leaves and event.sources == lost.sources), 1)


def _parts(analysis: Analysis, leaves: Iterable[Node]) -> str:
    """Two parts of one object, told apart."""
    return names_of(analysis, analysis.mask(leaves))


def _uncalled(analysis: Analysis, copy: Event, offer: Event) -> Finding:
    target, online = _parts(analysis, copy.leaves), _parts(analysis, copy.sources)
    return update_finding(
        analysis,
        CODE,
        NAME,
        f"this update is never called: {target} keeps what it was given before training"
        + (f", whatever {online} learns" if online != target else ""),
        "warning",
        offer.location,
        fix=f"update {target} after each step of {online}",
        leaves=copy.leaves,
    )
