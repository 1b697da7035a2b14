"""An advantage, return or baseline inside a policy-gradient loss carries gradient.

## What it does
Finds a product of a log-probability (or probability ratio) and an advantage, where the advantage still carries
gradient to a value network or to the policy.

## Why is this bad?
The policy loss then trains the value network to make advantages large where actions were likely, instead of to
predict returns. The classic case is the one-step actor-critic that uses its TD error as advantage without a stop.

## Example
```python
advantage = reward + gamma * critic(next_obs) - critic(obs)
actor_loss = -(log_prob * advantage).mean()
```

## Use instead
```python
advantage = reward + gamma * critic(next_obs) - critic(obs)
actor_loss = -(log_prob * advantage.detach()).mean()
```
For a rollout, compute returns and advantages under `torch.no_grad()`.

## When it is all right
An objective that maximises the return itself through a reparameterised action (Dreamer, SVG) is no product with a
log-probability and is not reported.

## References
Sutton et al. 2000, Policy gradient methods for reinforcement learning with function approximation.
Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis
from gradaudit.rules.criteria.baseline import Rated, rated_by_baseline
from gradaudit.rules.criteria.bootstrap import SCORE, Leak, leaks
from gradaudit.rules.criteria.place import place
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.scale import ADVANTAGE, Weight
from gradaudit.rules.criteria.severity import decided, severity
from gradaudit.rules.criteria.weight import live_weights, says_advantage, weighs_by_residual
from gradaudit.tape import Location, Node

CODE, NAME = "GA105", "advantage"
RANK = 80


def check(analysis: Analysis) -> Iterator[Finding]:
    told: set[Node] = set()
    for leak in leaks(analysis):
        told.update(use.node for use in leak.uses)
        if SCORE in leak.kinds:
            yield _finding(leak)
    for one in rated_by_baseline(analysis):
        if one.node not in told:
            told.add(one.node)
            yield _rating(one)
    weights = [one for one in live_weights(analysis) if one.kind == ADVANTAGE and one.node not in told]
    places: set[Location] = set()
    for weight in weights:
        if says_advantage(weight):
            yield _weighing(weight, weight.node.location)
        elif weighs_by_residual(weight):
            number = analysis.algebra.vn(weight.weight)
            uses = [other.node for other in weights if analysis.algebra.vn(other.weight) == number]
            where = place(weight.view, weight.node, weight.weight, weight.leaves, uses)
            if where not in places:
                places.add(where)
                yield _weighing(weight, where)


def _weighing(weight: Weight, where: Location) -> Finding:
    """A finished advantage that is live: whatever computed it, the score must not train it."""
    view, analysis = weight.view, weight.view.analysis
    level = severity(view, weight.leaves)
    if decided(view, weight.weight, weight.leaves):
        level = "info"
    return make_finding(
        view,
        CODE,
        NAME,
        f"the advantage carries gradient: the policy loss trains {names_of(analysis, weight.leaves)} through it",
        level,
        where,
        fix=f"make the advantage a constant: {stop_call(analysis)}",
        leaves=weight.leaves,
        through=(weight.node, weight.weight),
    )


def _rating(one: Rated) -> Finding:
    """An advantage over its own baseline, or the values that it is of."""
    analysis = one.view.analysis
    what = "advantage carries" if one.node.op == "mul" else "values of the actions carry"
    return make_finding(
        one.view,
        CODE,
        NAME,
        f"the {what} gradient: the policy loss trains {names_of(analysis, one.leaves)} through "
        f"{'it' if one.node.op == 'mul' else 'them'}",
        "info" if decided(one.view, one.value, one.leaves) else severity(one.view, one.leaves),
        place(one.view, one.node, one.value, one.leaves),
        fix=f"make {'it' if one.node.op == 'mul' else 'them'} a constant: {stop_call(analysis)}",
        leaves=one.leaves,
        through=(one.node, one.value),
    )


def _finding(leak: Leak) -> Finding:
    use = next(use for use in leak.uses if use.kind == SCORE)
    view, analysis = use.view, use.view.analysis
    level = severity(view, use.leaves)
    if decided(view, use.value, use.leaves):
        level = "info"
    message = f"the advantage carries gradient: the policy loss trains {names_of(analysis, use.leaves)} through it"
    if len(leak.kinds) > 1:
        message = f"the returns and advantages carry gradient to {names_of(analysis, use.leaves)}"
    return make_finding(
        view,
        CODE,
        NAME,
        message,
        level,
        leak.location,
        fix=f"make the advantage a constant: {stop_call(analysis)}",
        leaves=use.leaves,
        through=(use.node, leak.cut) if leak.cut is not use.node else (use.node,),
    )
