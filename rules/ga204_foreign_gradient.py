"""A loss trains what another optimizer owns.

## What it does
Compares the parameters that a loss reaches with those that are stepped with its gradient. It reports gradient into
parameters of another optimizer, unless the loss goes *through* their network on purpose (`critic(obs, actor(obs))`).
Where one optimizer holds all, and the losses are added up, it reports terms that are one network's and train another:
an actor's term that raises the critic, a critic's conservative term that trains the actor, a critic's regression that
trains the policy whose return it is to predict, a judge's loss that trains the generator whose own loss asks the
frozen judge for the opposite. Of several losses that are stepped for the same parameters: a policy's objective that
trains the model or the critic which it goes through, and which another one of them fits.

## Why is this bad?
The gradient stays in the other parameters' `.grad`. If their optimizer steps before it is cleared, they are trained by
a loss that was not made for them; if it is cleared, time and memory are lost, and the code breaks as soon as somebody
changes the order of updates.

## Example
```python
q = critic(obs)                                        # discrete SAC: no action enters the critic
actor_loss = (probs * (alpha * log_probs - q)).mean()  # trains the critic, too
actor_loss.backward()
actor_optimizer.step()
```

## Use instead
```python
with torch.no_grad():
    q = critic(obs)
actor_loss = (probs * (alpha * log_probs - q)).mean()
```

## When it is all right
A deposit that is always cleared before it is used does no harm to the update; the finding is a warning then. Shared
encoders that both losses should train belong in one optimizer step, or in a suppression with the reason.

## References
Christodoulou 2019, Soft actor-critic for discrete action settings.
Yarats et al. 2021, Improving sample efficiency in model-free reinforcement learning from images.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis, View
from gradaudit.rules.criteria.adversary import adversaries
from gradaudit.rules.criteria.conservative import Conservative, conservative_terms
from gradaudit.rules.criteria.encoder import Shared, shared_encoders
from gradaudit.rules.criteria.expected import Expected, expected_values
from gradaudit.rules.criteria.features import is_backbone
from gradaudit.rules.criteria.foreign import Foreign, Forgotten, about_temperature, foreign_flows, forgotten
from gradaudit.rules.criteria.idle import Idle, idle_terms
from gradaudit.rules.criteria.maximised import Maximised, maximised_critics
from gradaudit.rules.criteria.modelled import Modelled, trained_models
from gradaudit.rules.criteria.own_return import OwnReturn, own_returns
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.severity import decided, severity

CODE, NAME = "GA204", "foreign-gradient"
RANK = 140


def check(analysis: Analysis) -> Iterator[Finding]:
    for flow in foreign_flows(analysis):
        if flow.held and not about_temperature(flow):
            found = _finding(flow)
            if found is not None:
                yield found
        elif is_backbone(flow):
            yield _backbone(flow)
    for left in forgotten(analysis):
        yield _forgotten(left)
    for shared in shared_encoders(analysis):
        yield _shared(shared)
    for raised in maximised_critics(analysis):
        yield _raised(raised)
    for modelled in trained_models(analysis):
        yield _modelled(modelled)
    for expected in expected_values(analysis):
        yield _expected(expected)
    for conservative in conservative_terms(analysis):
        yield _conservative(conservative)
    for regressed in own_returns(analysis):
        yield _own_return(regressed)
    for idle in idle_terms(analysis):
        yield _idle(idle)
    for flow in adversaries(analysis):
        yield _adversary(flow)


def _finding(flow: Foreign) -> Finding | None:
    """None for a network against itself: an attribute that several subclasses share is of one of them at a time."""
    view, analysis = flow.view, flow.view.analysis
    level = severity(view, flow.leaves)
    if decided(view, flow.value, flow.leaves):
        level = "info"
    who, own = names_of(analysis, flow.leaves), names_of(analysis, (view.own or 0) & view.live(view.sink.loss))
    if _paths(view, flow.leaves) <= _paths(view, (view.own or 0) & view.live(view.sink.loss)):
        return None
    return make_finding(
        view,
        CODE,
        NAME,
        f"the loss of {own} also trains {who}, which another optimizer steps",
        level,
        flow.location,
        fix=f"stop the gradient before it joins {own}: {stop_call(analysis)}",
        leaves=flow.leaves,
        through=(flow.joint, flow.value),
    )


def _adversary(flow: Foreign) -> Finding:
    view, analysis = flow.view, flow.view.analysis
    who = names_of(analysis, flow.leaves)
    judge = names_of(analysis, view.live(view.sink.loss) & ~flow.leaves)
    return make_finding(
        view,
        CODE,
        NAME,
        f"the loss of {judge} also trains {who}, whose own loss asks for the opposite and holds {judge} constant",
        severity(view, flow.leaves),
        flow.location,
        fix=f"make what {who} gives a constant here: {stop_call(analysis)}",
        leaves=flow.leaves,
        through=(flow.joint, flow.value),
    )


def _paths(view: View, leaves: int) -> set[str]:
    return {leaf.leaf.path for leaf in view.analysis.leaves(leaves) if leaf.leaf is not None}


def _backbone(flow: Foreign) -> Finding:
    view, analysis = flow.view, flow.view.analysis
    who, own = names_of(analysis, flow.leaves), names_of(analysis, (view.own or 0) & view.live(view.sink.loss))
    return make_finding(
        view,
        CODE,
        NAME,
        f"the loss of {own} sends gradient into {who}, which no optimizer steps",
        "info" if decided(view, flow.value, flow.leaves) else severity(view, flow.leaves),
        flow.location,
        fix=f"compute these features without gradient, or freeze {who}: {stop_call(analysis)}",
        leaves=flow.leaves,
        through=(flow.joint, flow.value),
    )


def _forgotten(left: Forgotten) -> Finding:
    analysis = left.view.analysis
    who = names_of(analysis, left.leaves)
    return make_finding(
        left.view,
        CODE,
        NAME,
        f"this loss goes through {who} and leaves gradient there, which the next step of {who} takes",
        "error",
        left.location,
        fix=f"zero the gradient of {who} right before its own loss is differentiated, or freeze {who} here",
        leaves=left.leaves,
        through=(left.maker,),
    )


def _raised(raised: Maximised) -> Finding:
    analysis = raised.view.analysis
    who = names_of(analysis, raised.leaves)
    return make_finding(
        raised.view,
        CODE,
        NAME,
        f"this objective goes through {who} and trains it, too: the loss raises what {who} says of anything",
        "error",
        raised.location,
        fix=f"apply {who} here with parameters that this loss does not train: {stop_call(analysis)}",
        leaves=raised.leaves,
        through=(raised.maker,),
    )


def _modelled(found: Modelled) -> Finding:
    analysis = found.view.analysis
    who = names_of(analysis, found.leaves)
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"this objective goes through {who}, which another loss fits, and trains that, too",
        "error",
        found.location,
        fix=f"apply {who} here with parameters that this loss does not train: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.maker,),
    )


def _expected(found: Expected) -> Finding:
    analysis = found.view.analysis
    who = names_of(analysis, found.leaves)
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"the value that this policy is to expect trains {who}, which the same loss fits to what was returned",
        "error",
        found.location,
        fix=f"make the values constants where the policy follows them: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.node, found.values),
    )


def _conservative(found: Conservative) -> Finding:
    analysis = found.view.analysis
    who, critic = names_of(analysis, found.leaves), names_of(analysis, found.critic)
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"the term that keeps the values of {critic} low here also trains {who}, to choose what is worth little",
        "error",
        found.location,
        fix=f"make the actions constants in the critic's term: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.term, found.maker),
    )


def _own_return(found: OwnReturn) -> Finding:
    analysis = found.view.analysis
    who = names_of(analysis, found.leaves)
    critic = names_of(analysis, found.view.live(found.prediction) & ~found.leaves)
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"the regression of {critic} on a return also trains {who}, which follows that return itself in another term",
        "error",
        found.location,
        fix=f"stop what {critic} is given here: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.node, found.prediction),
    )


def _idle(idle: Idle) -> Finding:
    analysis = idle.view.analysis
    who = names_of(analysis, idle.leaves)
    return make_finding(
        idle.view,
        CODE,
        NAME,
        f"this part of the loss trains {who} alone, which another optimizer steps, and is cleared before it does",
        "warning",
        idle.location,
        fix=f"add it to the loss that {who} is stepped with",
        leaves=idle.leaves,
        through=(idle.term,),
    )


SAYS = {
    "sibling": "this loss trains {who} through a head before which {who} is stopped elsewhere",
    "path": "the actor's loss trains {who}, which the critic's loss trains as well",
    "phase": "this value trains {who} in the policy's phase, into which a phase of its own distils it",
    "head": "this loss trains {who} through a head whose own loss keeps {who} as it is",
}


def _switched(shared: Shared) -> bool:
    """Is the encoder shared only where a switch says so?"""
    return all(shared.view.guards(shared.node, shared.leaves))


def _shared(shared: Shared) -> Finding:
    analysis = shared.view.analysis
    return make_finding(
        shared.view,
        CODE,
        NAME,
        SAYS[shared.kind].format(who=names_of(analysis, shared.leaves)),
        "info" if shared.kind == "head" and _switched(shared) else "warning",
        shared.location,
        fix=f"stop what comes from the shared encoder here: {stop_call(analysis)}",
        leaves=shared.leaves,
        through=(shared.node,),
    )
