"""A running statistic is recorded by autograd

## What it does
Finds a running mean, centre or norm, or lagged weights in a dictionary, `new = momentum * old + (1 - momentum) * x`,
whose x carries gradient and whose result is carried into the next update, and a running estimate (a covariance) that
carries gradient into the loss that it is a factor of. A memory bank or queue whose rows are written with gradient and
that a later loss reads. Also an in-place update of a frozen network from a trained one with gradient switched on; in
JAX, an average of parameters that a loss makes of what it is differentiated by, and computes with.

## Why is this bad?
Every update hangs its graph on the last one's. PyTorch raises at the second backward, because the first one's graph is
gone, or, with `retain_graph=True`, memory grows and gradient flows through networks that no longer exist. Until then
the loss also trains the network through its own statistic.

## Example
```python
self.center = 0.9 * self.center + 0.1 * y.mean(0)
```

## Use instead
```python
self.center = 0.9 * self.center + 0.1 * y.detach().mean(0)
```

## When it is all right
A recurrence within one update (a leaky integrator that is trained through time) is not reported.

## References
- Caron et al., Emerging Properties in Self-Supervised Vision Transformers (DINO), 2021
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.bank import recorded_banks
from gradaudit.rules.criteria.estimate import averaged_parameters, live_estimates
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.sites import stop_at
from gradaudit.rules.criteria.statistic import growing_statistics, recorded_averages, tracked_statistics, tracked_writes

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 25


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every statistic that is carried on with its graph."""
    for found in tracked_statistics(analysis):
        yield make_finding(
            found.view,
            "GA505",
            "tracked-update",
            f"this running statistic keeps its graph from update to update: it carries gradient to "
            f"{names_of(analysis, found.leaves)}",
            "error",
            found.node.location,
            fix=f"update it without gradient: {stop_call(analysis)}",
            leaves=found.leaves,
            through=[found.node],
        )
    for grown in growing_statistics(analysis):
        yield make_finding(
            grown.view,
            "GA505",
            "tracked-update",
            f"this running statistic is recorded by autograd: it keeps the graphs of all updates of "
            f"{names_of(analysis, grown.leaves)}, which no loss needs",
            "warning",
            grown.node.location,
            fix=f"update it without gradient: {stop_call(analysis)}",
            leaves=grown.leaves,
        )
    for bank in recorded_banks(analysis):
        yield make_finding(
            bank.view,
            "GA505",
            "tracked-update",
            f"this memory bank keeps the graph of every update that wrote to it: its rows carry gradient to "
            f"{names_of(analysis, bank.leaves)}",
            bank.severity,
            bank.node.location,
            fix=f"store values without gradient: {stop_call(analysis)}",
            leaves=bank.leaves,
            through=[bank.node],
        )
    for written in tracked_writes(analysis) if analysis.views else ():
        sources = analysis.mask(written.event.sources)
        yield make_finding(
            analysis.views[0],
            "GA505",
            "tracked-update",
            "this update is recorded by autograd: the frozen network keeps the graph of everything it followed",
            "error" if written.used else "warning",
            written.event.location,
            fix=f"update it without gradient: {stop_call(analysis)}",
            leaves=sources,
        )
    for average in recorded_averages(analysis):
        yield make_finding(
            average.view,
            "GA505",
            "tracked-update",
            f"this average is part of the loss: {names_of(analysis, average.leaves)} also learns through the branch "
            f"that follows it",
            "error",
            average.node.location,
            fix=f"average what is a constant: {stop_call(analysis)}",
            leaves=average.leaves,
            through=[average.node],
        )
    for estimate in live_estimates(analysis):
        yield make_finding(
            estimate.view,
            "GA505",
            "tracked-update",
            f"this running estimate is a factor of the loss and carries gradient to "
            f"{names_of(analysis, estimate.leaves)}",
            "warning" if estimate.view.sink.kind == "library" else "error",
            stop_at(estimate.view, estimate.node, estimate.value, estimate.leaves),
            fix=f"take what is estimated as a constant: {stop_call(analysis)}",
            leaves=estimate.leaves,
            through=[estimate.use, estimate.node],
        )
    for averaged in averaged_parameters(analysis):
        leaves = analysis.bit(averaged.leaf)
        yield make_finding(
            averaged.view,
            "GA505",
            "tracked-update",
            f"{names_of(analysis, leaves)} follows by averaging and still requires gradient: the average is recorded",
            "warning",
            averaged.node.location,
            fix="make it a buffer, or a Parameter with requires_grad=False",
            leaves=leaves,
            through=[averaged.node],
        )
