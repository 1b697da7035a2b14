"""The file cannot be parsed

## What it does
Reports a file that is not valid Python for the interpreter that runs gradaudit. The rest of the run goes on.

## Why is this bad?
Nothing in this file was checked, and whatever imports it was checked without it.

## Example
```python
loss = (q - target).pow(2
```

## Use instead
```python
loss = (q - target).pow(2)
```

## When it is all right
A template, a test's input, or a file for a newer Python: leave it out with `exclude`, or run gradaudit under that
Python.

## References
- [The Python Language Reference: full grammar](https://docs.python.org/3/reference/grammar.html)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding

if TYPE_CHECKING:
    from gradaudit.paths import Analysis


def check(analysis: Analysis) -> Iterator[Finding]:
    """Nothing: a file without a tree has no tape. The pipeline reports it."""
    return iter(())
