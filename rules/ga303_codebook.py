"""A codebook's two losses stop the same side, both, or neither

## What it does
Finds the two terms of a vector-quantised model, the codebook's and the commitment's: discrepancies between the
encoder's output and the vectors that were looked up for it. One must stop the encoder's side, the other the codebook's.
Reported are terms that stop the same side, a term that stops both, and one that stops neither beside one that does.

## Why is this bad?
With both sides live in both terms, their weights no longer mean anything: the encoder is pulled to the codebook with
the codebook's weight as well. With the codebook's side stopped twice the codebook is never learnt; with the encoder's
side stopped twice nothing keeps the encoder near its codes.

## Example
```python
codebook_loss = F.mse_loss(q.detach(), z)
commitment = F.mse_loss(z, q.detach())     # the codebook is never trained
```

## Use instead
```python
codebook_loss = F.mse_loss(q, z.detach())
commitment = F.mse_loss(z, q.detach())
```

## When it is all right
A codebook that is a buffer and follows by a moving average needs the commitment term alone, and a single joint term
is a choice: neither is reported.

## References
- van den Oord et al., Neural Discrete Representation Learning, 2017
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.codebook import AVERAGED, HALF, JOINT, NEITHER, Codebook, broken_codebooks
from gradaudit.rules.criteria.mutual import Mutual, Repeated, doubled_terms, repeated_terms, unbalanced_terms
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 35
NAME = "codebook"


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every pair of terms that does not train each side once."""
    told = set()
    for found in broken_codebooks(analysis):
        told.add(found.term.node)
        yield _finding(found)
    for doubled in doubled_terms(analysis):
        if doubled.node not in told and doubled.counterpart not in told:
            yield _doubled(doubled)
    for mutual in unbalanced_terms(analysis):
        if mutual.node not in told:
            yield _unbalanced(mutual)
    for repeated in repeated_terms(analysis):
        if repeated.node not in told:
            yield _repeated(repeated)


def _finding(found: Codebook) -> Finding:
    analysis = found.view.analysis
    if found.kind == JOINT:
        message = "neither the codebook's term nor the commitment's stops a side: both train both"
    elif found.kind == HALF:
        message = "this term stops neither of its sides, the other one does: one side is trained twice"
    elif found.kind == AVERAGED:
        message = "the codebook follows by averaging, and this term trains it as well"
    elif found.kind == NEITHER:
        message = "this term stops both of its sides: it trains neither the encoder nor the codebook"
    else:
        side = "codebook" if not found.term.hard_live else "encoder"
        message = f"both terms stop the {side}'s side: no term of this loss trains it"
    return make_finding(
        found.view,
        "GA303",
        NAME,
        f"{message} ({names_of(analysis, found.leaves)})",
        "warning" if found.view.sink.kind == "library" else "error",
        found.term.node.location,
        fix=f"stop the encoder's side in the codebook's term, the codebook's in the commitment: {stop_call(analysis)}",
        leaves=found.leaves,
        through=[found.term.node],
    )


def _unbalanced(found: Mutual) -> Finding:
    analysis = found.view.analysis
    location, other = found.lines
    return make_finding(
        found.view,
        "GA303",
        NAME,
        f"this term trains both of its sides ({names_of(analysis, found.leaves)}), "
        f"its counterpart on line {other.line} stops one: one side is trained twice",
        "warning" if found.view.sink.kind == "library" else "error",
        location,
        fix=f"stop in this term the side that the other one trains: {stop_call(analysis)}",
        leaves=found.leaves,
        through=[found.node],
    )


def _doubled(found: Mutual) -> Finding:
    analysis = found.view.analysis
    return make_finding(
        found.view,
        "GA303",
        NAME,
        f"this term is the one on line {found.counterpart.location.line} once more: both train both of their sides, "
        f"{names_of(analysis, found.leaves)}",
        "warning",
        found.node.location,
        fix=f"stop one side in each of the two terms: {stop_call(analysis)}",
        leaves=found.leaves,
        through=[found.node],
    )


def _repeated(found: Repeated) -> Finding:
    analysis = found.view.analysis
    first, location = found.lines
    return make_finding(
        found.view,
        "GA303",
        NAME,
        f"this term is the one on line {first.line} once more: both stop one side, {names_of(analysis, found.leaves)}",
        "warning" if found.view.sink.kind == "library" else "error",
        location,
        fix="stop in one of the two terms the other side",
        leaves=analysis.alive(found.node) & found.view.mask,
        through=[found.node],
    )
