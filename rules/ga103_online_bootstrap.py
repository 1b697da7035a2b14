"""The target is bootstrapped from the network being trained although a target network exists.

## What it does
Finds a bootstrap target, stopped as it should be, whose value comes from the very network that the loss trains, while a
copy of that network is kept up to date and takes no part in the target.

## Why is this bad?
The target network is there to keep the target still. Bootstrapping from the online network brings back the moving
target that it was made against; the copy and its updates do nothing. Usually it is a slip of the pen.

## Example
```python
with torch.no_grad():
    target = reward + gamma * (1 - done) * q_net(next_obs).max(1).values   # target_net was meant
loss = F.mse_loss(q_net(obs).gather(1, action), target)
```

## Use instead
```python
with torch.no_grad():
    target = reward + gamma * (1 - done) * target_net(next_obs).max(1).values
```

## When it is all right
Double DQN chooses the action with the online network and takes its value from the target network; algorithms without a
target network bootstrap from the online one. Neither is reported.

## References
Mnih et al. 2015, Human-level control through deep reinforcement learning.
van Hasselt et al. 2016, Deep reinforcement learning with double Q-learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gradaudit.finding import Finding
from gradaudit.paths import Analysis, View
from gradaudit.rules.criteria.bootstrap import is_bootstrap
from gradaudit.rules.criteria.discrepancy import DIVERGENCES, discrepancies
from gradaudit.rules.criteria.expand import Sum, expand, summands
from gradaudit.rules.criteria.foreign import owners_of
from gradaudit.rules.criteria.lagging import lagging
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.report import make_finding, names_of
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.sites import sites
from gradaudit.rules.criteria.trees import backs_up, marks_of_trees, passed
from gradaudit.tape import PARAMETER, Edge, Node, join_guards

CODE, NAME = "GA103", "online-bootstrap"
RANK = 95


class Copy(NamedTuple):
    """What a network's parameter may be a copy of, and what it is one of where both are taken in order."""

    originals: int
    own: int


def check(analysis: Analysis) -> Iterator[Finding]:
    facts, ordered = roles(analysis), lagging(analysis).originals
    copies = {
        leaf: Copy(
            originals := _taken_for(analysis, facts.originals(leaf)),
            _taken_for(analysis, ordered.get(leaf, ())) or originals,
        )
        for leaf in {*facts.sources, *facts.updated}
        if leaf not in facts.held and (leaf in facts.updated or facts.named(leaf, "target"))
        if not any(leaf in facts.originals(one) for one in facts.originals(leaf))  # a mirror, written either way
    }
    seen: set[Node] = set()
    for view in analysis.views if copies else ():
        for meeting in discrepancies(view):
            if len(meeting.sides) != 2:
                continue
            for edge, other in (meeting.sides, meeting.sides[::-1]):
                found = _bootstraps_itself(view, edge, other, meeting.of_distributions, copies)
                if found and edge.source not in seen and not _is_explained(view, found, copies):
                    seen.add(edge.source)
                    yield _finding(view, edge.source, found)


def _taken_for(analysis: Analysis, leaves: Iterable[Node]) -> int:
    """These, and in JAX what stands for them in a loss that is differentiated by them."""
    wanted = frozenset(leaves)
    standing = (leaf for leaf, tree in roles(analysis).versions.items() if tree in wanted)
    return analysis.mask(wanted) | analysis.mask(standing)


def _bootstraps_itself(view: View, edge: Edge, other: Edge, entropy: bool, copies: dict[Node, Copy]) -> int:
    """The leaves of the trained network that the target's value comes from, if its copy has no part in it."""
    if view.live(edge.source) and edge.passes:
        return 0
    trained = view.live(other.source) if other.passes else 0
    if not trained:
        return 0
    analysis = view.analysis
    total, against = expand(analysis, edge.source), expand(analysis, other.source)
    if is_bootstrap(view, total, against, entropy):
        return _uncopied(view, total, trained, copies)
    trees = passed(view, trained)
    if not trees:
        return 0
    facts = marks_of_trees(analysis)
    total, against = summands(facts, edge.source), summands(facts, other.source)
    if not backs_up(total, against) or _outputs(total).isdisjoint(_outputs(against)):
        return 0  # a tree may hold several networks: what values come from is told by the modules
    found = _uncopied(view, total, trees, copies)
    return analysis.mask(leaf for leaf in analysis.leaves(trained) if passed(view, analysis.bit(leaf)) & found)


