"""K2: a bootstrapped value that carries gradient.

A bootstrap target is a sum in which data that passed no network (the reward) is joined by a network's output times a
discount. It is found in a discrepancy (one operand has the reward, the other one is the prediction) or as the weight
of a policy-gradient term. What is built on the way (n-step returns, GAE, clamps, projections) belongs to it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Set
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.corrected import references
from gradaudit.rules.criteria.discrepancy import Discrepancy, discrepancies
from gradaudit.rules.criteria.encoded import encoded
from gradaudit.rules.criteria.expand import Atom, Sum, expand, is_drawn
from gradaudit.rules.criteria.imagined import heads, imagined, is_next, uncopied
from gradaudit.rules.criteria.marks import SHAPES, marks, names
from gradaudit.rules.criteria.place import activations, private
from gradaudit.rules.criteria.residue import residues
from gradaudit.rules.criteria.roles import parameters, related, roles
from gradaudit.rules.criteria.score import products
from gradaudit.rules.criteria.sites import complete_at, same_code, stopped_beside, takers
from gradaudit.rules.criteria.soft import is_soft_backup
from gradaudit.rules.criteria.stale import stale_of
from gradaudit.tape import DATA, Edge, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

STATISTICS = frozenset({"mean", "var", "std", "store", "lerp"})
MOST_BEHIND = 80
REGRESSION = "regression"
SCORE = "score"
BACKUPS = frozenset({
    "lambda_returns", "transformed_lambda_returns", "n_step_bootstrapped_returns", "transformed_n_step_returns",
    "discounted_returns", "general_off_policy_returns_from_action_values", "general_off_policy_returns_from_q_and_v",
    "transformed_general_off_policy_returns_from_action_values", "truncated_generalized_advantage_estimation",
    "vtrace", "leaky_vtrace", "vtrace_td_error_and_advantage", "leaky_vtrace_td_error_and_advantage",
    "categorical_l2_project",
})  # fmt: skip
"""Library functions that form a bootstrapped value of what they are given."""


class Use(NamedTuple):
    """One meeting of a live bootstrapped value with a loss: `value` is the operand, `prediction` the other side."""

    view: View
    node: Node
    value: Node
    prediction: Node | None
    kind: str
    leaves: int
    chain: tuple[Node, ...]
    """The nodes that every leaking path shares and at which the value is complete, the latest first."""


class Leak(NamedTuple):
    """One bootstrapped value and everything that it leaks into."""

    uses: tuple[Use, ...]
    cut: Node
    location: Location

    @property
    def view(self) -> View:
        return self.uses[0].view

    @property
    def kinds(self) -> set[str]:
        return {use.kind for use in self.uses}


def leaks(analysis: Analysis) -> list[Leak]:
    """Every live bootstrapped value of a tape, one entry for a value however many losses it meets."""
    known = analysis.cache.get("bootstrap")
    if known is None:
        uses = [use for view in analysis.views for use in _uses(view)]
        known = _told_once([_settled(group, uses) for group in _grouped(uses)])
        analysis.cache["bootstrap"] = known
    assert isinstance(known, list)
    return known


def _told_once(settled: list[Leak]) -> list[Leak]:
    """A leak that a fuller round of the same update tells, too, goes with that one."""
    found = []
    for leak in settled:
        if not any(_again(leak, other) for other in settled):
            repeated = [use for other in settled if _again(other, leak) for use in other.uses]
            found.append(leak._replace(uses=(*leak.uses, *repeated)))
    return found


def _again(leak: Leak, other: Leak) -> bool:
    """Does a round in which all uses are known tell of the same text, and where to stop it for all of them?"""
    mine = {(use.node.location, use.value.location) for use in leak.uses}
    theirs = {(use.node.location, use.value.location) for use in other.uses}
    return mine < theirs and leak.location in {use.node.location for use in leak.uses}


def _uses(view: View) -> Iterator[Use]:
    if _trains_itself(view):  # its own gradient tells what is live
        return
    fitted = set()
    cancelling = {found.node for found in residues(view.analysis)}
    for meeting in (*discrepancies(view), *_likelihoods(view)):
        found = _target(view, meeting) if meeting.node not in cancelling else None
        if found is None:
            continue
        edge, prediction, leaves = found
        fitted.add(meeting.node)
        if not _is_told(view, leaves):
            continue
        yield _use(view, meeting.node, edge.source, prediction, REGRESSION, leaves)
    for product in products(view):
        if product.node in fitted:
            continue
        total = expand(view.analysis, product.weight)
        leaves = view.live(product.weight)
        others = references(view, product.score, product.weight) if leaves else frozenset()
        if leaves and is_return(view, _without(total, others), leaves) and _is_told(view, leaves):
            yield _use(view, product.node, product.weight, product.score, SCORE, leaves)


def _without(total: Sum, nodes: Set[Node]) -> Sum:
    return total._replace(atoms=tuple(atom for atom in total.atoms if atom.node not in nodes)) if nodes else total


def _is_told(view: View, leaves: int) -> bool:
    """Of what is live in arguments, the project's own calls tell."""
    return bool(leaves & parameters(view.analysis)) or bool(leaves & view.mask) and not view.sink.called


