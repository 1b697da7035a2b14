"""A stop whose result is thrown away

## What it does
Finds a statement that is nothing but `x.detach()` or `stop_gradient(x)`. Neither changes x; both return a new value,
and nobody takes it. Finds as well `x = x.detach()` where the next line that has x writes it anew.

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
    from gradaudit.tape import Node

RANK = 200
MOST = 400


def check(analysis: Analysis) -> Iterator[Finding]:
    """A finding for every discarded stop of a value that carries gradient."""
    told = set()
    for node in analysis.tape.nodes:
        if node.location in told or not node.inputs:
            continue
        source = node.inputs[0].source
        if "discarded" in node.marks and analysis.alive(source):
            told.add(node.location)
            name = f"`{node.name}`" if node.name else "the value"
            yield _finding(analysis, node, f"it returns a new value and leaves {name} as it is")
        elif "overwritten" in node.marks and _carries_gradient(source):
            told.add(node.location)
            yield _finding(analysis, node, f"`{node.name}` is written anew before it is used")


def _carries_gradient(node: Node) -> bool:
    """Does gradient go from this value, which no loss has, to something that is trained?"""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST:
        current = waiting.pop()
        if current.leaf is not None and current.leaf.kind in ("param", "arg"):
            return True
        for edge in current.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _finding(analysis: Analysis, node: Node, why: str) -> Finding:
    return Finding(
        "GA403",
        "discarded-stop",
        f"this stop does nothing: {why}",
        "warning",
        node.location,
        analysis.tape.framework,
        Fix("assign the result, or stop the value where it is used"),
        (Step(node.inputs[0].source.location, "this value still carries gradient"),),
    )
