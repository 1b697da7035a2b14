"""A switch that is to stop gradient does not, or is off by default

## What it does
Looks at the switches that a loss offers for its stop-gradients (`stop_target_gradients`, `detach_target`):

- a switch whose two arms are the same value with the same gradient: it has no effect, whoever sets it;
- a public function that builds a bootstrap target, a return or an advantage out of its arguments and leaves it
  differentiable unless the caller asks for the stop.

## Why is this bad?
Who calls such a function relies on its documentation. With the stop missing, or off by default, the loss trains the
value that it bootstraps from: learning becomes unstable or converges elsewhere, and nothing in the caller's code shows
why.

## Example
```python
def n_step_returns(rewards, discounts, values, stop_target_gradients=True):
    returns = discounted_sum(rewards, discounts, values)
    return jax.lax.select(stop_target_gradients, returns, returns)   # no stop in either arm
```

## Use instead
```python
    return jax.lax.select(stop_target_gradients, jax.lax.stop_gradient(returns), returns)
```

## When it is all right
Meta-gradient methods differentiate through returns on purpose: then the default is right for that code base; suppress
the finding on the signature with the reason. The maximum that is taken off before `exp` and put back after `log` needs
no stop, for its gradient cancels.

## References
- rlax: `stop_target_gradients` in its multistep returns and in vtrace
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.finding import Finding
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.switch import Switch, asked_for, dead_switches, open_by_default, worth_stopping

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

RANK = 40
CODE = "GA104"
NAME = "unsafe-default"


def check(analysis: Analysis) -> Iterator[Finding]:
    """Both halves: switches without effect, then defaults that leave a target open."""
    for switch, view in dead_switches(analysis):
        asked = asked_for(analysis, switch)
        if asked or worth_stopping(view, switch):
            yield _dead(view, switch, asked)
    for switch, view in open_by_default(analysis):
        yield _open(view, switch)


def _dead(view: View, switch: Switch, asked: bool) -> Finding:
    analysis = view.analysis
    leaves = view.live(switch.node)
    why = "although it is asked to" if asked else "and nothing else in this function does"
    return make_finding(
        view,
        CODE,
        NAME,
        f"the switch `{switch.symbol.name}` has no effect: neither arm stops the gradient into "
        f"{names_of(analysis, leaves)}, {why}",
        "error" if asked else "warning",
        switch.node.location,
        fix=f"stop one of the arms: {stop_call(analysis)}",
        leaves=leaves,
        through=[switch.node],
    )


def _open(view: View, switch: Switch) -> Finding:
    symbol = switch.symbol
    leaves = view.live(switch.live_arm.source)
    return make_finding(
        view,
        CODE,
        NAME,
        f"`{symbol.name}={symbol.default}` leaves this target differentiable by default: it carries gradient into "
        f"{names_of(view.analysis, leaves)} unless the caller asks for the stop",
        "warning",
        symbol.location or switch.node.location,
        fix=f"make `{symbol.name}={switch.stops}` the default",
        leaves=leaves,
        through=[switch.node],
    )
