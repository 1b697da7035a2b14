"""The old side of a ratio, of a divergence or of a clipped value carries gradient

## What it does
Looks for a policy's probability (or value, or distribution) that is compared with an older one of itself: the ratio of
PPO and GRPO, the KL of TRPO and of RLHF, PPO's clipped value. The older side is a constant of the update. Reported are
a side that is the very same computation as the other (their gradients cancel), a side that was computed before the last
step of the parameters (a stale graph), and a reference model that receives gradient.

## Why is this bad?
`exp(log_prob - old_log_prob)` with both sides live is 1, and so is its gradient's worth: exactly zero. The loss looks
healthy and nothing is learnt. With a stale side the gradient belongs to parameters that no longer exist.

## Example
```python
old_log_prob = policy(obs).log_prob(action)
log_prob = policy(obs).log_prob(action)
loss = -(torch.exp(log_prob - old_log_prob) * advantage).mean()
```

## Use instead
```python
with torch.no_grad():
    old_log_prob = policy(obs).log_prob(action)
```

## When it is all right
`log_prob - log_prob.detach()` is right on purpose: its value is zero, its gradient the score. Old log-probabilities
that come out of a rollout buffer of plain arrays carry no gradient, and neither do JAX's arguments that are not
differentiated.

## References
- Schulman et al., Proximal Policy Optimization Algorithms, 2017
- Schulman et al., Trust Region Policy Optimization, 2015
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.foreign import Foreign, foreign_flows
from gradaudit.rules.criteria.moving import Moved, moving_references
from gradaudit.rules.criteria.place import place, seen_from
from gradaudit.rules.criteria.reference import is_reference, trained_references
from gradaudit.rules.criteria.reference_point import Point, live_points
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.selfcancel import Cancellation, cancellations, older_side
from gradaudit.rules.criteria.severity import decided, severity
from gradaudit.rules.criteria.stale import OLD, STATE, Stale, stale_values

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View
    from gradaudit.tape import Node

RANK = 50
NAME = "old-policy"

SAYS = {
    "difference": "both sides of this difference are the same computation and carry gradient, which cancels",
    "quotient": "both sides of this ratio are the same computation and carry gradient, which cancels",
    "divergence": "both sides of this divergence are the same distribution and carry gradient, which cancels",
}


def check(analysis: Analysis) -> Iterator[Finding]:
    """Values that were made before a step, reference models in a log-ratio, values that meet themselves."""
    stale = [found for found in stale_values(analysis) if OLD in found.uses and STATE not in found.uses]
    made = {found.maker.location for found in stale}
    yield from (_stale(found) for found in stale)
    yield from (_reference(flow) for flow in foreign_flows(analysis) if is_reference(flow))
    for view in analysis.views:
        references = list(trained_references(view))
        for node, side in references:
            yield _trained(view, node, side, [other for other, _ in references])
    yield from (_moving(moved) for moved in moving_references(analysis))
    yield from (_point(point) for point in live_points(analysis))
    for cancelled in cancellations(analysis):
        side = older_side(cancelled)
        behind = cancelled.view.backward(side, cancelled.leaves)
        if not cancelled.surrogate and not any(node.location in made for node in behind):
            yield _self(cancelled, side)


def _self(found: Cancellation, side: Node) -> Finding:
    view = found.view
    other = found.second_side if side is found.first_side else found.first_side
    if side is not other and other in view.backward(side, found.leaves):  # made of the other one, which is to learn
        where = seen_from(side, found.node)
    else:
        where = place(view, found.node, side, found.leaves, [user for user, _ in view.consumers(side)])
    return make_finding(
        view,
        "GA201",
        NAME,
        f"{SAYS[found.kind]}: {names_of(view.analysis, found.leaves)} learns nothing from it",
        "error",
        where,
        fix=f"stop the gradient of the older side: {stop_call(view.analysis)}",
        leaves=found.leaves,
        through=[found.node, side],
    )


def _stale(stale: Stale) -> Finding:
    view = stale.view
    return make_finding(
        view,
        "GA201",
        NAME,
        f"the old side was computed before {names_of(view.analysis, stale.leaves)} was stepped and carries gradient",
        "error",
        stale.location,
        fix=f"record what the old policy said as constants: {stop_call(view.analysis)}",
        leaves=stale.leaves,
        through=[stale.uses[OLD], stale.maker],
    )


def _reference(flow: Foreign) -> Finding:
    view, analysis = flow.view, flow.view.analysis
    who = names_of(analysis, flow.leaves)
    return make_finding(
        view,
        "GA201",
        NAME,
        f"the reference model {who} carries gradient: it is what the policy is compared with and must stay as it is",
        "info" if decided(view, flow.value, flow.leaves) else severity(view, flow.leaves),
        flow.location,
        fix=f"make what the reference says a constant: {stop_call(analysis)}",
        leaves=flow.leaves,
        through=[flow.joint, flow.value],
    )


def _moving(moved: Moved) -> Finding:
    view, analysis = moved.view, moved.view.analysis
    who = names_of(analysis, moved.leaves)
    return make_finding(
        view,
        "GA201",
        NAME,
        f"this loss trains {who}, and the reference that the policy is compared with is computed with it",
        "error",
        moved.location,
        fix=f"keep {who} as it is where the policy is computed: {stop_call(analysis)}",
        leaves=moved.leaves,
        through=[moved.node, moved.joint],
    )


def _point(found: Point) -> Finding:
    view, leaves = found.view, found.view.live(found.point)
    who = names_of(view.analysis, leaves)
    return make_finding(
        view,
        "GA201",
        NAME,
        f"the reference point carries gradient: {who} rates its answers by moving what they are measured against",
        severity(view, leaves),
        place(view, found.node, found.point, leaves, list(found.uses)),
        fix=f"estimate the reference point as a constant: {stop_call(view.analysis)}",
        leaves=leaves,
        through=[found.node, found.point],
    )


def _trained(view: View, node: Node, side: Node, uses: list[Node]) -> Finding:
    leaves = view.live(side)
    return make_finding(
        view,
        "GA201",
        NAME,
        f"this loss trains the reference {names_of(view.analysis, leaves)} together with the policy",
        severity(view, leaves) if view.own is not None else "warning",
        place(view, node, side, leaves, uses),
        fix=f"differentiate the policy's parameters alone, or stop the reference: {stop_call(view.analysis)}",
        leaves=leaves,
        through=[node, side],
    )