def _is_explained(view: View, leaves: int, copies: dict[Node, Copy]) -> bool:
    """Does the copy have another part, in this loss or in another (a policy that is kept near its average), does it act
    (a worker's copy of the learner), or is this one of several losses that a setting chooses among, another of which
    does ask it?
    """
    analysis = view.analysis
    lag = analysis.mask(leaf for leaf, copy in copies.items() if copy.originals & leaves)
    kept = [leaf for leaf, copy in copies.items() if copy.own & leaves]
    own = analysis.mask(kept)
    return (
        bool(analysis.dep(view.sink.loss) & own)
        or _is_reference(analysis, own | _beside(analysis, kept))
        or _acts(analysis, own)
        or any(
            join_guards(view.sink.guard, other.sink.guard) is None and analysis.dep(other.sink.loss) & lag
            for other in analysis.every_view
        )
    )


def _is_reference(analysis: Analysis, copy: int) -> bool:
    """Is some loss a divergence from what the copy, as a whole, answers (the auxiliary phase of PPG)?"""
    return any(
        meeting.node.op in DIVERGENCES and any(analysis.dep(side.source) & copy for side in meeting.sides)
        for view in analysis.every_view
        if analysis.dep(view.sink.loss) & copy
        for meeting in discrepancies(view)
    )


def _beside(analysis: Analysis, leaves: Iterable[Node]) -> int:
    """All that belongs to the networks that were copied as a whole when these parameters were."""
    copied = {one for leaf in leaves for one in owners_of(leaf) if one.copied_from is not None}
    return analysis.mask(leaf for leaf in analysis.graph.leaves if copied and copied.intersection(owners_of(leaf)))


def _acts(analysis: Analysis, copy: int) -> bool:
    """Is something drawn from what the copy answers, with no other network in between?"""
    return any(node.op == "sample" and not analysis.dep(node) & ~copy for node in analysis.tape.nodes)


def _uncopied(view: View, total: Sum, trained: int, copies: dict[Node, Copy]) -> int:
    """Those of the trained leaves that the values come from, if the copy of these is in none of them."""
    analysis = view.analysis
    made_of, last = _values(view, total), _last_layers(view, total)
    own = made_of & trained
    kept = [leaf for leaf, copy in copies.items() if copy.own & own]
    if not own or not kept or any(analysis.bit(leaf) & made_of for leaf in kept):
        return 0
    versions = roles(analysis).versions
    if any(versions.get(leaf) in copies for leaf in analysis.leaves(made_of)):
        return 0  # a copy in the tree that is differentiated is asked
    if any(analysis.bit(leaf) & last and copy.originals & own for leaf, copy in copies.items()):
        return 0  # both are asked
    if last and not any(copies[leaf].own & last & own for leaf in kept):
        return 0  # what has a copy is the encoder: the value is another network's, which has none
    return own


def _outputs(total: Sum) -> set[str]:
    """The modules that give the values: by name, for what a function makes it makes anew in each call."""
    return {call.frame.network.path for call in _last_calls(total) if call.frame is not None}


def _values(view: View, total: Sum) -> int:
    mask = 0
    for atom in total.network():
        mask |= view.analysis.dep(atom.node)
    return mask


def _last_layers(view: View, total: Sum) -> int:
    """The parameters of the layers that give the values."""
    inputs = [edge for node in _last_calls(total) for edge in node.inputs]
    return view.analysis.mask(edge.source for edge in inputs if _is_parameter(edge))


def _last_calls(total: Sum) -> list[Node]:
    """The layers that give the values, those before them left out."""
    seen = {atom.node for atom in total.network()}
    waiting, found = list(seen), []
    while waiting and len(seen) < 60:
        node = waiting.pop()
        if any(map(_is_parameter, node.inputs)):
            found.append(node)
            continue
        further = [edge.source for edge in node.inputs if edge.source not in seen]
        seen.update(further)
        waiting += further
    return found


def _is_parameter(edge: Edge) -> bool:
    return edge.kind == PARAMETER or edge.source.leaf is not None


def _finding(view: View, target: Node, leaves: int) -> Finding:
    node = target
    while node.op in SHAPES and node.inputs:
        node = node.inputs[0].source
    who = names_of(view.analysis, leaves)
    return make_finding(
        view,
        CODE,
        NAME,
        f"the target is bootstrapped from {who}, which this loss trains, although {who} has a target network",
        "warning",
        sites(view.analysis).outside(node, view.sink.loss).location,
        fix="take the next state's value from the target network",
        leaves=leaves,
        through=(),
    )
