"""K12: what a loss is to train and does not: the value depends on the parameters, and no gradient gets to them.

A *starved* leaf is one that the optimizers stepping at a sink hold, on which the loss depends, and that no loss of the
program reaches. The *event* is where its gradient ends: the operation with a live input and no live output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.bootstrap import is_bootstrap, is_made_of
from gradaudit.rules.criteria.discrepancy import LOSSES, Discrepancy, meetings_at
from gradaudit.rules.criteria.expand import Atom, Sum, constant, expand
from gradaudit.rules.criteria.marks import marks
from gradaudit.rules.criteria.references import copies_of, feeds_copy
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.trees import place_in_tree, places
from gradaudit.tape import DATA, INDEX, PARAMETER, Edge, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

STOPS = frozenset({
    "stop", "numpy", "argmax", "argmin", "cast", "compare", "sign", "round", "floor", "ceil",
    "gradient",  # taken as a number, where no gradient passes it
})  # fmt: skip
INDICATORS = frozenset({"compare", "sign", "round", "floor", "ceil", "isfinite"})
"""What is true or false of a value is no prediction of it."""

ARITHMETIC = frozenset({"pow", "mul", "add", "sub", "div"})
"""How a number is called that is computed of others and not known."""
WEIGHED_OR_COMPARED = LOSSES | {"mul", "div"}


class Starved(NamedTuple):
    """`event` stops the gradient of `leaves` on the prediction's side of `meeting`.

    `partly`: a block without gradient ends it, and the rest of the prediction learns, as the head of a probe does.
    """

    view: View
    meeting: Node
    event: Node
    leaves: int
    partly: bool = False


def owned(view: View) -> int:
    """The leaves that are stepped with this loss's gradient, if that is known. What follows an original, or data, by
    averaging learns from no loss, whoever holds it; nor does what somebody says is frozen.
    """
    facts = roles(view.analysis)
    held = view.analysis.leaves(view.own or 0)
    untrained = [
        leaf
        for leaf in held
        if facts.follows(leaf)
        or leaf in facts.statistics
        or facts.versions.get(leaf) in facts.statistics
        or facts.stated(leaf) == "frozen"
    ]
    return (view.own or 0) & ~view.analysis.mask(untrained)


def fed_leaves(analysis: Analysis) -> int:
    """What any loss of the program reaches with gradient."""
    known = analysis.cache.get("fed")
    if not isinstance(known, int):
        known = 0
        for view in analysis.every_view:
            known |= view.live(view.sink.loss)
        known |= _in_trees(analysis, known) | _same_places(analysis, known)
        analysis.cache["fed"] = known
    return known


def _in_trees(analysis: Analysis, fed: int) -> int:
    """What belongs to a tree of parameters that is used as a whole somewhere else: `apply({**params, name: new})`."""
    trees = {leaf.leaf.path for leaf in analysis.leaves(fed) if leaf.leaf is not None and leaf.leaf.owner is None}
    if not trees or analysis.tape.framework != "jax":
        return 0
    owned = ((leaf, _network(leaf)) for leaf in analysis.graph.leaves)
    return analysis.mask(leaf for leaf, network in owned if network is not None and network.path in trees)


def _same_places(analysis: Analysis, fed: int) -> int:
    """JAX: what stands in another loss for the same parameters, as their leaves are made anew for each."""
    versions = roles(analysis).versions
    known = {place for _, place in places(analysis, fed)}
    return analysis.mask(leaf for leaf, tree in versions.items() if place_in_tree(tree, leaf) in known)


def starved_predictions(analysis: Analysis) -> list[Starved]:
    """Discrepancies that train nothing although their prediction is made of what the loss is to train."""
    known = analysis.cache.get("starved")
    if not isinstance(known, list):
        known = analysis.cache["starved"] = [found for view in analysis.views for found in _in_view(view)]
    return known


def starved_objectives(analysis: Analysis) -> Iterator[Starved]:
    """Losses that reach nothing of what is stepped with them, since it enters somebody else's network as a constant:
    `-critic(obs, actor(obs).detach())`, stepped by the actor's optimizer."""
    fed = fed_leaves(analysis)
    for view in analysis.views:
        own, loss = owned(view) & ~frozen_at(view), view.sink.loss
        hungry = own & analysis.dep(loss) & ~fed
        if not hungry or analysis.alive(loss) & own or view.sink.kind == "library" or is_test(view):
            continue
        named = analysis.tape.framework == "jax" and not view.live(loss) & own and is_known(loss)  # zeros
        for event in events_of(analysis, Edge(loss), hungry):
            if event.op == "stop" if named else _enters_foreign(analysis, event, own):
                yield Starved(view, loss, event, hungry)


