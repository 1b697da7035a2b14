"""JAX: trees of parameters that a loss reads as constants, beside the arguments that it is differentiated by.

To a loss they are data. What a network computes of them is a network's value all the same, and the tree that was passed
for an argument holds the very parameters that the loss trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.marks import Marks
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import PARAMETER, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View
    from gradaudit.rules.criteria.expand import Sum


def passed(view: View, arguments: int) -> int:
    """The trees that were passed for these arguments."""
    versions, analysis = roles(view.analysis).versions, view.analysis
    return analysis.mask(versions[leaf] for leaf in analysis.leaves(arguments) if leaf in versions) if versions else 0


Place = tuple[Node, str]
"""A tree, and which of its entries."""


def place_in_tree(tree: Node, leaf: Node) -> Place:
    """The argument's own name in front is left out."""
    known = leaf.leaf
    return tree, known.path.partition(".")[2] if known is not None and known.owner is None else ""


def places(analysis: Analysis, leaves: int) -> Iterator[tuple[Node, Place]]:
    """Where in which tree these leaves are; in torch each is one wherever it is met."""
    versions = roles(analysis).versions
    for leaf in analysis.leaves(leaves):
        if leaf in versions:
            yield leaf, place_in_tree(versions[leaf], leaf)
        elif analysis.tape.framework == "torch":
            yield leaf, (leaf, "")


def place_of(analysis: Analysis, leaf: Node) -> Place:
    """Which parameter a leaf is, whichever loss it is differentiated for, layers inside of an applied network told
    apart; itself, where no tree is differentiated."""
    tree, known = roles(analysis).versions.get(leaf), leaf.leaf
    if tree is None or known is None:
        return leaf, ""
    return tree, known.path.partition(".")[2] if known.kind == "arg" else ""


def places_of(analysis: Analysis, leaves: int) -> set[Place]:
    """The places of these leaves."""
    return {place_of(analysis, leaf) for leaf in analysis.leaves(leaves)}


def marks_of_trees(analysis: Analysis) -> Marks:
    """What values are made of, where all trees that are trained or follow another one are networks."""
    known = analysis.cache.get("marks of trees")
    if not isinstance(known, Marks):
        facts = roles(analysis)
        followers = [leaf for pair in facts.sources.items() for leaf in (pair[0], *pair[1])]
        applied = {edge.source for node in analysis.graph.nodes for edge in node.inputs if edge.kind == PARAMETER}
        trees = frozenset((*facts.versions.values(), *followers, *applied))
        known = analysis.cache["marks of trees"] = Marks(analysis, trees)
    return known


def backs_up(total: Sum, against: Sum) -> bool:
    """Data and a network's value times a factor, of one sign, and no data beside the prediction."""
    rewards = {atom.sign for atom in total.raw()}
    return not against.raw() and any(atom.factor and atom.sign in rewards for atom in total.network())
