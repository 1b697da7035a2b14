"""A regression target built from next-state values carries gradient.

## What it does
Finds a target of the form `reward + discount * value(next state)` (TD, n-step, lambda, Retrace, V-trace,
distributional or quantile) that meets a prediction in a loss while gradient still flows through it.

## Why is this bad?
The loss then pulls the target towards the prediction as well as the prediction towards the target. Learning slows
down or diverges, the target network (or the actor, or the temperature) is trained by a loss that was not made for it,
and nothing raises an error.

## Example
```python
q = q_net(obs).gather(1, action)
target = reward + gamma * (1 - done) * target_net(next_obs).max(1, keepdim=True).values
loss = F.mse_loss(q, target)
```

## Use instead
```python
with torch.no_grad():
    target = reward + gamma * (1 - done) * target_net(next_obs).max(1, keepdim=True).values
loss = F.mse_loss(q, target)
```
In JAX differentiate the online parameters only, or write `jax.lax.stop_gradient(target)`.

## When it is all right
Residual-gradient methods differentiate the target on purpose; say so in the function's name or suppress the finding.
Meta-gradients through a learned discount or reward are not reported.

## References
Sutton and Barto, Reinforcement Learning, section 9.3 (semi-gradient methods).
Mnih et al. 2015, Human-level control through deep reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis
from gradaudit.rules.criteria.bootstrap import REGRESSION, SCORE, Leak, leaks
from gradaudit.rules.criteria.marks import names
from gradaudit.rules.criteria.place import activations
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.severity import decided, severity, switched
from gradaudit.rules.criteria.statistic import tracked_statistics

CODE, NAME = "GA101", "bootstrap-target"
RANK = 90


def check(analysis: Analysis) -> Iterator[Finding]:
    statistics = {found.node.location for found in tracked_statistics(analysis)}
    for leak in leaks(analysis):
        if any(node.location in statistics for use in leak.uses for node in use.view.backward(use.value)):
            continue  # a running statistic is no target
        if SCORE not in leak.kinds and REGRESSION in leak.kinds and not _asked_for(leak) and not _residual(leak):
            yield _finding(leak)


def _residual(leak: Leak) -> bool:
    """A residual-gradient algorithm that says so: the function that builds or differentiates the loss has the word."""
    words = [leak.location.function]
    for use in leak.uses:
        words += [use.node.location.function, use.view.sink.function, use.view.sink.location.function]
        words += [call.function for call in activations(use.node.call)]
    pattern = names("switches", "residual")
    return any(pattern.search(word.lower()) for word in words)


def _asked_for(leak: Leak) -> bool:
    """A library function with a switch for the stop: whether it works and what it is by default is GA104's."""
    return all(use.view.sink.kind == "library" and switched(use.view, use.value, use.leaves) for use in leak.uses)


def _finding(leak: Leak) -> Finding:
    use = leak.uses[0]
    view, analysis = use.view, use.view.analysis
    leaves = 0
    for each in leak.uses:
        leaves |= each.leaves
    levels = [severity(each.view, each.leaves) for each in leak.uses]
    level = "error" if "error" in levels else "warning"
    if all(decided(each.view, each.value, each.leaves) for each in leak.uses):
        level = "info"
    return make_finding(
        view,
        CODE,
        NAME,
        _message(leak, leaves),
        level,
        leak.location,
        fix=f"make the target a constant: {stop_call(analysis)} around `reward + discount * value`",
        leaves=use.leaves,
        through=(use.node, leak.cut) if leak.cut is not use.node else (use.node,),
    )


def _message(leak: Leak, leaves: int) -> str:
    view = leak.uses[0].view
    analysis = view.analysis
    who = names_of(analysis, leaves)
    if view.sink.kind == "library":
        return f"the bootstrap target carries gradient to {who}: the loss moves its own target"
    own = view.live(leak.uses[0].prediction) if leak.uses[0].prediction is not None else 0
    if leaves & own:
        return f"the bootstrap target carries gradient: the loss trains {who} through its own target"
    facts = roles(analysis)
    if all(facts.target(leaf) for leaf in analysis.leaves(leaves)):
        return f"the bootstrap target carries gradient into the target network {who}"
    return f"the bootstrap target carries gradient: this loss also trains {who} through the target"
