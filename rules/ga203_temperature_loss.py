"""A temperature's loss reaches the policy, or the policy's loss the temperature

## What it does
Looks at every product of a multiplier (SAC's temperature, a Lagrange multiplier, MPO's duals: a trained scalar that is
only ever used as a factor) with what it weighs. In the multiplier's own loss the weighed term must be a constant; in
every other loss the multiplier must be. A product in which gradient reaches both, and the loss is to train only one of
them, is reported at the side that lacks its stop.

## Why is this bad?
The two losses pull in opposite directions on purpose: the policy lowers its log-probability, the temperature's loss
raises the temperature while the entropy is too low. If the temperature's loss reaches the policy, the policy is trained
against itself; if the policy's loss reaches the temperature, the temperature goes wherever the policy's loss is
cheapest, usually to zero.

## Example
```python
action, log_prob = actor.sample(obs)
alpha_loss = -(log_alpha.exp() * (log_prob + target_entropy)).mean()   # trains the actor too
```

## Use instead
```python
alpha_loss = -(log_alpha.exp() * (log_prob.detach() + target_entropy)).mean()
actor_loss = (log_alpha.exp().detach() * log_prob - q).mean()
```

## When it is all right
Learned loss weights and logit scales belong to the loss that they weigh: both sides in one optimizer and no dual term
is silent. So is a multiplier that is maximised by hand (its gradient negated) in one joint loss.
A finding is an error where the gradient is used by a step and a warning where it is cleared before.

## References
- Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018, section 5
- Abdolmaleki et al., Maximum a Posteriori Policy Optimisation, 2018
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit import ownership
from gradaudit.finding import Finding
from gradaudit.rules.criteria.foreign import Foreign, about_temperature, foreign_flows, scalars
from gradaudit.rules.criteria.place import handed_over, place, private
from gradaudit.rules.criteria.product import Product, broken_products
from gradaudit.rules.criteria.report import label, make_finding, names_of, stop_call
from gradaudit.rules.criteria.severity import decided, severity, switched
from gradaudit.rules.criteria.sites import takers

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View
    from gradaudit.tape import Location, Node

RANK = 70
NAME = "temperature-loss"


def check(analysis: Analysis) -> Iterator[Finding]:
    """Flows between a multiplier and what another optimizer owns, then products whose wrong side is live."""
    told = []
    for flow in foreign_flows(analysis):
        if flow.held and about_temperature(flow):
            told.append(flow)
            yield _flow(flow)
    products = [product for product in broken_products(analysis) if not any(_covers(flow, product) for flow in told)]
    for product in products:
        if product.view.sink.kind == "library" and switched(product.view, product.wrong, product.leaves):
            continue  # a library's caller says by a flag whether he wants this gradient
        wrong = analysis.algebra.vn(product.wrong)
        yield _product(product, [other.node for other in products if analysis.algebra.vn(other.wrong) == wrong])


def _covers(flow: Foreign, product: Product) -> bool:
    return flow.view is product.view and bool(flow.leaves & product.leaves)


def _flow(flow: Foreign) -> Finding:
    view, analysis = flow.view, flow.view.analysis
    dual = not scalars(analysis, flow.leaves)
    leaf = analysis.leaves(flow.leaves if not dual else (view.own or 0) & view.live(view.sink.loss))[0]
    level = "error" if dual and is_old(view, flow.value, flow.leaves) else severity(view, flow.leaves)
    return make_finding(
        view,
        "GA203",
        NAME,
        _message(dual, scalar_name(leaf), names_of(analysis, flow.leaves), level == "error"),
        "info" if decided(view, flow.value, flow.leaves) else level,
        _of_dual(view, flow.joint, flow.value, flow.leaves, []) or flow.location if dual else flow.location,
        fix=_fix(dual, scalar_name(leaf), stop_call(analysis)),
        leaves=flow.leaves,
        through=(flow.joint, flow.value),
    )


def scalar_name(leaf: Node) -> str:
    """A free scalar is called by its own name, not by its owner's."""
    name = leaf.leaf.name if leaf.leaf is not None else ""
    owner = leaf.leaf.owner if leaf.leaf is not None else None
    if name.startswith("_") or name in ("", "constant", "value", "weight", "param", "data", "scale"):
        return owner.name if owner is not None and owner.name else label(leaf)
    return name


def is_old(view: View, value: Node, leaves: int) -> bool:
    """Whether the value was made before the last step of the leaves: its graph is that of older parameters."""
    behind = view.backward(value, leaves)
    for leaf in view.analysis.leaves(leaves):
        made = [user.time for user, _ in view.consumers(leaf) if user in behind]
        for step in ownership.steps_of(view.analysis.tape, leaf):
            if any(time < step.time < view.sink.time for time in made):
                return True
    return False


def _product(product: Product, uses: list[Node]) -> Finding:
    view, analysis = product.view, product.view.analysis
    name, used = scalar_name(product.multiplier), product.deposit == ownership.USED
    level = "error" if used and view.sink.kind != "library" else "warning"
    return make_finding(
        view,
        "GA203",
        NAME,
        _message(product.dual, name, names_of(analysis, product.leaves), used),
        "info" if decided(view, product.wrong, product.leaves) else level,
        _place(product, uses),
        fix=_fix(product.dual, name, stop_call(analysis)),
        leaves=product.leaves,
        through=(product.node, product.wrong),
    )


def _place(product: Product, uses: list[Node]) -> Location:
    asked = (product.view, product.node, product.wrong, product.leaves, uses)
    return product.dual and _of_dual(*asked) or place(*asked)


def _of_dual(view: View, node: Node, wrong: Node, leaves: int, uses: list[Node]) -> Location | None:
    """What is computed from values that other losses rightly use is stopped where the multiplier takes it.

    A function that is there for the multiplier's loss alone may stop it on its way there.
    """
    if _trains_them_rightly(view.analysis, node, leaves):
        return node.location
    makers = takers(view, leaves, view.backward(wrong, leaves))
    if all(private(view, maker, {node, *uses}) for maker in makers):
        return None
    return place(view, node, wrong, leaves, uses) if handed_over(view, node, wrong, leaves) else node.location


def _trains_them_rightly(analysis: Analysis, node: Node, leaves: int) -> bool:
    """Is the very product a term of another loss, which is there for these leaves? A loss that is followed in several
    rounds is known by its text."""
    stepped = {view.sink.loss.location for view in analysis.every_view if (view.own or 0) & leaves}
    return any(view.sink.loss.location in stepped and node in view.down for view in analysis.every_view)


def _message(dual: bool, name: str, leaked: str, used: bool) -> str:
    end = ", and a step uses it" if used else ", which is cleared before it is used"
    if dual:
        return f"the loss of the multiplier `{name}` also sends gradient into {leaked}{end}"
    return f"the multiplier `{name}` gets gradient from the loss that it only weighs{end}"


def _fix(dual: bool, name: str, stop: str) -> str:
    if dual:
        return f"stop the gradient of what `{name}` is multiplied with: {stop}"
    return f"stop the gradient of `{name}` in this loss: {stop}"