def _likelihoods(view: View) -> list[Discrepancy]:
    """A regression whose loss is the likelihood of the target: `-value_head(x).log_prob(target)`."""
    found = []
    for node in view.slice:
        data = [edge for edge in node.inputs if edge.kind == DATA]
        if node.op == "log_prob" and len(data) > 1:  # a run has each parameter of the distribution
            live = next((edge for edge in data[:-1] if edge.passes and view.live(edge.source)), data[0])
            found.append(Discrepancy(node, (data[-1], live)))
    return found


def _trains_itself(view: View) -> bool:
    """A function without a caller that differentiates its loss: what it returns is for the log."""
    return view.sink.kind == "library" and any(sink.kind != "library" for sink in view.analysis.tape.sinks)


def _use(view: View, node: Node, value: Node, prediction: Node | None, kind: str, leaves: int) -> Use:
    return Use(view, node, value, prediction, kind, leaves, tuple(_chain(view, value, leaves)))


def _target(view: View, meeting: Discrepancy) -> tuple[Edge, Node | None, int] | None:
    """The operand that is a bootstrapped value and live, the other one, and the leaves that gradient reaches."""
    if len(meeting.sides) == 1:
        return _mixed(view, meeting.sides[0])
    sides = tuple(map(_probabilities, meeting.sides)) if meeting.of_distributions else meeting.sides
    for edge, other in (sides, sides[::-1]):
        if not edge.passes:
            continue
        leaves = view.live(edge.source)
        if not leaves or not _predicts(view, other) or is_made_of(other.source, edge.source):
            continue
        total, against = expand(view.analysis, edge.source), expand(view.analysis, other.source)
        if is_bootstrap(view, total, against, meeting.of_distributions, meeting.node.op == "mul") and not is_drawn(
            edge.source
        ):
            return edge, other.source, leaves
        if meeting.of_distributions and any(
            is_bootstrap(view, expand(view.analysis, number), against, False) for number in encoded(view, edge)
        ):
            return edge, other.source, leaves
    return None


def _probabilities(side: Edge) -> Edge:
    """What a distribution was made of, if that is one value."""
    given = [edge for edge in side.source.inputs if edge.kind == DATA] if side.source.op == "dist" else []
    return given[0] if side.passes and len(given) == 1 else side


def _predicts(view: View, other: Edge) -> bool:
    return other.passes and bool(view.live(other.source))


def is_made_of(value: Node, origin: Node) -> bool:
    """Is it a version of the other one, say the nearest code to it? No prediction is made of its own target; statistics
    of what was predicted before may scale it.
    """
    seen, waiting = {value}, [value]
    while waiting and len(seen) < MOST_BEHIND:
        node = waiting.pop()
        for edge in node.inputs if node.op not in STATISTICS else ():
            if edge.source is origin:
                return True
            if edge.source.time < node.time and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _mixed(view: View, edge: Edge) -> tuple[Edge, Node | None, int] | None:
    """`r - q + g * v` in one sum: the summands with the reward's sign are the target, the others the prediction."""
    total = expand(view.analysis, edge.source)
    for sign in (1, -1):
        mine = Sum(tuple(atom for atom in total.atoms if atom.sign == sign), total.affine)
        others = Sum(tuple(atom for atom in total.atoms if atom.sign == -sign), False)
        if not any(view.live(atom.node) and view.reaches(atom.node) for atom in others.network()):
            continue
        if is_bootstrap(view, mine, others, False):
            live = [atom for atom in mine.network() if view.reaches(atom.node) and view.live(atom.node)]
            if len(live) == 1:
                return Edge(live[0].node), None, view.live(live[0].node)
    return None


