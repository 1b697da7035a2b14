"""A reference that moves: it is computed with parameters that the loss trains.

An adapter's policy is compared with the model that it is added to. What that model says is stopped, and still follows
every step if the policy's own side trains the model along with the adapter. Told where all that the reference is made
of is trained by the other side, which has more: with nothing more, the two are one policy at two times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.expand import WRITES
from gradaudit.rules.criteria.foreign import flows_of
from gradaudit.rules.criteria.place import seen_from
from gradaudit.rules.criteria.reference import scores_actions
from gradaudit.rules.criteria.roles import roles
from gradaudit.tape import DATA, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST = 200


class Moved(NamedTuple):
    """The policy's side of a difference trains `leaves`, of which the reference on the other side is made."""

    view: View
    node: Node
    leaves: int
    joint: Node
    location: Location


def moving_references(analysis: Analysis) -> Iterator[Moved]:
    """Where what a stopped reference is made of joins the adapter, once for a set of parameters."""
    told: set[tuple[str, ...]] = set()
    for view in analysis.views if "sub" in analysis.graph.ops else ():
        if view.own is None or view.sink.kind == "library":
            continue
        for node, leaves, others in _moved(view):
            names = tuple(leaf.leaf.path for leaf in analysis.leaves(leaves) if leaf.leaf is not None)
            joints = sorted((flow.joint for flow in flows_of(view, leaves, others)), key=lambda joint: joint.time)
            if joints and names not in told:
                told.add(names)
                yield Moved(view, node, leaves, joints[0], seen_from(joints[0], node))


def _moved(view: View) -> Iterator[tuple[Node, int, int]]:
    """Differences with the leaves of a reference that the policy's side trains, and what it trains beside them."""
    analysis = view.analysis
    trained = analysis.mask(leaf for leaf in analysis.graph.leaves if leaf.leaf and leaf.leaf.kind in ("param", "arg"))
    for node in view.slice:
        sides = node.arguments()
        if node.op != "sub" or len(sides) != 2:
            continue
        for policy, reference in (sides, sides[::-1]):
            fixed, live = analysis.dep(reference) & trained, view.live(policy)
            if not fixed or view.live(reference) or fixed & ~(live & (view.own or 0)) or not live & ~fixed:
                continue
            known = not _is_updated(view, fixed) and not _is_recorded(reference)
            if known and scores_actions(policy) and scores_actions(reference):
                yield node, fixed, live & ~fixed


def _is_updated(view: View, leaves: int) -> bool:
    """Is it a copy that an update brings up to date now and then?"""
    facts = roles(view.analysis)
    return any(leaf in facts.updated for leaf in view.analysis.leaves(leaves))


def _is_recorded(reference: Node) -> bool:
    """Does it come out of storage? That is what the policy itself said in a rollout, as far as it was followed."""
    seen, waiting = {reference}, [reference]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node.op in WRITES:
            return True
        fresh = [edge.source for edge in node.inputs if edge.kind == DATA and edge.source not in seen]
        seen.update(fresh)
        waiting += fresh
    return False
