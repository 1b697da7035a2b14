"""Small questions about values on a recorded tape: raw inputs, discrepancies, and which rule a leak belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gradaudit.dynamic.cuts import Spot
from gradaudit.dynamic.judgement import Case
from gradaudit.dynamic.recording import NONE, Group
from gradaudit.tape import DATA, INDEX, PARAMETER, Node

LOSSES = frozenset(
    "mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss kl_div cosine_similarity"
    " binary_cross_entropy".split()
)
SQUARING = frozenset(("square", "abs", "norm", "var", "std"))
TRANSPARENT = frozenset("reshape getitem cast stack cat normalize clamp where phi call gather store".split())
"""Operations that hand a value on, changed but recognisable."""

ADDITIVE = frozenset("add sub neg reshape getitem cast stack cat where clamp minimum maximum min max store phi".split())
PROBABLE = frozenset("softmax log_softmax logsumexp cross_entropy kl_div".split())
_OLD = ("old", "ref", "behav", "prior", "anchor", "sft")
_TEACHER = ("teacher",)
_AVERAGE = ("ema", "momentum", "target", "slow", "key", "avg", "average", "shadow")


def raw_inputs(node: Node, within: Callable[[Node], bool] | None = None) -> set[Node]:
    """Batch inputs that are added into a value without passing a layer: a reward, a return, an observation."""
    found: set[Node] = set()
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        if one.leaf is not None:
            if one.leaf.kind == "input":
                found.add(one)
            continue
        for source in _summands(one):
            if source not in seen and (within is None or within(source)):
                seen.add(source)
                waiting.append(source)
    return found


def _summands(node: Node) -> Iterable[Node]:
    if any(edge.kind == PARAMETER for edge in node.inputs):
        return ()
    if node.op in ("mul", "div"):
        factors = [edge.source for edge in node.inputs]
        plain = [one for one in factors if not is_constant(one)]
        return plain if len(plain) == 1 else ()
    if node.op in ADDITIVE or node.op == "stop":
        return [edge.source for edge in node.inputs if edge.kind != INDEX]
    return ()


def is_constant(node: Node) -> bool:
    return node.op in ("const", "alloc") or (node.leaf is not None and node.leaf.kind == "const")


def uses(case: Case, node: Node) -> list[Node]:
    """Who takes the value with gradient, seen through what only hands it on."""
    found: list[Node] = []
    seen, waiting = {node}, [node]
    while waiting:
        for user, _ in case.view.consumers(waiting.pop()):
            if user in seen:
                continue
            seen.add(user)
            if user.op in TRANSPARENT:
                waiting.append(user)
            else:
                found.append(user)
    return found


def is_discrepancy(case: Case, node: Node) -> bool:
    """A loss of two operands, or a difference that is squared."""
    if node.op in LOSSES:
        return True
    return node.op == "sub" and any(squares(user) for user in uses(case, node))


def squares(user: Node) -> bool:
    if user.op in SQUARING or user.op in LOSSES:
        return True
    if user.op == "pow":
        exponents = [edge.source.detail for edge in user.inputs if edge.source.op == "const"]
        return bool(exponents) and exponents[-1] in ("2", "2.0", "4", "4.0") or user.detail in ("2", "2.0")
    sources = [edge.source for edge in user.inputs if edge.kind == DATA]
    return user.op == "mul" and len(sources) == 2 and sources[0] is sources[1]


def leak_code(case: Case, spot: Spot, groups: list[Group]) -> str:
    """Which rule speaks of a leak into groups that must not learn from this loss."""
    meets = _meetings(case, spot)
    if _scalars(groups) or _scalars([group for group in case.groups if group.stated and group not in groups]):
        return "GA102" if any(raw_inputs(node) for node in spot.nodes) else "GA203"
    if any(_weighs_score(case, meet, spot) for meet in meets):
        return "GA105"
    if any(raw_inputs(node) for node in spot.nodes):
        return "GA102"
    if any(_in_ratio(case, meet) for meet in meets):
        return "GA201"
    words = " ".join(group.name.lower() for group in groups)
    if any(word in words for word in _OLD) and _past(spot.nodes, "log_prob", "log_softmax", "gather"):
        return "GA201"
    if any(word in words for word in _TEACHER):
        return "GA302"
    if not any(_between_outputs(case, meet) for meet in meets):
        return "GA102"
    if any(word in words for word in _AVERAGE):
        return "GA102" if all(_is_value(case, node) for node in spot.nodes) else "GA301"
    probable = any(meet.op in PROBABLE for meet in meets) or _past(spot.nodes, "softmax", "log_softmax")
    if probable:
        return "GA302"
    if all(map(_is_copy, groups)) and all(_is_value(case, node) for node in spot.nodes):
        return "GA102"
    return "GA301" if has_twin(case, groups) else "GA302"


def _is_copy(group: Group) -> bool:
    """Whether its networks were made as copies: of a value that is regressed on, a target network and no teacher."""
    owners = {leaf.leaf.owner for leaf in group.leaves if leaf.leaf is not None}
    chains = [owner.chain() if owner is not None else () for owner in owners]
    return bool(chains) and all(any(one.copied_from is not None for one in chain) for chain in chains)


def _is_value(case: Case, node: Node) -> bool:
    """One number for each row, as values are: no features that two branches of one loss could be compared by."""
    shape = case.recording.shapes.get(node)
    return shape is not None and (len(shape) <= 1 or shape[-1] == 1)


def _scalars(groups: list[Group]) -> bool:
    """Only single numbers that are no network's: a temperature, a multiplier."""
    leaves = [leaf.leaf for group in groups for leaf in group.leaves]
    alone = {group.name for group in groups if group.tensors == 1}
    return bool(leaves) and all(
        leaf is not None and leaf.scalar and (leaf.owner is None or group.name in alone)
        for group in groups
        for leaf in (node.leaf for node in group.leaves)
    )