def is_bootstrap(view: View, total: Sum, against: Sum, entropy: bool, by_hand: bool = False) -> bool:
    """Reward plus discounted network value on this side, no reward on the other."""
    analysis = view.analysis
    if backups(total) and not backups(against):
        return True
    if entropy and total.affine:
        return any(not atom.raw for atom in total.atoms)
    if by_hand:  # any other product with a logarithm is a score and its weight
        return False
    rewards = _rewards(view, total)
    predicting = heads(analysis, against.network())
    if all(is_next(analysis, reward, predicting) for reward in rewards):  # none, or a value that is a constant
        return imagined(view, total, against) or _of_weighted_errors(view, total, against)
    values = [atom for atom in total.network() if atom.node not in {reward.node for reward in rewards}]
    if not rewards or not values or _uncancelled(_rewards(view, against)):
        return False
    facts = marks(analysis)
    signs = {reward.sign for reward in rewards}
    named = any(facts.reward(reward.node) for reward in rewards)
    if named and view.sink.kind != "library" and any(atom.factor for atom in total.atoms):
        return True
    values = [value for value in values if value.sign in signs and (value.factor or named)]
    if not values:
        return view.sink.kind != "library" and is_soft_backup(total, against, signs)
    if view.sink.kind == "library":  # an argument that is called a target was finished by the caller
        pattern = names("networks", "target")
        reached = [value for value in _estimates(values) if view.reaches(value.node) and view.live(value.node)]
        live = [one for one in reached if not facts.named(one.node, "discount") and not _of_constants(view, one.node)]
        return not all(value.node.leaf and pattern.search(value.node.leaf.name.lower()) for value in live)
    if named:
        return True
    mine, others = _depends(analysis, values), _depends(analysis, against.network())
    if related(analysis, mine, others) or same_code(view, mine, others) or _of_lagged_tree(analysis, values, others):
        return True
    return _follows_in_turn(analysis, mine, others)


def _of_lagged_tree(analysis: Analysis, values: list[Atom], predicting: int) -> bool:
    """JAX: is a value made by what is a constant tree for the loss, and follows the tree that predicts, or is that one?
    What is live in it then are the actions that it is the value of."""
    facts = roles(analysis)
    trees = {facts.versions.get(leaf) for leaf in analysis.leaves(predicting)} - {None}
    made = (
        analysis.leaves(functools.reduce(operator.or_, (analysis.dep(atom.node) for atom in values), 0))
        if trees
        else []
    )
    return any(leaf in trees or not trees.isdisjoint(facts.originals(leaf)) for leaf in made)


def _uncancelled(rewards: list[Atom]) -> list[Atom]:
    """Those of which nothing is taken away again: an anchor, as in `old + clip(new - old)`, is no part of a return."""
    signs = {(one.node, one.sign) for one in rewards}
    return [one for one in rewards if (one.node, -one.sign) not in signs]


def _of_constants(view: View, value: Node) -> bool:
    """Does a network make it whose parameters are constants, of what the function is given? A state, that is."""
    every = parameters(view.analysis)
    return value.leaf is None and bool(view.analysis.dep(value) & every) and not view.live(value) & every


def _estimates(values: list[Atom]) -> list[Atom]:
    """What a network computes, if there is any of it: what else is an argument is then a factor of it or data."""
    return [value for value in values if _computed_by_network(value.node) and value.node.leaf is None] or values


def _follows_in_turn(analysis: Analysis, values: int, predicting: int) -> bool:
    """Is the network that is bootstrapped from, or its original, itself regressed on the predicting one (V on Q)?"""
    facts = roles(analysis)
    originals = (leaf for value in analysis.leaves(values) for leaf in facts.originals(value))
    learning = values | analysis.mask(originals)
    if not predicting:
        return False
    for view in analysis.views:
        for meeting in discrepancies(view):
            for target, prediction in permutations(meeting.sides, 2):
                learns = prediction.passes and view.live(prediction.source) & learning
                if not learns or _rewards(view, expand(analysis, prediction.source)):
                    continue  # the backup itself, seen from its other side
                if _behind(analysis, target.source) & predicting:
                    return not _behind(analysis, prediction.source) & predicting
    return False


def _behind(analysis: Analysis, node: Node) -> int:
    """The leaves of a value, and what they are copies of."""
    leaves = analysis.dep(node)
    return leaves | uncopied(analysis, leaves)


def _of_weighted_errors(view: View, total: Sum, against: Sum) -> bool:
    """Temporal differences, each with a weight (V-trace): the reward has a factor, and so have both of its values."""
    weighted = [atom for atom in total.atoms if atom.factor]
    rewards = {atom.sign for atom in weighted if atom.raw}
    mine = _depends(view.analysis, against.network())
    signs = {atom.sign for atom in weighted if not atom.raw and _depends(view.analysis, [atom]) & mine}
    return view.sink.kind != "library" and bool(rewards) and signs == {1, -1} and not against.raw()


def is_return(view: View, total: Sum, leaves: int) -> bool:
    """An advantage or return: a reward (or a return made of rewards) and network values in one sum."""
    if total.affine:  # a projected distribution: its product with a log-probability is a cross-entropy
        return False
    rewards = _rewards(view, total) or [atom for atom in backups(total) if atom.node.op != "categorical_l2_project"]
    return bool(rewards) and any(
        view.live(atom.node) & leaves and _computed_by_network(atom.node) for atom in total.network()
    )


