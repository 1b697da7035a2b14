"""What a network is to the algorithm: a copy of another one, held by nobody, reference. From events first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.rules.criteria.marks import names
from gradaudit.tape import Node, Tape

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

KEPT = ("target", "ema", "teacher")
"""What is not to learn, as its name says."""


class Roles:
    """Copies and holders of one tape's leaves."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.sources: dict[Node, set[Node]] = {}
        """Leaf -> the leaves it was copied from (deepcopy, load_state_dict, hard or soft update)."""
        self.updated: set[Node] = set()
        """Leaves that a soft update writes, or that are copied again and again."""
        self.averaged: dict[Node, set[Node]] = {}
        """Leaf -> the leaves that soft updates make it follow."""
        self.held: set[Node] = set()
        self.adapted: set[Node] = set()
        """What a gradient that is part of another loss is taken for: it has to require gradient, whoever holds it."""
        self.complete = all(optimizer.complete for optimizer in tape.optimizers)
        for optimizer in tape.optimizers:
            self.held |= optimizer.leaves
        again = _differentiated_again(tape)
        for sink in tape.sinks:  # an update by hand: what is differentiated by name is trained by somebody
            if sink.loss not in again:
                self.held |= sink.own or sink.differentiated or frozenset()
            elif sink.kind == "grad":
                self.adapted |= sink.differentiated or frozenset()
        copies: dict[Node, int] = {}
        self.evaluated = _evaluated(tape)
        """Leaves whose network is in evaluation mode whenever a loss is differentiated, once it has a mode."""
        self.statistics = {leaf for event in tape.events if event.kind == "average" for leaf in event.leaves}
        """Leaves that data is averaged into, whatever trains them beside that."""
        for event in tape.events:
            if event.kind not in ("copy", "soft_update"):
                continue
            for leaf in event.leaves:
                self.sources.setdefault(leaf, set()).update(event.sources)
                if event.kind == "soft_update":
                    self.averaged.setdefault(leaf, set()).update(event.sources)
                copies[leaf] = copies.get(leaf, 0) + 1
                if event.kind == "soft_update" or event.loops or copies[leaf] > 1:
                    self.updated.add(leaf)
        self.lagging = self.updated.union(*(one.leaves for one in tape.events if one.kind == "offer" and one.sources))
        """What an update writes, or a method that updates it and that somebody may call."""
        self.versions: dict[Node, Node] = {}
        """JAX: a differentiated argument, or an entry of it -> the tree that was passed for it."""
        for event in tape.events:
            if event.kind == "backward":
                self.versions.update(zip(event.leaves, event.sources, strict=True))
                self._follow(list(zip(event.leaves, event.sources, strict=True)))
        self._by_leaf = {node.leaf: node for node in tape.nodes if node.leaf is not None}

    def _follow(self, passed: list[tuple[Node, Node]]) -> None:
        """What is differentiated follows what the tree that was passed for it follows."""
        given: dict[Node, set[Node]] = {}
        for leaf, tree in passed:
            given.setdefault(tree, set()).add(leaf)
        for leaf, tree in passed:
            followed = {one for source in self.sources.get(tree, ()) for one in given.get(source, ())}
            if followed:
                self.sources.setdefault(leaf, set()).update(followed)
                self.updated.update((leaf,) if tree in self.updated else ())

    def originals(self, leaf: Node) -> set[Node]:
        """The leaves that this one is a copy of."""
        found = set(self.sources.get(leaf, ()))
        known = leaf.leaf
        if known is not None and known.copied_from is not None and known.copied_from in self._by_leaf:
            found.add(self._by_leaf[known.copied_from])
        found.discard(leaf)
        return found

    def is_copy(self, leaf: Node) -> bool:
        known = leaf.leaf
        if known is None:
            return False
        owner = known.owner
        copied = any(network.copied_from is not None for network in owner.chain()) if owner is not None else False
        return bool(self.originals(leaf)) or known.copied_from is not None or copied

    def began_as(self, leaf: Node) -> bool:
        """A copy that is left alone where another copy of the same original has its update: no target and, in training
        mode, no reference either, but a network of its own that began with these weights.
        """
        if leaf in self.lagging or leaf in self.evaluated or any(self.named(leaf, role) for role in KEPT):
            return False
        mine = self.originals(leaf)
        return any(mine & self.originals(other) for other in self.lagging)

    def named(self, leaf: Node, role: str) -> bool:
        """Does the name of the leaf or of a network that owns it suggest the role?"""
        pattern = names("networks", role)
        known = leaf.leaf
        if known is None:
            return False
        words = [known.name]
        if known.owner is not None:
            words += [network.name for network in known.owner.chain()]
        return any(pattern.search(part.lower()) for word in words for part in word.split(".") if part)

    def target(self, leaf: Node) -> bool:
        """A copy of a trained network that nobody steps: a target, lagged or averaged network."""
        if leaf in self.held or self.stated(leaf) == "trained":
            return False
        return self.stated(leaf) == "frozen" or self.is_copy(leaf) or self.named(leaf, "target")

    def follows(self, leaf: Node) -> bool:
        """A copy that is updated from its original again and again, whoever holds it: it learns from no loss."""
        return leaf in self.updated and bool(self.originals(leaf))

    def stated(self, leaf: Node) -> str:
        """The role that the user gave: "frozen", "trained" or ""."""
        return self.tape.roles.get(leaf, "")


