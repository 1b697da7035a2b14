"""`sample()` where the loss needs `rsample()`

## What it does
Finds an action or latent that is drawn with `sample()` from a continuous distribution of the parameters that a loss is
to train, enters another network, and comes back in the loss: the loss means to go through the draw, and a draw by
`sample()` has no gradient.

## Why is this bad?
The actor (or the encoder) gets no gradient from this loss. Where another term, an entropy bonus or a divergence, still
trains it, nothing raises, and it is trained by that term alone.

## Example
```python
action = actor(obs).sample()
loss = -critic(obs, action).mean()
```

## Use instead
```python
action = actor(obs).rsample()
loss = -critic(obs, action).mean()
```

## When it is all right
A score-function estimator, whose loss has the log-probability of the draw, wants `sample()`. So do actions for the
environment and targets. In JAX, samples of continuous distributions carry gradient and are not reported.

## References
- Kingma and Welling, Auto-Encoding Variational Bayes, 2014
- Haarnoja et al., Soft Actor-Critic, 2018
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.reparameterised import dead_samples
from gradaudit.rules.criteria.report import make_finding, names_of

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 160


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every draw that gradient was to pass."""
    told = set()
    for view, node, leaves in dead_samples(analysis):
        if node.location in told:
            continue
        told.add(node.location)
        yield make_finding(
            view,
            "GA205",
            "non-reparameterised-sample",
            f"the loss goes through this sample, which has no gradient: it does not train {names_of(analysis, leaves)}",
            "error",
            node.location,
            fix="draw with rsample()",
            leaves=leaves,
        )
