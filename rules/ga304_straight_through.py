"""A straight-through estimator, or another surrogate, lacks its stop or has it on the wrong term

## What it does
Reads a sum as what it is: which values it has and which of them pass gradient. An estimator such as
`z + (q - z).detach()` has the value of the hard q and the gradient of the soft z. Reported is a sum in which a value is
added and taken away again with both sides live (the stop is missing), a sum whose stop leaves the soft value as the
result or gives it the opposite sign (`q - z + stop(z)`), one that bounds a value with a straight-through gradient and
passes the bound's gradient as well (`x - stop(x) + clamp(x)`), and a scaled gradient
`g * s + g * (1 - s)` whose second term is not stopped. So is a residual `z - code` of a straight-through code: the two
gradients of z cancel, and what is trained on the residual trains nothing before it.

## Why is this bad?
Without the stop, `z + (q - z)` is q: no gradient reaches the encoder, and nothing raises. With the stop on the wrong
term the decoder is trained on values that it never sees when the code is used.

## Example
```python
hard = (p > 0.5).float()
code = p + (hard - p)
```

## Use instead
```python
code = p + (hard - p).detach()
```

## When it is all right
`x - x.detach()`, a gradient that is reversed on purpose (`2 * x.detach() - x`), DiCE's `exp(x - x.detach())` and
residual connections `(x + f(x)) - x` are not reported: in each of them gradient goes where the value says.

## References
- Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation, 2013
- van den Oord et al., Neural Discrete Representation Learning, 2017
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.place import seen_from
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.residue import Residue, residues
from gradaudit.rules.criteria.surrogate import DOUBLED, MISSING, REVERSED, WHOLE, Surrogate, broken_surrogates

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 30
NAME = "straight-through"


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every sum that was to be an estimator and is none."""
    left = residues(analysis)
    for found in broken_surrogates(analysis):
        if not any(found.view is one.view and found.node in one.view.forward([one.node]) for one in left):
            yield _finding(found)
    for residue in left:
        yield _residue(residue)


def _residue(found: Residue) -> Finding:
    analysis = found.view.analysis
    what = (
        "the size of this difference is a loss without gradient"
        if found.measured
        else ("no gradient comes through this residual")
    )
    return make_finding(
        found.view,
        "GA304",
        NAME,
        f"{what}: one side passes on the gradient of the other one, and {names_of(analysis, found.leaves)} does not "
        f"learn from it",
        "warning" if found.sure else "info",
        found.node.location,
        fix=f"compare with a constant: {stop_call(analysis)}",
        leaves=found.leaves,
        through=[found.node],
    )


def _finding(found: Surrogate) -> Finding:
    view, analysis = found.view, found.view.analysis
    who, stop = names_of(analysis, found.leaves), stop_call(analysis)
    if found.kind == MISSING:
        message = (
            f"the surrogate's stop is missing: its terms cancel, and {who} does not get the gradient that it was to get"
        )
        fix = f"stop the difference that only corrects the value: {stop}"
    elif found.kind == DOUBLED:
        message = f"the value that replaces the other one passes gradient, too: {who} gets it twice"
        fix = f"stop the value that is only to be seen: {stop}"
    elif found.kind == WHOLE:
        message = f"the stop is around the whole sum, whose other terms cancel: {who} gets no gradient through it"
        fix = "stop the difference alone: `soft + stop(hard - soft)`"
    elif found.kind == REVERSED:
        message = f"the stop is on the wrong term: {who} gets the gradient of this value with the opposite sign"
        fix = "write `soft + stop(hard - soft)`: the value of the hard one, the gradient of the soft one"
    else:
        message = f"the stop is on the wrong term: the value is the soft one, and {who} gets no gradient from it"
        fix = "write `soft + stop(hard - soft)`: the value of the hard one, the gradient of the soft one"
    return make_finding(
        view,
        "GA304",
        NAME,
        message,
        "warning" if view.sink.kind == "library" else "error",
        seen_from(found.side, found.node) if found.side.op in ("add", "sub") else found.node.location,
        fix=fix,
        leaves=found.leaves,
        through=[found.node],
    )
