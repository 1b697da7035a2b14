"""A network in the target role receives gradient from a loss.

## What it does
Finds gradient of a loss into a target network: a copy of a trained network that nobody steps (made by deepcopy,
load_state_dict or a soft update), or a parameter that no optimizer holds. Bootstrap targets are GA101's.

## Why is this bad?
A target network must change only by its update. Gradient into it is work and memory for nothing at best; as soon as its
parameters reach an optimizer, the target moves with every step.

## Example
```python
kl = F.kl_div(policy(obs).log_softmax(-1), target_policy(obs).softmax(-1))
```

## Use instead
```python
with torch.no_grad():
    reference = target_policy(obs).softmax(-1)
kl = F.kl_div(policy(obs).log_softmax(-1), reference)
```
or `target_policy.requires_grad_(False)` once, where it is made.

## When it is all right
An objective that is maximised through the target network (`target_critic(obs, actor(obs))`) needs its graph and is not
reported.

## References
Lillicrap et al. 2016, Continuous control with deep reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis, View
from gradaudit.rules.criteria.branches import is_branch, is_teacher
from gradaudit.rules.criteria.foreign import Foreign, foreign_flows
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.severity import decided, severity
from gradaudit.rules.criteria.sites import made_at, takers
from gradaudit.tape import PARAMETER, Network, Node

CODE, NAME = "GA102", "target-network"
RANK = 150


def check(analysis: Analysis) -> Iterator[Finding]:
    for flow in foreign_flows(analysis):
        if not flow.held and _role(flow) and not is_branch(flow) and not is_teacher(flow):
            yield _finding(flow)
    for view in analysis.views:
        leaves = _stepped_followers(view)
        if leaves:
            yield _stepped(view, leaves)


def _stepped_followers(view: View) -> int:
    """What this loss goes through and steps, though an average makes it follow what another loss trains."""
    facts, analysis = roles(view.analysis), view.analysis
    if not view.own or view.sink.kind == "library":
        return 0
    reached = view.live(view.sink.loss)
    return analysis.mask(
        leaf
        for leaf in analysis.leaves(view.own & reached)
        if leaf in facts.averaged
        and facts.averaged[leaf] & facts.held
        and not analysis.mask(facts.averaged[leaf]) & reached
    )


def _stepped(view: View, leaves: int) -> Finding:
    makers = takers(view, leaves, view.down)
    who = names_of(view.analysis, leaves)
    return make_finding(
        view,
        CODE,
        NAME,
        f"the loss trains the target network {who}, which only its update should change",
        "error",
        made_at(view, makers, view.sink.loss)[0].location,
        fix=f"leave {who} out of the optimizer",
        leaves=leaves,
        through=makers[:1],
    )


def _role(flow: Foreign) -> str:
    facts = roles(flow.view.analysis)
    leaves = flow.view.analysis.leaves(flow.leaves)
    if all(facts.target(leaf) or facts.follows(leaf) for leaf in leaves):
        return "target"
    return "bare" if all(_is_value(flow.view, leaf) for leaf in leaves) else ""


def _is_value(view: View, leaf: Node) -> bool:
    """A parameter that is used as a value (not as a layer's weights) and whose owner holds nothing that is trained."""
    if leaf.leaf is None or _is_stray(leaf) or any(edge.kind == PARAMETER for _, edge in view.consumers(leaf)):
        return False
    analysis = view.analysis
    if any(other.own is None and other.live(other.sink.loss) & analysis.bit(leaf) for other in analysis.views):
        return False  # another loss may train it, with an optimizer that is not known
    twins = {(other.location.path, other.location.line) for other in roles(analysis).held}
    if (leaf.location.path, leaf.location.line) in twins:
        return False  # made by one line with a parameter that is held: an alternative of it
    mine = _named_owners(leaf)
    return not any(mine & _named_owners(other) for other in roles(view.analysis).held)


def _is_stray(leaf: Node) -> bool:
    """Found where it is used, in an object that is not known: whoever owns it may have given it to an optimizer."""
    return leaf.leaf is not None and leaf.leaf.owner is None and bool(leaf.frame or leaf.call)


def _named_owners(leaf: Node) -> set[Network]:
    if leaf.leaf is None or leaf.leaf.owner is None:
        return set()
    return {network for network in leaf.leaf.owner.chain() if network.name}


def _finding(flow: Foreign) -> Finding:
    view, analysis = flow.view, flow.view.analysis
    who = names_of(analysis, flow.leaves)
    message = f"the loss sends gradient into the target network {who}, which only its update should change"
    location = flow.location
    if _role(flow) == "bare":
        location = analysis.leaves(flow.leaves)[0].location
        message = f"the loss sends gradient into {who}, which nobody steps"
    return make_finding(
        view,
        CODE,
        NAME,
        message,
        "info" if decided(view, flow.value, flow.leaves) else severity(view, flow.leaves),
        location,
        fix=f"freeze {who} with requires_grad_(False), or stop its output: {stop_call(analysis)}",
        leaves=flow.leaves,
        through=(flow.joint, flow.value),
    )
