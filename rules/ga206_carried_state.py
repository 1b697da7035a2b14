"""A recurrent state or memory that is carried from one update into the next keeps its graph.

## What it does
Finds a network input that an earlier update made with gradient: an LSTM state, a memory, a hidden value that is stored
and fed again after the parameters were stepped.

## Why is this bad?
The graph of every earlier update hangs on: PyTorch raises because the graph is gone or a parameter has changed, or,
with `retain_graph=True`, memory grows with every step and gradients belong to networks that no longer exist.

## Example
```python
for batch in batches:
    out, hidden = rnn(batch, hidden)
    loss(out).backward()
    optimizer.step()
```

## Use instead
```python
for batch in batches:
    out, hidden = rnn(batch, hidden)
    loss(out).backward()
    optimizer.step()
    hidden = hidden.detach()
```

It also finds a burn-in that is learnt through (a warning): of the first steps of a sequence only the state is used, by
the steps whose values are learnt, and the target network begins with the same steps.

## When it is all right
Other backpropagation through time within one update is not reported; nor is a state that is zeroed or taken from
storage without gradient. In JAX a carry that is passed in as an argument is a constant.

## References
Williams and Peng 1990, An efficient gradient-based algorithm for on-line training of recurrent network trajectories.
Kapturowski et al. 2019, Recurrent Experience Replay in Distributed Reinforcement Learning, section 3 (burn-in).
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis
from gradaudit.rules.criteria.burnin import BurnIn, burn_ins
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.stale import STATE, Stale, stale_values

CODE, NAME = "GA206", "carried-state"
RANK = 60


def check(analysis: Analysis) -> Iterator[Finding]:
    for stale in stale_values(analysis):
        if STATE in stale.uses:
            yield _finding(stale)
    yield from map(_warmed_up, burn_ins(analysis))


def _warmed_up(found: BurnIn) -> Finding:
    view, analysis = found.view, found.view.analysis
    return make_finding(
        view,
        CODE,
        NAME,
        f"the state after a burn-in is used with its graph: {names_of(analysis, found.leaves)} learns from steps whose "
        f"outputs nothing is asked of",
        "warning",
        found.location,
        fix=f"stop the state where the burn-in ends: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.meeting, found.maker),
    )


def _finding(stale: Stale) -> Finding:
    view, analysis = stale.view, stale.view.analysis
    return make_finding(
        view,
        CODE,
        NAME,
        f"a state made by {names_of(analysis, stale.leaves)} before its last step is fed to a network with its graph",
        "error",
        stale.location,
        fix=f"carry the state on without its graph: {stop_call(analysis)}",
        leaves=stale.leaves,
        through=(stale.uses[STATE], stale.maker),
    )
