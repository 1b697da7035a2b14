"""The prediction is stopped: the side that should learn gets no gradient

## What it does
Finds a discrepancy whose prediction is made of the parameters that the loss is to train while nothing of its gradient
gets there: a `detach()`, `.data`, `numpy()` or `argmax` on the wrong side, a `no_grad` block or decorator somewhere up
the call stack. The finding stands where the gradient ends.

It also finds what a loss adds up in vain: a summand that passes nothing although the optimizer holds what it is made of
(a temperature that is stopped before its own term, or in it, in the place of the gap that it weighs), a penalty of a
gradient that was taken without `create_graph=True`,
the chosen value in `logsumexp(q) - q[action].detach()`, a term that is stopped as a whole beside others, one of two
towers that are compared; a target that learns from a stopped prediction; and a recurrent state that is stopped at
every step of an update, not between updates alone.

## Why is this bad?
The parameters that the optimizer holds are never changed by this loss. Nothing raises as long as some other term, a
regulariser or another head, still has gradient; the loss just does not go down.

## Example
```python
@torch.no_grad()
def encode(self, x):
    return self.encoder(x)

loss = F.mse_loss(self.head(self.encode(x)), y)   # the encoder is in the optimizer and is never trained
```

## Use instead
```python
def encode(self, x):
    return self.encoder(x)
```

## When it is all right
A linear probe's encoder that no optimizer holds, frozen parameters (`requires_grad_(False)`) and parameters that
another loss of the program trains are not reported. A block without gradient around an encoder whose head learns is a
warning: it may be a probe.

## References
- PyTorch: Locally disabling gradient computation
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.codebook import broken_codebooks
from gradaudit.rules.criteria.dual import stopped_duals
from gradaudit.rules.criteria.phasic import undistilled
from gradaudit.rules.criteria.report import make_finding, names_of
from gradaudit.rules.criteria.starved import Starved, starved_objectives, starved_predictions
from gradaudit.rules.criteria.surrogate import broken_surrogates
from gradaudit.rules.criteria.terms import starved_terms
from gradaudit.rules.criteria.truncated import stopped_states
from gradaudit.rules.criteria.unfed import stopped_towers

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 170
NAME = "stopped-prediction"
OTHERS = starved_objectives, starved_terms, stopped_duals, stopped_towers


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every operation that ends the gradient of a prediction."""
    quantised = 0
    for codebook in broken_codebooks(analysis):
        quantised |= codebook.leaves
    for surrogate in broken_surrogates(analysis):
        quantised |= surrogate.leaves
    told = set()
    for found in starved_predictions(analysis):
        if not found.leaves & quantised:  # what a codebook or an estimator stops is GA303's and GA304's
            told.add(found.event)
            yield _finding(found)
    for found in chain(*(find(analysis) for find in OTHERS)):
        if found.event not in told and not found.leaves & quantised:
            told.add(found.event)
            yield _finding(found, "what the loss is to train is stopped")
    for found in undistilled(analysis):
        if found.event not in told:
            told.add(found.event)
            yield _finding(found, "the auxiliary head distils nothing")
    for found in stopped_states(analysis):
        if found.event not in told:
            told.add(found.event)
            yield _through_time(found)


def _finding(found: Starved, says: str = "the prediction is stopped") -> Finding:
    view, event = found.view, found.event
    who = names_of(view.analysis, found.leaves)
    what = "gradient is switched off here" if not event.grad_mode else f"`{event.detail or event.op}` ends the gradient"
    fix = "stop the target, not the prediction"
    if event.op == "gradient":
        what, fix = "a gradient without a graph of its own is a number", "take the gradient with `create_graph=True`"
    return make_finding(
        view,
        "GA401",
        NAME,
        f"{says}: {what}, so {_loss_of(found)} does not train {who}",
        "warning" if found.partly else "error",
        event.location,
        fix=fix + ("; of a probe, give the optimizer the head alone" if found.partly else ""),
        leaves=found.leaves,
        through=[found.meeting],
    )


def _loss_of(found: Starved) -> str:
    """The loss, or one of its summands, where another one trains the same."""
    return "this part of the loss" if found.view.live(found.view.sink.loss) & found.leaves else "the loss"


def _through_time(found: Starved) -> Finding:
    view = found.view
    return make_finding(
        view,
        "GA401",
        NAME,
        f"the state is stopped at every step, and again between updates: {names_of(view.analysis, found.leaves)} "
        f"gets no gradient through time",
        "warning",
        found.event.location,
        fix="stop the state between updates only",
        leaves=found.leaves,
        through=[found.meeting],
    )
