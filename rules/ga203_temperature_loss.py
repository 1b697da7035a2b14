"""A temperature's loss reaches the policy, or the policy's loss the temperature

## What it does
Looks at every product of a multiplier (SAC's temperature, a Lagrange multiplier, MPO's duals: a trained scalar that is
only ever used as a factor) with what it weighs. In the multiplier's own loss the weighed term must be a constant; in
every other loss the multiplier must be. A product in which gradient reaches both, and the loss is to train only one of
them, is reported at the side that lacks its stop.

## Why is this bad?
The two losses pull in opposite directions on purpose: the policy lowers its log-probability, the temperature's loss
raises the temperature while the entropy is too low. If the temperature's loss reaches the policy, the policy is trained
against itself; if the policy's loss reaches the temperature, the temperature goes wherever the policy's loss is
cheapest, usually to zero.

## Example
```python
action, log_prob = actor.sample(obs)
alpha_loss = -(log_alpha.exp() * (log_prob + target_entropy)).mean()   # trains the actor too
```

## Use instead
```python
alpha_loss = -(log_alpha.exp() * (log_prob.detach() + target_entropy)).mean()
actor_loss = (log_alpha.exp().detach() * log_prob - q).mean()
```

## When it is all right
Learned loss weights and logit scales belong to the loss that they weigh: both sides in one optimizer and no dual term
is silent. So is a multiplier that is maximised by hand (its gradient negated) in one joint loss.
A finding is an error where the gradient is used by a step and a warning where it is cleared before.

## References
- Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018, section 5
- Abdolmaleki et al., Maximum a Posteriori Policy Optimisation, 2018
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit import ownership
from gradaudit.finding import Finding
from gradaudit.rules.criteria.place import place
from gradaudit.rules.criteria.product import Product, broken_products
from gradaudit.rules.criteria.report import label, make_finding, names_of, stop_call

if TYPE_CHECKING:
    from gradaudit.paths import Analysis
    from gradaudit.tape import Node

RANK = 70
NAME = "temperature-loss"


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every product whose wrong side is live."""
    products = broken_products(analysis)
    for product in products:
        wrong = analysis.algebra.vn(product.wrong)
        yield _finding(product, [other.node for other in products if analysis.algebra.vn(other.wrong) == wrong])


def _finding(product: Product, uses: list[Node]) -> Finding:
    view = product.view
    analysis = view.analysis
    multiplier = f"`{label(product.multiplier)}`"
    leaked = names_of(analysis, product.leaves)
    stop = stop_call(analysis)
    if product.dual:
        message = f"the loss of the multiplier {multiplier} also sends gradient into {leaked}"
        fix = f"stop the gradient of what {multiplier} is multiplied with: {stop}"
    else:
        message = f"the multiplier {multiplier} gets gradient from the loss that it only weighs"
        fix = f"stop the gradient of {multiplier} in this loss: {stop}"
    used = product.deposit == ownership.USED
    return make_finding(
        view,
        "GA203",
        NAME,
        message + (", and a step uses it" if used else ", which is cleared before it is used"),
        "error" if used else "warning",
        place(view, product.node, product.wrong, product.leaves, uses),
        fix=fix,
        leaves=product.leaves,
        through=[product.node, product.wrong],
    )
