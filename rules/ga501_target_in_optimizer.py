"""The parameters of a target network are handed to an optimizer

## What it does
Finds an optimizer that holds the parameters of a network that a soft or hard update makes follow a trained one.

## Why is this bad?
A target network changes by its update only. In an optimizer it waits for the first gradient that gets into it: then the
target is trained as well. Where the optimizer moves parameters without a gradient (weight decay or momentum over a
joint tree in JAX, gradients of a joint model in Keras), it moves from the first step on.

## Example
```python
params = itertools.chain(critic.parameters(), critic_target.parameters())
optimizer = torch.optim.AdamW(params, lr=3e-4)
```

## Use instead
```python
optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-4)
```

## When it is all right
A target that was frozen before, a copy that is fine-tuned (trained, and never averaged), workers that fetch the weights
they train from. That a target is part of a network whose `parameters()` are handed over as a whole is told as info
while no gradient gets into it: a step passes over what has none.

## References
- Lillicrap et al., Continuous control with deep reinforcement learning, 2016
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.lagging import Lagging, called, lagging
from gradaudit.rules.criteria.roles import is_made_here, roles
from gradaudit.rules.criteria.update_report import update_finding
from gradaudit.tape import join_guards

if TYPE_CHECKING:
    from gradaudit.finding import Finding
    from gradaudit.paths import Analysis
    from gradaudit.tape import Event, Node, Optimizer

CODE, NAME = "GA501", "target-in-optimizer"
DECAYING = frozenset({"adamw", "nadamw", "adamaxw", "lion", "fromage", "noisy_sgd", "add_decayed_weights"})
"""Transformations of a whole tree that move a parameter whose gradient is zero. Others decay if they are told to (lars,
lamb): then the recorder calls them `add_decayed_weights` as well."""


def check(analysis: Analysis) -> Iterator[Finding]:
    facts = lagging(analysis)
    followers = {
        leaf: update
        for event, update in _updates(facts)
        for leaf in event.leaves
        if is_made_here(leaf) and (event.kind == "soft_update" or facts.bootstraps(event.leaves))
    }
    told = set()
    for event in analysis.tape.events if followers else ():
        optimizer = event.optimizer
        if event.kind != "hold" or optimizer is None or event.location in told:
            continue
        mine = [leaf for leaf in event.leaves if leaf in followers and _follows(facts, followers[leaf], event)]
        mine = [leaf for leaf in mine if not _frozen(analysis, leaf) and not _stopped(analysis, leaf, optimizer)]
        if mine:
            told.add(event.location)
            yield _finding(analysis, event, mine, followers[mine[0]])


def _updates(facts: Lagging) -> Iterator[tuple[Event, Event]]:
    """Who is written, and where training repeats it: what is written, or the new copy that takes its place."""
    for event in facts.updates:
        update = facts.renewal(event) if facts.initial(event) else event
        if update is not None:
            yield event, update


def _follows(facts: Lagging, update: Event, hold: Event) -> bool:
    """Is what it follows trained, by this optimizer or another one, and nothing the other way round?"""
    if _excludes(update, hold):
        return False
    sources = set(update.sources)
    joint = any(
        sources & (event.optimizer.leaves if event.optimizer is not None and not event.guard else set(event.leaves))
        for event in facts.analysis.tape.events
        if event is hold or _is_part(event, hold) and not _excludes(event, hold)
    )
    if not joint and not (sources & facts.held and _steps(facts.analysis, hold.optimizer)):
        return False
    return not any(set(other.leaves) & sources for other in facts.going_on)


def _excludes(one: Event, other: Event) -> bool:
    """Are there settings under which one happens and the other cannot?"""
    return join_guards(one.guard, other.guard) is None


def _is_part(event: Event, hold: Event) -> bool:
    """Optimizers of one tree, whose parts are stepped by label, take them together."""
    return event.kind == "hold" and event.location == hold.location and event.call is hold.call


def _steps(analysis: Analysis, optimizer: Optimizer | None) -> bool:
    return any(event.kind == "step" and event.optimizer is optimizer for event in analysis.tape.events)


def _frozen(analysis: Analysis, leaf: Node) -> bool:
    """Is it switched off at some time? An optimizer passes over what has no gradient."""
    return any(event.kind == "freeze" and leaf in event.leaves for event in analysis.tape.events)


def _stopped(analysis: Analysis, leaf: Node, optimizer: Optimizer) -> bool:
    """JAX: is it differentiated with the rest of its tree, and does a stop keep its gradient zero: no step moves it."""
    differentiated = leaf in roles(analysis).versions.values()
    return differentiated and not _decays(optimizer) and not _reached(analysis, [leaf])


def _decays(optimizer: Optimizer) -> bool:
    return bool(DECAYING & set(optimizer.name.split()))


def _reached(analysis: Analysis, leaves: list[Node]) -> bool:
    """Does gradient of some loss get into one of these, or into an argument that one of these was passed for?"""
    mask = analysis.mask(leaves) | analysis.mask(
        one for one, tree in roles(analysis).versions.items() if tree in leaves
    )
    return any(view.sink.kind != "library" and view.live(view.sink.loss) & mask for view in analysis.views)


def _finding(analysis: Analysis, event: Event, leaves: list[Node], update: Event) -> Finding:
    who = called(analysis, leaves)
    moved = event.optimizer is not None and _decays(event.optimizer) or _reached(analysis, leaves)
    whole = event.optimizer is not None and event.optimizer.whole
    """Nobody put the target in by hand: while no gradient reaches it, a step passes over it."""
    what = "and moves it at every step" if moved else "and trains it as soon as gradient reaches it"
    return update_finding(
        analysis,
        CODE,
        NAME,
        f"the optimizer holds {who}, a target network that only its update should change, {what}",
        "error" if moved else "info" if whole else "warning",
        event.location,
        fix=f"leave {who} out of the optimizer",
        leaves=leaves,
        also=[(update.location, f"{who} follows {called(analysis, update.sources)} here")],
    )
