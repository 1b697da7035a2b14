"""Out of a network's own methods: a stop belongs where a network is used, not in the network."""

from __future__ import annotations

from gradaudit.dynamic.by_rules import OPERAND_CODES, roots_of
from gradaudit.dynamic.judgement import Case, Judgement
from gradaudit.dynamic.shapes import raw_inputs
from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.place import activations
from gradaudit.rules.criteria.stale import stale_values
from gradaudit.tape import DATA, Call, Location, Node

APPLIED = ("forward", "__call__")
WEIGHTS = frozenset(("GA105", "GA202"))
"""Rules of a factor: where it meets what it weighs is no network's own text."""
DRAWS = frozenset(("rsample", "sample", "random"))


def outside(case: Case, judgement: Judgement) -> Location:
    """The judgement's place, or the place from which the network is called that it lies in.

    A method that forms more than the network's output is no part of the network: one in which values of others meet
    it, in which it is compared with something, or in which a reward is added.
    """
    place = judgement.finding.location
    node = next((one for one in judgement.nodes if _index(one, place) is not None), None)
    if node is None or judgement.cut is None or raw_inputs(node):
        return place
    if judgement.finding.code in OPERAND_CODES and place not in {one.location for one in stale_values(case.analysis)}:
        return place
    leaves = roots_of(case, judgement.finding) if not judgement.leaks else _leaves(case, judgement)
    steps = activations(node.call)
    meetings = {case.view.sink.loss, *(meeting.node for meeting in discrepancies(case.view))}
    if judgement.finding.code in WEIGHTS:
        meetings |= _weighed(case, node)
    home = {step for meeting in meetings for step in activations(meeting.call)}
    for step in steps[_index(node, place) or 0 :]:
        if step in home or _others_meet(case, step, leaves):
            break
        if not _is_networks(case, step, place, node, leaves) and not _draws(case, judgement, step):
            break
        place = step.location
    return place


def _weighed(case: Case, weight: Node) -> set[Node]:
    """The products after the weight of which both factors carry gradient: it and the score that it is for."""
    found: set[Node] = set()
    seen, waiting = {weight}, [weight]
    while waiting:
        for user, _ in case.view.consumers(waiting.pop()):
            if user in seen:
                continue
            seen.add(user)
            waiting.append(user)
            live = [edge for edge in user.inputs if edge.kind == DATA and edge.passes and case.view.live(edge.source)]
            if user.op == "mul" and len(live) > 1:
                found.add(user)
    return found


def _draws(case: Case, judgement: Judgement, call: Call) -> bool:
    """Whether what leaks is what this function gives with a draw of its own: the policy's loss calls it, too."""
    if judgement.finding.code not in ("GA102", "GA203", "GA204"):
        return False
    return any(one.op in DRAWS and call in activations(one.call) for one in case.analysis.graph.nodes)


def _leaves(case: Case, judgement: Judgement) -> int:
    return case.mask(group for group in case.groups if group.name in judgement.leaks)


def _index(node: Node, place: Location) -> int | None:
    """How many calls out from the node the place lies."""
    lines = [node.location, *(call.location for call in activations(node.call))]
    return lines.index(place) if place in lines else None


def _is_networks(case: Case, call: Call, place: Location, node: Node, leaves: int) -> bool:
    """Whether the function is a method of a network with these leaves, or applies their arrays in its own text."""
    if call.function in APPLIED:
        return True
    kind = place.function.rpartition(".")[0].rpartition(".")[2]
    if kind and kind in _classes(case, leaves):
        return True
    return any(one.call is call and one in case.recording.applied for one in case.view.slice)


def _classes(case: Case, leaves: int) -> set[str]:
    owners = [leaf.leaf.owner for leaf in case.analysis.leaves(leaves) if leaf.leaf is not None]
    return {network.class_name for owner in owners if owner is not None for network in owner.chain()} - {""}


def _others_meet(case: Case, call: Call, leaves: int) -> bool:
    inside = (one for one in case.view.slice if call in activations(one.call))
    return any(case.view.live(one) & ~leaves for one in inside)
