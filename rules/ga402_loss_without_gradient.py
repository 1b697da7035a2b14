"""A loss that reaches no parameter that it is to train

## What it does
Finds a loss that is differentiated although no gradient can get from it to the parameters that are stepped with it:
a Python number in between (`.item()`), a loss computed under `no_grad`, values that passed through numpy; in JAX, a
loss that reads `state.params` around it and not the `params` that it is differentiated for.

## Why is this bad?
PyTorch raises at `backward()` unless something else in the loss requires gradient; with another live term, or in JAX,
the step is taken with zeros and nothing is learnt.

## Example
```python
with torch.no_grad():
    loss = F.mse_loss(model(x), y)
loss.backward()
```

## Use instead
```python
loss = F.mse_loss(model(x), y)
loss.backward()
```

## When it is all right
Never, where the loss is to train something. Where the linter knows what stopped a prediction, GA401 says so instead.

## References
- PyTorch: Locally disabling gradient computation
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.reparameterised import dead_samples
from gradaudit.rules.criteria.report import labels, make_finding, names_of
from gradaudit.rules.criteria.starved import owned, starved_objectives, starved_predictions, without_gradient
from gradaudit.rules.criteria.unused import Unused, unused_arguments

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 180
NAME = "loss-without-gradient"


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every such loss that no other rule explains."""
    explained = {found.view.sink for found in starved_predictions(analysis)}
    explained |= {found.view.sink for found in starved_objectives(analysis)}
    explained |= {view.sink for view, _, _ in dead_samples(analysis)}
    for unused in unused_arguments(analysis):
        yield _unused(unused)
    for view in without_gradient(analysis):
        if view.sink in explained:
            continue
        leaves = owned(view) & analysis.dep(view.sink.loss)
        yield make_finding(
            view,
            "GA402",
            NAME,
            f"this loss has no gradient: it is computed from {names_of(analysis, leaves)} and trains nothing",
            "error",
            view.sink.location,
            fix="compute the loss with gradient switched on and without leaving the framework's tensors",
            leaves=leaves,
        )


def _unused(found: Unused) -> Finding:
    return make_finding(
        found.view,
        "GA402",
        NAME,
        f"the gradient for {labels(found.leaves)} is zero: the loss reads what was passed for it, not the argument",
        "error",
        found.location,
        fix="compute the loss from the argument that it is differentiated for",
    )