def _weighs_score(case: Case, meet: Node, spot: Spot) -> bool:
    """A product with a log-probability that something else makes."""
    if meet.op != "mul":
        return False
    inside = {node for node in spot.nodes}
    sides = [edge.source for edge in meet.inputs if edge.kind == DATA]
    scores = [side for side in sides if side not in inside and _past([side], "log_prob")]
    return len(sides) == 2 and len(scores) == 1


def _meetings(case: Case, spot: Spot) -> list[Node]:
    """The first operations after the spot that trained values enter as well."""
    live = 0
    for node in spot.nodes:
        live |= case.view.live(node)
    found: list[Node] = []
    seen = set(spot.nodes)
    waiting = list(spot.nodes)
    while waiting:
        for user, _ in case.view.consumers(waiting.pop()):
            if user in seen:
                continue
            seen.add(user)
            if case.view.live(user) & ~live:
                found.append(user)
            else:
                waiting.append(user)
    return found


def _in_ratio(case: Case, meet: Node) -> bool:
    return meet.op == "sub" and any(user.op == "exp" for user in uses(case, meet))


def _between_outputs(case: Case, meet: Node) -> bool:
    """A discrepancy, dot product or the like between what two networks give, without raw inputs on either side."""
    if meet.op in LOSSES or meet.op in ("matmul", "mul", "einsum") or is_discrepancy(case, meet):
        sides = [edge.source for edge in meet.inputs if edge.kind == DATA]
        return len(sides) > 1 and not any(raw_inputs(side) for side in sides)
    return False


def _past(nodes: Iterable[Node], *ops: str) -> bool:
    """Whether one of these operations is among the last few that made the values."""
    waiting = [(node, 0) for node in nodes]
    while waiting:
        node, depth = waiting.pop()
        if node.op in ops:
            return True
        if depth < 4 and not any(edge.kind == PARAMETER for edge in node.inputs):
            waiting += [(edge.source, depth + 1) for edge in node.inputs if edge.kind == DATA]
    return False


def has_twin(case: Case, groups: list[Group]) -> bool:
    """A trained group with tensors of the same shapes: the frozen one is its copy."""
    shapes = case.recording.shapes
    rest = [group for group in case.groups if group not in groups and group.state != NONE]
    forms = [sorted(shapes.get(leaf, ()) for leaf in group.leaves) for group in rest]
    return any(sorted(shapes.get(leaf, ()) for leaf in group.leaves) in forms for group in groups)