def _computed_by_network(node: Node) -> bool:
    """Does a network (or something unknown that is called) make it? A bare multiplier is no value of a state."""
    seen = {node}
    waiting = [node]
    while waiting and len(seen) < 400:
        current = waiting.pop()
        if current.op in ("module_call", "call", "matmul", "custom"):
            return True
        if current is node and current.leaf is not None and current.leaf.kind == "arg":
            return True  # a value that a library function was given
        for edge in current.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def backups(total: Sum) -> list[Atom]:
    """Summands that a library computed from rewards and values."""
    return [atom for atom in total.atoms if (atom.node.op if atom.node.op != "call" else _callee(atom.node)) in BACKUPS]


def _callee(node: Node) -> str:
    return node.detail.split(".")[-1]


def _rewards(view: View, total: Sum) -> list[Atom]:
    facts = marks(view.analysis)
    raw = [atom for atom in total.atoms if atom.raw and (not atom.factor or facts.reward(atom.node))]
    if view.sink.kind != "library":
        return raw
    raw = [atom for atom in raw if facts.reward(atom.node)]  # everything else that is no argument is a constant
    if raw:
        return raw
    factors = any(atom.factor for atom in total.atoms)
    return [atom for atom in total.atoms if not atom.factor and factors and facts.named(atom.node, "reward")]


def _depends(analysis: Analysis, atoms: Iterable[Atom]) -> int:
    mask = 0
    for atom in atoms:
        mask |= analysis.dep(atom.node)
    params = analysis.cache.get("params")
    if params is None:
        params = analysis.mask(
            leaf for leaf in analysis.graph.leaves if leaf.leaf is not None and leaf.leaf.kind in ("param", "arg")
        )
        analysis.cache["params"] = params
    assert isinstance(params, int)
    return mask & params


def _chain(view: View, value: Node, leaves: int) -> list[Node]:
    """What every leaking path below `value` shares while the value is being built, the latest first."""
    shared = view.dominators(value, leaves)
    # of an imagined return, what is raw in it is no reward
    rewarded = _is_whole(view, expand(view.analysis, value))
    whole = [node for node in shared if rewarded and _is_whole(view, expand(view.analysis, node))]
    building = [node for node in whole if node.op not in SHAPES]
    return building or [node for node in shared if node.op not in SHAPES] or shared[:1] or [value]


def _is_whole(view: View, total: Sum) -> bool:
    return bool(total.affine or _rewards(view, total) or backups(total))


def _grouped(uses: list[Use]) -> list[list[Use]]:
    """Uses of one value together: their chains overlap."""
    groups: list[list[Use]] = []
    for use in uses:
        mine = set(use.chain)
        touching = [group for group in groups if any(mine & set(other.chain) for other in group)]
        merged = [other for group in touching for other in group]
        groups = [group for group in groups if group not in touching]
        groups.append([*merged, use])
    return groups


def _settled(group: list[Use], uses: list[Use]) -> Leak:
    shared = set(group[0].chain)
    for use in group[1:]:
        shared &= set(use.chain)
    chain = [node for node in group[0].chain if node in shared] or list(group[0].chain)
    old = _recorded(group[0])
    if old is not None:
        return Leak(tuple(group), chain[-1], old)
    meetings = {(use.node.location.path, use.node.location.line) for use in group}
    nodes = {use.node for use in uses}
    wrong = frozenset(node for use in uses for node in use.view.backward(use.value))
    first = group[0]
    alone = [node for node in chain if private(first.view, node, nodes)]
    if alone and len({use.node for use in group}) == 1 and stopped_beside(first.view, alone[0]):
        alone = []
    for node in alone:
        location = complete_at(first.view, node, first.leaves, first.node, wrong)
        if (location.path, location.line) not in meetings:
            return Leak(tuple(group), node, location)
    # What another loss rightly takes gradient from must be stopped where this one takes it.
    node = alone[0] if alone else first.node
    return Leak(tuple(group), node, complete_at(first.view, node, first.leaves, first.node, wrong))


def _recorded(use: Use) -> Location | None:
    """Where a rollout made the values that the update found in storage: there they should have become constants."""
    view = use.view
    old = {maker: stale for each in view.analysis.views for stale in stale_of(each) for maker in stale.makers}
    if not old:
        return None
    makers = takers(view, use.leaves, view.backward(use.value, use.leaves))
    built = use.chain[0]
    home = activations(built.call)
    for maker in makers:
        near = maker.call is None or maker.call in home
        if maker not in old or (near and maker.loops == built.loops[: len(maker.loops)]):
            return None
    return old[makers[0]].location if makers else None
