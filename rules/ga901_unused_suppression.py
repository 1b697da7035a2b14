"""A suppression comment that suppresses nothing

## What it does
Reports a `# gradaudit: ignore[...]` or `# gradaudit: ignore-file[...]` comment that takes no finding back, or names a
rule that there is not. It is information: it does not change the exit code unless `--fail-on info` is given.

## Why is this bad?
The comment outlives its reason. It tells a reader of a leak that is not there, and would hide the next one.

## Example
```python
target = (reward + discount * q_next).detach()
loss = (q - target).pow(2).mean()  # gradaudit: ignore[GA101]
```

## Use instead
```python
target = (reward + discount * q_next).detach()
loss = (q - target).pow(2).mean()
```

## When it is all right
The finding depends on a file that this run did not lint: run on the whole project before taking the comment out.

## References
- [Ruff: unused-noqa](https://docs.astral.sh/ruff/rules/unused-noqa/)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding

if TYPE_CHECKING:
    from gradaudit.paths import Analysis


def check(analysis: Analysis) -> Iterator[Finding]:
    """Nothing: a comment is on no tape. The pipeline reports it."""
    return iter(())
