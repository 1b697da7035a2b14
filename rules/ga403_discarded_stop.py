"""A stop whose result is thrown away

## What it does
Finds a statement that is nothing but `x.detach()` or `stop_gradient(x)`. Neither changes x; both return a new value,
and nobody takes it.

## Why is this bad?
Whoever wrote the line meant gradient to stop here, and it does not.

## Example
```python
target = reward + gamma * value(next_obs)
target.detach()
loss = F.mse_loss(value(obs), target)
```

## Use instead
```python
target = (reward + gamma * value(next_obs)).detach()
```

## When it is all right
`x.detach_()` works in place and is not reported.

## References
- PyTorch: Tensor.detach
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding, Fix, Step

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

RANK = 200


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every discarded stop of a value that carries gradient."""
    told = set()
    for node in analysis.tape.nodes:
        if "discarded" not in node.marks or node.location in told or not node.inputs:
            continue
        if analysis.alive(node.inputs[0].source):
            told.add(node.location)
            name = f"`{node.name}`" if node.name else "the value"
            yield Finding(
                "GA403",
                "discarded-stop",
                f"this stop does nothing: it returns a new value and leaves {name} as it is",
                "warning",
                node.location,
                analysis.tape.framework,
                Fix("assign the result, or stop the value where it is used"),
                (Step(node.inputs[0].source.location, "this value still carries gradient"),),
            )