def _differentiated_again(tape: Tape) -> set[Node]:
    """Values whose gradient is part of another loss (a gradient penalty): nobody takes a step with it."""
    return {edge.source for node in tape.nodes if node.op == "gradient" for edge in node.inputs if edge.passes}


def _evaluated(tape: Tape) -> set[Node]:
    modes: dict[Node, list[tuple[int, str]]] = {}
    for event in tape.events:
        if event.kind in ("train", "eval"):
            for leaf in event.leaves:
                modes.setdefault(leaf, []).append((event.time, event.kind))
    times = [sink.time for sink in tape.sinks]
    return {leaf for leaf, known in modes.items() if _modes_at(known, times) == {"eval"}}


def _modes_at(known: list[tuple[int, str]], times: list[int]) -> set[str]:
    """The modes at these times, from the first that is known on."""
    first = min(time for time, _ in known)
    return {max(each for each in known if each[0] < time)[1] for time in times if time > first}


def roles(analysis: Analysis) -> Roles:
    known = analysis.cache.get("roles")
    if not isinstance(known, Roles):
        known = analysis.cache["roles"] = Roles(analysis.tape)
    return known


def parameters(analysis: Analysis) -> int:
    """All parameters of a tape: what is no argument."""
    known = analysis.cache.get("parameters")
    if not isinstance(known, int):
        leaves = (leaf for leaf in analysis.graph.leaves if leaf.leaf is not None and leaf.leaf.kind == "param")
        known = analysis.cache["parameters"] = analysis.mask(leaves)
    return known


def is_made_here(leaf: Node) -> bool:
    """Not a network from outside, of which one leaf stands for all that it may be."""
    known = leaf.leaf
    if known is None or known.kind != "param":
        return True
    return known.owner is not None and bool(known.owner.class_name)


def related(analysis: Analysis, one: int, other: int) -> bool:
    """Do two sets of leaves share one, or is one of them a copy of another?"""
    if one & other:
        return True
    facts = roles(analysis)
    first, second = analysis.leaves(one), analysis.leaves(other)
    left = analysis.mask(source for leaf in first for source in facts.originals(leaf))
    right = analysis.mask(source for leaf in second for source in facts.originals(leaf))
    if left & other or right & one or left & right or builders(first) & builders(second):
        return True
    return any(_copied(leaf, second) for leaf in first) or any(_copied(leaf, first) for leaf in second)


READY_MADE = frozenset({"", "Module", "Sequential", "ModuleList", "ModuleDict", "Linear", "MLP"})


def builders(leaves: list[Node]) -> set[str]:
    """The classes, of the user's own, that these parameters belong to."""
    found: set[str] = set()
    for leaf in leaves:
        if leaf.leaf is not None and leaf.leaf.owner is not None:
            found.update(network.class_name for network in leaf.leaf.owner.chain())
    return found - READY_MADE


def _copied(leaf: Node, others: list[Node]) -> bool:
    if leaf.leaf is None or leaf.leaf.owner is None:
        return False
    sources = {network.copied_from for network in leaf.leaf.owner.chain()} - {None}
    if not sources:
        return False
    return any(
        network in sources
        for other in others
        if other.leaf is not None and other.leaf.owner is not None
        for network in other.leaf.owner.chain()
    )