def held_with(view: View) -> int:
    """What the loss reaches, and what is in one optimizer with any of it, or, where none is in sight, what belongs to
    the same networks: where nobody saw a step."""
    analysis, reached = view.analysis, view.live(view.sink.loss)
    masks = [analysis.mask(one.leaves) for one in analysis.tape.optimizers]
    holding = [mask for mask in masks if mask & reached]
    if not holding:
        return reached | _beside(analysis, reached)
    for held in holding:
        reached |= held
    return reached


def _beside(analysis: Analysis, reached: int) -> int:
    """The other parameters of these networks, their copies left out."""
    facts = roles(analysis)
    whole = {_network(leaf) for leaf in analysis.leaves(reached)} - {None}
    mine = (leaf for leaf in analysis.graph.leaves if _network(leaf) in whole and not facts.originals(leaf))
    return analysis.mask(leaf for leaf in mine if leaf.leaf is not None and leaf.leaf.kind == "param")


def _network(leaf: Node) -> Network | None:
    """The outermost network that a parameter belongs to."""
    return leaf.leaf.owner.outermost() if leaf.leaf is not None and leaf.leaf.owner is not None else None


def is_known(loss: Node) -> bool:
    """Whether nothing that gradient of the loss might reach is an object of which the text does not tell what it is."""
    seen, waiting = {loss}, [loss]
    while waiting:
        node = waiting.pop()
        if node.op == "call" or node.op == "const" and constant(node) is None and node.detail not in ARITHMETIC:
            return False
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return True


def _enters_foreign(analysis: Analysis, event: Node, own: int) -> bool:
    """Whether a network that is not stepped here is computed with on the way on."""
    graph = analysis.graph
    seen, waiting = {event}, [event]
    while waiting:
        node = waiting.pop()
        for edge in node.inputs if node is not event else ():
            leaf = edge.source.leaf
            if leaf is not None and leaf.kind == "param" and not analysis.bit(edge.source) & own:
                return True
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _in_view(view: View) -> Iterator[Starved]:
    own = owned(view) & ~frozen_at(view)
    if not own or view.sink.kind == "library" or is_test(view):
        return
    fed = fed_leaves(view.analysis)
    told: set[Node] = set()
    reached = list(_reached(view))
    ends = frozenset(meeting.node for meeting in reached)
    for meeting in reached:
        if any(edge.passes and view.analysis.alive(edge.source) for edge in meeting.sides):
            yield from _in_part(view, meeting, own & ~fed, told)
            yield from _swapped(view, meeting, own, told)
            continue
        prediction = _prediction(view, meeting, own)
        if prediction is None:
            continue
        leaves = view.analysis.dep(prediction.source) & own
        leaves = leaves & ~fed or leaves  # what data were collected with may be trained by another term
        for event in events_of(view.analysis, prediction, leaves):
            if event not in told and not _is_base(view, event, ends):
                told.add(event)
                yield Starved(view, meeting.node, event, leaves)


def frozen_at(view: View) -> int:
    """The leaves that do not require gradient when the loss is differentiated, whoever holds them."""
    state: dict[Node, bool] = {}
    for event in sorted(view.analysis.tape.events, key=lambda event: event.time):
        if event.kind in ("freeze", "unfreeze") and event.time < view.sink.time:
            state.update((leaf, event.kind == "freeze") for leaf in event.leaves)
    return view.analysis.mask(leaf for leaf, frozen in state.items() if frozen)


