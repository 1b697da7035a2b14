"""An importance weight, an exponentiated advantage or a normaliser carries gradient

## What it does
Looks at the factors of an objective. What weighs a log-probability (an exponentiated advantage, a softmax over values,
an importance ratio beside another log-probability) and what only scales a term (`alpha / q.abs().mean()` in front of
`q.mean()`) is a constant of the update; reported is a factor that gradient passes.

## Why is this bad?
The loss can be lowered by making the weight small instead of the policy good: gradient goes into the critic, or into
the policy through the weight, and the weighted regression no longer fits the weighted data. A live normaliser is worse:
the gradient of `q.mean() / q.abs().mean()` is nearly nothing, so the term that it scales is not learnt at all.

## Example
```python
weight = torch.exp((q(obs, action) - v(obs)) / beta)
loss = -(weight * policy.log_prob(obs, action)).mean()
```

## Use instead
```python
with torch.no_grad():
    weight = torch.exp((q(obs, action) - v(obs)) / beta)
```

## When it is all right
The ratio of a surrogate objective is no weight: it is what is trained. Attention, mixture gates and sample weights that
say nothing of returns are silent, and so are entropies and divergences, whose weights are the very probabilities that
are scored.

## References
- Peng et al., Advantage-Weighted Regression, 2019
- Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning (TD3+BC), 2021
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.place import place
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.scale import ADVANTAGE, BALANCE, NORM, Weight, scale_of
from gradaudit.rules.criteria.severity import severity
from gradaudit.rules.criteria.weight import is_error, live_weights

if TYPE_CHECKING:
    from gradaudit.paths import Analysis
    from gradaudit.tape import Node

RANK = 110
NAME = "importance-weight"


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every live weight but plain advantages, which are GA105's."""
    weights = [weight for weight in live_weights(analysis) if weight.kind != ADVANTAGE]
    told = set()
    for weight in weights:
        if weight.weight.location in told:
            continue
        told.add(weight.weight.location)
        number = analysis.algebra.vn(weight.weight)
        yield _finding(weight, [other.node for other in weights if analysis.algebra.vn(other.weight) == number])


def _finding(weight: Weight, uses: list[Node]) -> Finding:
    view, leaves = weight.view, weight.leaves
    leaked = names_of(view.analysis, leaves)
    if weight.kind == NORM:
        message = (
            f"the scale of this term is made of the value that it scales: live, it cancels the gradient of {leaked}"
        )
    elif weight.kind == BALANCE:
        message = f"the scale of this term is how large another value is: live, it trains {leaked} to change that size"
    else:
        weighed = "error" if is_error(view, weight.term) else "score"
        message = f"the weight of this {weighed} carries gradient into {leaked}"
    return make_finding(
        view,
        "GA202",
        NAME,
        message,
        severity(view, leaves),
        scale_of(weight) if weight.kind in (NORM, BALANCE) else place(view, weight.node, weight.weight, leaves, uses),
        fix=f"make the weight a constant: {stop_call(view.analysis)}",
        leaves=leaves,
        through=[weight.node, weight.weight],
    )
