"""The branch of a self-supervised loss that must not learn does.

## What it does
Finds gradient into the averaged (momentum, EMA) copy of an encoder in BYOL, MoCo, DINO or JEPA, and, where there is no
copy, into the projection that SimSiam's predictor is compared with, or into the soft labels that a network gives to its
own predictions for another view (MSN, FixMatch, SwAV). Also two networks, given the same input, that learn from nothing
but how far they are apart: random network distillation whose target is trained, too.

## Why is this bad?
The stop is what keeps these methods from collapsing: without it both branches agree on a constant. An averaged copy
that also receives gradient costs a second backward pass and drifts as soon as an optimizer holds it.

## Example
```python
target = momentum_encoder(view_2)
loss = -F.cosine_similarity(predictor(encoder(view_1)), target).mean()
```

## Use instead
```python
with torch.no_grad():
    target = momentum_encoder(view_2)
loss = -F.cosine_similarity(predictor(encoder(view_1)), target).mean()
```

## When it is all right
Losses that both branches should train (SimCLR, CLIP, Barlow Twins, VICReg) have no copy and no predictor and are not
reported.

## References
Grill et al. 2020, Bootstrap your own latent. Chen and He 2021, Exploring simple Siamese representation learning.
He et al. 2020, Momentum contrast for unsupervised visual representation learning.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.finding import Finding
from gradaudit.paths import Analysis
from gradaudit.rules.criteria.branches import Twin, is_branch, twins
from gradaudit.rules.criteria.collapse import Collapse, collapses
from gradaudit.rules.criteria.foreign import Foreign, foreign_flows
from gradaudit.rules.criteria.hints import half_stopped
from gradaudit.rules.criteria.labels import OwnLabel, own_labels
from gradaudit.rules.criteria.report import make_finding, names_of, stop_call
from gradaudit.rules.criteria.roles import parameters
from gradaudit.rules.criteria.selfprediction import SelfPrediction, self_predictions
from gradaudit.rules.criteria.severity import decided, severity
from gradaudit.rules.criteria.sites import stop_at

CODE, NAME = "GA301", "ema-branch"
RANK = 120


def check(analysis: Analysis) -> Iterator[Finding]:
    for flow in foreign_flows(analysis):
        if is_branch(flow):
            yield _copy(flow)
    pairs = list(twins(analysis))
    for twin in pairs:
        yield _twin(twin)
    for label in own_labels(analysis):
        yield _label(label)
    told = {(twin.view, twin.node) for twin in pairs}
    for one in self_predictions(analysis):
        if (one.view, one.node) not in told:
            yield _encoding(one)
    taught = {(teacher.view, teacher.node) for teacher in half_stopped(analysis)}  # GA302's
    for found in collapses(analysis):
        if (found.view, found.node) not in taught:
            yield _collapse(found)


def _copy(flow: Foreign) -> Finding:
    view, analysis = flow.view, flow.view.analysis
    who = names_of(analysis, flow.leaves)
    return make_finding(
        view,
        CODE,
        NAME,
        f"the branch of {who} carries gradient: a copy follows its original and must not learn from the loss",
        "info" if decided(view, flow.value, flow.leaves) else severity(view, flow.leaves),
        flow.location,
        fix=f"make the copy's output a constant: {stop_call(analysis)}",
        leaves=flow.leaves,
        through=(flow.joint, flow.value),
    )


def _twin(twin: Twin) -> Finding:
    analysis = twin.view.analysis
    return make_finding(
        twin.view,
        CODE,
        NAME,
        f"both sides of the comparison train {names_of(analysis, twin.leaves)}: without a stop they may collapse",
        _how_bad(twin),
        twin.node.location
        if twin.view.sink.kind == "library"
        else stop_at(twin.view, twin.node, twin.value, twin.leaves),
        fix=f"stop the side that passed no predictor: {stop_call(analysis)}",
        leaves=twin.leaves,
        through=(twin.node, twin.value),
    )


def _how_bad(twin: Twin) -> str:
    """Of a library function that compares its arguments nobody knows what they are."""
    if twin.view.sink.kind != "library":
        return "error"
    return "info" if twin.leaves & ~parameters(twin.view.analysis) else "warning"


def _encoding(found: SelfPrediction) -> Finding:
    analysis = found.view.analysis
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"the loss trains {names_of(analysis, found.leaves)} to be predictable: both sides of the comparison learn",
        "warning",
        stop_at(found.view, found.node, found.encoding, found.leaves),
        fix=f"make the encoding that is predicted a constant: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.node, found.encoding),
    )


def _collapse(found: Collapse) -> Finding:
    analysis = found.view.analysis
    return make_finding(
        found.view,
        CODE,
        NAME,
        f"two networks learn from nothing but each other: the loss trains {names_of(analysis, found.leaves)}, too",
        "error",
        stop_at(found.view, found.node, found.target, found.leaves),
        fix=f"make the side that is to be predicted a constant: {stop_call(analysis)}",
        leaves=found.leaves,
        through=(found.node, found.target),
    )


def _label(label: OwnLabel) -> Finding:
    analysis = label.view.analysis
    return make_finding(
        label.view,
        CODE,
        NAME,
        f"the loss trains its own labels: they carry gradient to {names_of(analysis, label.leaves)}",
        "warning",
        stop_at(label.view, label.node, label.label, label.leaves),
        fix=f"make the labels constants: {stop_call(analysis)}",
        leaves=label.leaves,
        through=(label.node, label.label),
    )
