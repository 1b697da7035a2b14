"""K6: a loss reaches what another optimizer owns, or nobody steps.

A loss goes *through* a network when what it trains enters that network's call (`critic(obs, actor(obs))`); gradient
into it is the price of that and no leak. Otherwise the foreign leaf is beside or before what the loss trains, and the
place where its values join those is where a stop is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.ownership import USED, deposit
from gradaudit.rules.criteria.bootstrap import leaks
from gradaudit.rules.criteria.discrepancy import LOSSES, discrepancies
from gradaudit.rules.criteria.game import opposed
from gradaudit.rules.criteria.magic import is_nothing
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.place import private
from gradaudit.rules.criteria.product import enters_layer
from gradaudit.rules.criteria.roles import parameters, roles
from gradaudit.rules.criteria.sites import cut_at, frames, made_at, one_call, stop_at, takers
from gradaudit.tape import Frame, Location, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MEETINGS = LOSSES | {"mul", "matmul", "einsum", "sub"}
"""Where two values are compared."""
LINEAR = frozenset({"add", "sub", "neg", "mean", "sum", "phi", "reshape", "stack", "cast", "cat", "getitem"})


class Foreign(NamedTuple):
    """The loss of `view` reaches `leaves` (one holder's) by way of `value`, which `joint` joins to own values."""

    view: View
    leaves: int
    value: Node
    joint: Node
    held: bool
    at: Location | None = None
    """Where the stop belongs, where there are several joints and one place for all of them."""

    @property
    def location(self) -> Location:
        """Where the stop belongs."""
        if self.at is not None:
            return self.at
        known = self.view.analysis.cache.get("foreign joints", frozenset())
        assert isinstance(known, frozenset)
        return stop_at(self.view, self.joint, self.value, self.leaves, _wrong(self.view.analysis), known)


def foreign_flows(analysis: Analysis) -> list[Foreign]:
    """Every such flow of a tape, those into bootstrapped values and advantages left out (they are K2's)."""
    known = analysis.cache.get("foreign")
    if known is None:
        groups = [flows for view in analysis.views for flows in _flows(view)]
        analysis.cache["foreign wrong"] = frozenset(
            node for flows in groups for flow in flows for node in flow.view.backward(flow.value, flow.leaves)
        )
        analysis.cache["foreign joints"] = frozenset(flow.joint for flows in groups for flow in flows)
        known = analysis.cache["foreign"] = [flow for flows in groups for flow in _together(flows)]
    assert isinstance(known, list)
    return known


def flows_of(view: View, leaves: int, own: int) -> list[Foreign]:
    """Where `leaves` join what the loss is to train, for those who know which of it that is."""
    foreign_flows(view.analysis)
    own_values = view.forward(view.analysis.leaves(own))
    return _together(list(_joints(view, leaves, own, own_values, covered(view))))


def _wrong(analysis: Analysis) -> frozenset[Node]:
    """Everything that some loss differentiates and should not: it claims no line as rightly its own."""
    known = analysis.cache.get("foreign wrong")
    assert isinstance(known, frozenset)
    return known


def _flows(view: View) -> Iterator[list[Foreign]]:
    own = owned(view)
    reached = view.live(view.sink.loss)
    foreign = reached & ~own
    if not foreign or not reached & own:
        return
    foreign &= ~opposed(view)
    own_values = view.forward(view.analysis.leaves(own & reached))
    targets = covered(view)
    for leaves in _groups(view.analysis, foreign, _trained_elsewhere(view)):
        yield list(_joints(view, leaves, own, own_values, targets))


def _together(flows: list[Foreign]) -> list[Foreign]:
    """One flow where all of them pass one value that is made for them alone: the stop belongs there, once."""
    if len(flows) < 2:
        return flows
    view = flows[0].view
    wrong = _wrong(view.analysis)
    joints = {flow.joint for flow in flows}
    leaves = 0
    for flow in flows:
        leaves |= flow.leaves
    ways = [view.dominators(flow.value, flow.leaves) for flow in flows]
    for node in ways[0]:
        if node.op not in SHAPES and all(node in way for way in ways) and private(view, node, joints):
            there = cut_at(view, node, leaves, joints, wrong)
            return [Foreign(view, leaves, node, flows[0].joint, flows[0].held, there)]
    target = _target(view, leaves, joints)
    if target is not None:
        return [Foreign(view, leaves, target, flows[0].joint, flows[0].held, target.location)]
    call = one_call(view, leaves, joints, [flow.value for flow in flows], wrong)
    if call is not None:
        return [Foreign(view, leaves, flows[0].value, flows[0].joint, flows[0].held, call)]
    return flows


def _target(view: View, leaves: int, joints: set[Node]) -> Node | None:
    """What a regression is to reach, made of nothing that its prediction is made of, where all joints lie in it: the
    whole of it is a constant."""
    for meeting in discrepancies(view):
        if len(meeting.sides) != 2 or not all(side.passes for side in meeting.sides):
            continue
        for side, other in (meeting.sides, meeting.sides[::-1]):
            mine, its = view.live(side.source), view.live(other.source)
            if leaves & ~mine or not its or its & mine or side.source.leaf is not None:
                continue
            if joints <= set(view.backward(side.source)):
                return side.source
    return None


def owned(view: View) -> int:
    """What the loss is to train. Where no optimizer is in sight: all that it reaches but copies of what it reaches."""
    reached = view.live(view.sink.loss)
    if view.own is not None:  # a copy that is updated again and again is nobody's to train, though an optimizer has it
        facts = roles(view.analysis)
        kept = [leaf for leaf in view.analysis.leaves(view.own & reached) if leaf in facts.updated]
        return view.own & ~view.analysis.mask(leaf for leaf in kept if copied_from(view.analysis, leaf, reached))
    analysis, facts = view.analysis, roles(view.analysis)
    copies = 0
    for leaf in analysis.leaves(reached):
        if facts.stated(leaf) == "frozen" or (leaf not in facts.held and _follows(view, leaf, reached)):
            copies |= analysis.bit(leaf)
    if view.sink.kind == "library" and copies:  # a module's own forward pass: what it is given is data
        copies |= ~parameters(analysis)
    return reached & ~copies


def _follows(view: View, leaf: Node, reached: int) -> bool:
    """A copy. In a module that others train, only one that the module updates itself, or keeps in evaluation mode."""
    facts = roles(view.analysis)
    if view.sink.kind == "library":
        if leaf in facts.evaluated and not facts.updated:
            return True
        owned_too = any(source.leaf is not None and source.leaf.kind == "param" for source in facts.originals(leaf))
        if leaf not in facts.updated or not owned_too:
            return False
    return copied_from(view.analysis, leaf, reached) and not facts.began_as(leaf)


def copied_from(analysis: Analysis, leaf: Node, among: int) -> bool:
    """Is the leaf a copy, and what it was copied from one of these?"""
    facts = roles(analysis)
    return bool(analysis.mask(facts.originals(leaf)) & among)


def _trained_elsewhere(view: View) -> int:
    """What other losses train with optimizers of which it is not known what they hold, where this one's is known."""
    if view.own is None:
        return 0
    found = 0
    for other in view.analysis.views:
        if other.own is None and other.sink.kind == "backward":
            found |= other.live(other.sink.loss)
    return found


def _groups(analysis: Analysis, foreign: int, trained: int = 0) -> list[int]:
    """The foreign leaves by who holds them; those that nobody holds by the outermost network that owns them. `trained`
    are leaves that somebody holds, whoever that is.
    """
    facts = roles(analysis)
    groups: dict[object, int] = {}
    for leaf in analysis.leaves(foreign):
        if leaf.leaf is None or leaf.leaf.kind != "param" and leaf not in facts.updated:
            continue
        holders = frozenset(number for number, held in enumerate(analysis.tape.optimizers) if leaf in held.leaves)
        known = facts.complete or facts.originals(leaf) or facts.stated(leaf) or analysis.bit(leaf) & trained
        if not holders and (not known or leaf in facts.adapted):
            continue
        owner = leaf.leaf.owner.outermost() if leaf.leaf.owner is not None else leaf
        key: object = holders or owner
        groups[key] = groups.get(key, 0) | analysis.bit(leaf)
    return list(groups.values())


def _joints(view: View, leaves: int, own: int, own_values: set[Node], targets: set[Node]) -> Iterator[Foreign]:
    analysis = view.analysis
    starts = analysis.leaves(leaves)
    networks = _networks(view, leaves, own)
    held = any(leaf in roles(analysis).held for leaf in starts) and not (view.own or 0) & leaves
    held = held or bool(_trained_elsewhere(view) & leaves)
    through: dict[Frame, bool] = {}
    seen = set(starts)
    waiting = list(starts)
    while waiting:
        node = waiting.pop()
        for user, _ in view.consumers(node):
            if user in targets or user.op == "gradient" or _is_through(view, user, networks, own, through):
                continue
            if user.op == "mul" and any(is_nothing(analysis, other) for other in user.arguments() if other is not node):
                continue
            if user not in own_values:
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
            elif node.leaf is not None and _is_unread(view, user):
                continue  # a loss that is given the parameters, and of which nothing else is known
            elif view.sink.kind == "library" and user.op not in MEETINGS:
                continue  # both are handed out: nobody says that they are compared
            elif not _own_term(view, node, user):
                there = view.live(node) & leaves
                if there:  # under conditions that fit those of the loss
                    yield Foreign(view, there, node, user, held)


def _is_unread(view: View, call: Node) -> bool:
    """Does this call of something that is not understood give the loss?"""
    loss = view.sink.loss
    while loss.op == "getitem" and loss.inputs:
        loss = loss.inputs[0].source
    return loss is call and call.op in ("call", "module_call")


def owners_of(leaf: Node) -> list[Network]:
    return list(leaf.leaf.owner.chain()) if leaf.leaf is not None and leaf.leaf.owner is not None else []


def _networks(view: View, leaves: int, own: int) -> set[Network]:
    """The networks that these leaves are in: their owners, and whatever is called around them and holds nothing own."""
    found = {network for leaf in view.analysis.leaves(leaves) for network in owners_of(leaf)}
    others = {frame.network for node in takers(view, own, view.down) for frame in frames(node)}
    around = {frame.network for node in takers(view, leaves, view.down) for frame in frames(node)}
    return found | (around - others)


def _is_through(view: View, node: Node, networks: set[Network], own: int, known: dict[Frame, bool]) -> bool:
    """Is the node inside a call of one of these networks that takes values which the loss trains?"""
    for frame in frames(node):
        if frame not in known:
            known[frame] = frame.network in networks and any(view.live(argument) & own for argument in frame.arguments)
        if known[frame]:
            return True
    return False


def _own_term(view: View, node: Node, joint: Node) -> bool:
    """A summand of the loss that has nothing of the own values in it: another loss, not a leak of this one."""
    current = joint
    for _ in range(64):
        if current.op not in LINEAR:
            return False
        if current is view.sink.loss:
            return True
        users = view.consumers(current)
        if len(users) != 1:
            return False
        current = users[0][0]
    return False


def covered(view: View) -> set[Node]:
    """What bootstrapped values and advantages of this sink are made of: leaks there are theirs."""
    found: set[Node] = set()
    for leak in leaks(view.analysis):
        for use in leak.uses:
            if use.view is view:
                found |= view.backward(use.value)
    return found


class Forgotten(NamedTuple):
    """What the loss of `view` leaves in `leaves`, through which it goes, is still there when their optimizer steps."""

    view: View
    leaves: int
    location: Location
    maker: Node


def forgotten(analysis: Analysis) -> Iterator[Forgotten]:
    """Deposits of losses that go through a network, used by its next step because zero_grad stands before them."""
    cleared = {event.optimizer for event in analysis.tape.events if event.kind == "clear"}
    for view in analysis.views:
        if view.sink.kind != "backward":
            continue
        for leaves, makers in through_makers(view):
            found = analysis.leaves(leaves)
            holders = {held for leaf in found for held in analysis.tape.optimizers if leaf in held.leaves}
            if holders <= cleared and all(deposit(analysis.tape, view.sink, leaf) == USED for leaf in found):
                yield Forgotten(view, leaves, made_at(view, makers, view.sink.loss)[-1].location, makers[-1])


def through_makers(view: View) -> Iterator[tuple[int, list[Node]]]:
    """The foreign leaves whose network this loss goes through, one holder's at a time, and where it uses them."""
    own, reached = view.own, view.live(view.sink.loss)
    if not own or not own & reached:
        return
    for leaves in _groups(view.analysis, reached & ~own):
        networks = _networks(view, leaves, own)
        makers = [maker for maker in takers(view, leaves, view.down) if _is_through(view, maker, networks, own, {})]
        if makers:
            yield leaves, makers


def scalars(analysis: Analysis, leaves: int) -> bool:
    """Only free scalars (a temperature, a multiplier), no network."""
    found = analysis.leaves(leaves)
    return bool(found) and all(
        leaf.leaf is not None and (leaf.leaf.scalar or leaf.leaf.owner is None) for leaf in found
    )


def about_temperature(flow: Foreign) -> bool:
    """Exactly one of the two sides is a free scalar: a matter of the temperature's loss (GA203)."""
    analysis = flow.view.analysis
    sides = flow.leaves, flow.view.own or 0
    free = [side for side in sides if scalars(analysis, side)]
    return len(free) == 1 and not any(enters_layer(analysis, leaf) for leaf in analysis.leaves(free[0]))
