"""Where a stop belongs, given the operation that should not have got gradient from one of its operands.

The place is the latest expression on the operand's side that belongs to this use alone. An operand that is spelled out
inside the operation is followed to the variable it comes from, but only while nobody else rightly takes gradient from
it: then the stop belongs to the use. A function that makes the whole value, from its networks on (`compute_target`), is
the place; a helper that was handed the parts is seen from where it was called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gradaudit.tape import Call, Location, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import View


def place(view: View, consumer: Node, operand: Node, leaves: int, others: Iterable[Node] = ()) -> Location:
    """Where to stop the gradient that `consumer` sends through `operand` to `leaves`.

    `others` are further operations that should not have got it either: one stop serves them all.
    """
    uses = {consumer, *others}
    if operand.leaf is not None or operand in uses:
        return consumer.location
    use, home = _use(view, consumer, operand, leaves)
    candidates = [
        node
        for node in _candidates(view, operand, leaves, uses)
        if use is consumer.location or not _in(home, use, node)
    ]
    if not candidates:
        helper = below(common([home, operand.call]), home)
        return use if helper is None else helper.location
    meeting = common([home, candidates[-1].call])
    beside = below(meeting, home)
    best = use
    for node in candidates:
        helper = below(meeting, node.call)
        if helper is not None and same_call(helper, beside):
            continue  # a helper in which prediction and target meet: the value comes to it from elsewhere
        there = _inside(view, node, helper, candidates[-1]) if helper is not None else node.location
        if not within(there, use):
            return there
        best = there
    return best


def at_identity(view: View, location: Location, leaves: int, through: Sequence[Node]) -> Location:
    """Where the text calls a function that gives back what it got, between the use and where the value is made.

    `keep = lambda x: x` in the place of a stop: that is where the stop was switched off. Only in the function of the
    use or of the value, and only if nobody else's gradient passes it: elsewhere it may be a layer's linear activation.
    """
    use, value = through[0], through[-1]
    homes = [use.call, value.call]
    if not view.live(value) & leaves:
        return location
    above, below_it = _taken(view, value, use), view.dominators(value, leaves)
    for node in (*above, *below_it):
        if node.op == "identity" and any(same_call(node.call, home) for home in homes):
            if node in above or private(view, node, {use, value} - {node}):
                return node.location
    return location


def _taken(view: View, value: Node, use: Node) -> list[Node]:
    """What is made of the value alone until it is used, the latest first."""
    found: list[Node] = []
    node = value
    for _ in range(12):
        users = [user for user, _ in view.consumers(node)]
        if node is use or len(users) != 1 or users[0] is use:
            break
        node = users[0]
        found.insert(0, node)
    return found


def handed_over(view: View, consumer: Node, operand: Node, leaves: int) -> bool:
    """Does the consumer stand in a function that was handed the operand, or what it is computed from?"""
    origin = (view.dominators(operand, leaves) or [operand])[-1]
    return below(common([consumer.call, origin.call]), consumer.call) is not None


def _use(view: View, consumer: Node, operand: Node, leaves: int) -> tuple[Location, Call | None]:
    """Where the value is used, for whoever has to stop it, and the function that this is in.

    A method of an object that owns what the loss is to train, and nothing of what it should not, is not to know where
    the value comes from: for its caller the call is the use.
    """
    own, wrong = _owners(view, view.own or 0), _owners(view, leaves)
    location, call = consumer.location, consumer.call
    for step in activations(consumer.call):
        if step.receiver is None or step.receiver not in own or step.receiver in wrong:
            break
        if not handed_over(view, consumer, operand, leaves):
            break
        location, call = step.location, step.parent
    return location, call


def _owners(view: View, leaves: int) -> set[Network]:
    found = [leaf.leaf.owner for leaf in view.analysis.leaves(leaves) if leaf.leaf is not None]
    return {network for owner in found if owner is not None for network in owner.chain()}


def _in(home: Call | None, use: Location, node: Node) -> bool:
    """Is the node computed in the call that stands at `use` in `home`?"""
    step = below(home, node.call)
    return step is not None and step.location == use


def _candidates(view: View, operand: Node, leaves: int, uses: set[Node]) -> list[Node]:
    """The values that all leaking gradient passes and nobody else rightly takes gradient from, the latest first."""
    found = []
    for node in [operand, *view.dominators(operand, leaves)[1:]]:
        if not private(view, node, uses):
            break
        if node.leaf is None and (node.op != "phi" or node.detail == "return"):
            found.append(node)
    return found


def _inside(view: View, node: Node, helper: Call, origin: Node) -> Location:
    """A function that made the value from its networks on is where the stop belongs; a helper that was only handed
    what it combines, or that also makes what other losses use, is seen from outside."""
    if helper not in activations(origin.call) or _serves_others(view, node, helper):
        return helper.location
    inner = below(helper, node.call)
    return node.location if inner is None else inner.location


def _serves_others(view: View, node: Node, helper: Call) -> bool:
    """Whether gradient also flows through this line of text where it was reached from another call."""
    return any(
        other.location == node.location and all(call.location != helper.location for call in activations(other.call))
        for each in view.analysis.every_view
        for other in each.down
    )


def same_call(one: Call | None, other: Call | None) -> bool:
    """Is it one call in the text? An update that is followed twice calls the same functions again."""
    if one is None or other is None:
        return one is other
    return one is other or one.location == other.location and one.function == other.function


def common(calls: Iterable[Call | None]) -> Call | None:
    """The innermost activation that all of these are in (None: the outermost)."""
    chains = [activations(call)[::-1] for call in calls]
    found: Call | None = None
    for level in zip(*chains, strict=False):
        if not all(same_call(step, level[0]) for step in level):
            break
        found = level[0]
    return found


def below(activation: Call | None, call: Call | None) -> Call | None:
    """The call made directly from `activation` that leads to `call`; None where it is made there itself."""
    found: Call | None = None
    for step in activations(call):
        if same_call(step, activation):
            break
        found = step
    return found


def seen_from(node: Node, viewer: Node) -> Location:
    """The line of `node` in the function of `viewer`, or in the nearest function that called both."""
    calls = set(activations(viewer.call))
    location = node.location
    for call in activations(node.call):
        if call in calls:
            return location
        location = call.location
    return location


def activations(call: Call | None) -> list[Call]:
    """The user functions on the stack, innermost first; the entry that nobody's text calls is the outermost, None."""
    found: list[Call] = []
    while call is not None and call.location.line and len(found) < 64:
        found.append(call)
        call = call.parent
    return found


def within(inner: Location, outer: Location) -> bool:
    """Whether the one span of text lies in the other."""
    if inner.path != outer.path:
        return False
    start = (outer.line, outer.column) <= (inner.line, inner.column)
    return start and (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)


def private(view: View, node: Node, uses: set[Node]) -> bool:
    """Whether all gradient that any loss sends to `node` comes by way of `uses`."""
    for other in view.analysis.every_view:
        if node not in other.down:
            continue
        seen, waiting = {node, *uses}, [node]
        while waiting:
            for user, _ in other.consumers(waiting.pop()):
                if user is other.sink.loss and user not in uses:
                    return False
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
    return True