def _in_part(view: View, meeting: Discrepancy, hungry: int, told: set[Node]) -> Iterator[Starved]:
    """A prediction that is live in part: leaves that nothing feeds, stopped on its side."""
    prediction = _prediction(view, meeting, hungry)
    if prediction is None or not hungry or not view.analysis.alive(prediction.source):
        return  # the other side is what is predicted
    learns = view.live(prediction.source)
    hungry &= ~copies_of(view.analysis, hungry, learns)  # a reference that what learns is compared with
    leaves = view.analysis.dep(prediction.source) & hungry
    for event in events_of(view.analysis, prediction, leaves):
        kept = _keeps_parameters(view.analysis, event) or feeds_copy(view.analysis, event, view.live(view.sink.loss))
        if event not in told and not kept:
            told.add(event)
            yield Starved(view, meeting.node, event, leaves, partly=not event.grad_mode)


def _keeps_parameters(analysis: Analysis, event: Node) -> bool:
    """JAX: a stop of parameters themselves, beside others that learn, keeps them: the base that an adapter is added to.
    In torch whoever wants that takes their `requires_grad` away."""
    arguments = event.arguments() if analysis.tape.framework == "jax" and event.op == "stop" else []
    return bool(arguments) and all(one.leaf is not None for one in arguments)


def _is_base(view: View, event: Node, ends: frozenset[Node]) -> bool:
    """Is what is kept the base of something that learns, which is compared with the base alone? A value that learns is
    computed with the same parameters, stopped as well, before it meets anything (at one of `ends`)."""
    analysis, graph = view.analysis, view.analysis.graph
    if not _keeps_parameters(analysis, event):
        return False
    kept = set(event.arguments())
    around = (graph.nodes[position] for leaf in kept for position in graph.users[graph.index[leaf]])
    waiting = [node for node in around if node.op == "stop" and kept.issuperset(node.arguments())]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if view.live(node):
            return True
        users = (graph.nodes[position] for position in graph.users[graph.index[node]]) if node not in ends else ()
        fresh = [user for user in users if user not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def _swapped(view: View, meeting: Discrepancy, own: int, told: set[Node]) -> Iterator[Starved]:
    """The target learns from a prediction that is stopped: the stop is on the wrong side."""
    for target, prediction in (meeting.sides, meeting.sides[::-1]):
        if not target.passes or prediction.passes and view.analysis.alive(prediction.source):
            continue
        leaves = view.analysis.alive(target.source) & view.analysis.dep(prediction.source) & own
        if not leaves or _is_target(view, prediction, meeting.entropy) or _is_label(meeting, prediction):
            continue
        if is_made_of(prediction.source, target.source):
            continue
        total, against = (expand(view.analysis, side.source) for side in (target, prediction))
        if not is_bootstrap(view, total, against, meeting.entropy):
            continue
        for event in events_of(view.analysis, prediction, leaves):
            if event not in told and event.op == "stop":
                told.add(event)
                yield Starved(view, meeting.node, event, leaves)


def _is_label(meeting: Discrepancy, side: Edge) -> bool:
    """Is it the side of a cross-entropy that holds the labels?"""
    return meeting.entropy and side is meeting.labelled[0]


def _reached(view: View) -> Iterator[Discrepancy]:
    """The discrepancies that gradient of the loss gets to, whether it goes on from there or not."""
    seen, waiting = {view.sink.loss}, [view.sink.loss]
    while waiting:
        node = waiting.pop()
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    for node in sorted(seen, key=lambda node: node.time):
        for meeting in meetings_at(view.analysis, node):
            if len(meeting.sides) == 2 and _is_term(view, meeting.node) and not _is_entropy(meeting):
                yield meeting


def _is_entropy(meeting: Discrepancy) -> bool:
    """`p * log(p + eps)`: how spread out a distribution is, compared with nothing."""
    for value, other in permutations(edge.source for edge in meeting.sides):
        node = other
        while node.op in ("log", "add", "clamp") and node.inputs:
            node = node.inputs[0].source
        if node is value and other.op == "log":
            return True
    return False


def _is_term(view: View, node: Node) -> bool:
    """Whether what is measured is a summand of the loss, and not the weight of something else in it, nor its label."""
    graph = view.analysis.graph
    seen, waiting = {node}, [node]
    while waiting:
        current = waiting.pop()
        if current is view.sink.loss:
            return True
        for position in graph.users[graph.index[current]]:
            user = graph.nodes[position]
            if user in seen or not any(edge.passes and edge.source is current for edge in user.inputs):
                continue
            others = [source for source in user.arguments() if source is not current]
            if user.op in WEIGHED_OR_COMPARED and any(view.analysis.alive(source) for source in others):
                continue
            seen.add(user)
            waiting.append(user)
    return False


def _prediction(view: View, meeting: Discrepancy, own: int) -> Edge | None:
    """The side that should learn: the other one holds the reward, or is plain data."""
    facts = marks(view.analysis)
    for target, prediction in (meeting.sides, meeting.sides[::-1]):
        if not view.analysis.dep(prediction.source) & own or _is_target(view, prediction, meeting.of_distributions):
            continue
        if target.source.op in ("alloc", "const") and prediction.source.op == "sub":
            continue  # an error against zero: what it is the difference of is a meeting of its own
        if not facts.network(target.source) and facts.raw(target.source):
            return prediction
        total = expand(view.analysis, target.source)
        # behind an argmax or numpy a prediction no longer looks like a network's
        hidden = Sum((Atom(prediction.source, 1, False, False),), False)
        against = expand(view.analysis, prediction.source) if facts.network(prediction.source) else hidden
        if is_bootstrap(view, total, against, meeting.of_distributions):
            return prediction
    return None


def _is_target(view: View, side: Edge, entropy: bool) -> bool:
    return is_bootstrap(view, expand(view.analysis, side.source), Sum((), False), entropy)


def is_test(view: View) -> bool:
    """A test may well ask whether a gradient is zero."""
    parts = view.sink.location.path.split("/")
    return any(part in ("test", "tests") for part in parts) or bool(re.search(r"(^|_)tests?(_|\.)", parts[-1]))


def events_of(analysis: Analysis, side: Edge, leaves: int) -> list[Node]:
    """Where gradient of these leaves ends on the way to a side of a discrepancy, the nearest to the leaves."""
    if not leaves:
        return []
    found: list[Node] = []
    start = side.source
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        if analysis.alive(node) & leaves:
            if node is start and not side.passes:
                return [node]
            continue
        if _ends(analysis, node, leaves):
            found.append(node)
        if node.op == "sample":
            continue  # no gradient would come through a draw, whatever is stopped before it
        for edge in node.inputs:
            if edge.kind != INDEX and edge.source not in seen and analysis.dep(edge.source) & leaves:
                seen.add(edge.source)
                waiting.append(edge.source)
    if any(node.op in INDICATORS or _is_frozen(analysis, node, leaves) for node in found):
        return []
    return _outermost([node for node in found if not _keeps_parameters(analysis, node)] or found)


def _outermost(events: list[Node]) -> list[Node]:
    """Of the layers in one block without gradient, those that nothing else of it takes."""
    inner: set[Node] = set()
    waiting = [node for node in events if not node.grad_mode]
    while waiting:
        for source in waiting.pop().arguments():
            if not source.grad_mode and source not in inner:
                inner.add(source)
                waiting.append(source)
    return [node for node in events if node not in inner]


def _ends(analysis: Analysis, node: Node, leaves: int) -> bool:
    if node.grad_mode and node.op not in STOPS:
        return False
    return any(
        edge.kind in (DATA, PARAMETER) and not edge.passes and analysis.alive(edge.source) & leaves
        for edge in node.inputs
    )


def _is_frozen(analysis: Analysis, node: Node, leaves: int) -> bool:
    """Parameters that do not require gradient are not stopped: they are meant to stay."""
    return (
        node.grad_mode
        and node.op != "stop"
        and any(not edge.passes and analysis.bit(edge.source) & leaves for edge in node.inputs)
    )


def without_gradient(analysis: Analysis) -> Iterator[View]:
    """Sinks whose loss depends on what it is to train and reaches none of it."""
    for view in analysis.views:
        own = owned(view)
        if view.sink.kind == "library" or not own or is_test(view):
            continue
        loss = view.sink.loss
        if not view.live(loss) and analysis.dep(loss) & own and _is_cut_off(loss):
            yield view


def _is_cut_off(loss: Node) -> bool:
    """Whether the loss itself was made without gradient, or is a number that was put back into a tensor."""
    for _ in range(6):
        if not loss.grad_mode or loss.op == "stop":
            return True
        data = loss.arguments()
        if len(data) != 1:
            return False
        loss = data[0]
    return False
