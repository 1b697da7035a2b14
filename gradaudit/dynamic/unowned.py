"""What a loss alone shows where nobody has said who steps what: five objectives that name their culprit themselves.

Each of them has no bound if both of its sides are trained, so nobody trains both (or, of a draw or
a constant, only the rater):

    sum(probabilities * (.. - q))     the policy's probabilities weigh values that the same loss pushes up
    alpha * log_prob - ...            a temperature that the loss only ever multiplies with a live log-probability
    -q(state, draw).mean()            a value of a draw by `sample()` is pushed up, and its maker gets no gradient
    (draw - data)**2                  a draw by `sample()` is regressed on data, and its maker gets no gradient
    -q(state, stop(pi(state)))        a value of a constant is pushed up, and the network that made it gets no gradient

Where roles or optimizers are known, the rules themselves speak (GA204, GA203, GA205, GA401).
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.dynamic.by_rules import find_cut
from gradaudit.dynamic.judgement import Case, Judgement, finding, names, trace
from gradaudit.dynamic.roles import TRAINED
from gradaudit.rules.criteria.expand import Atom, expand
from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.place import place
from gradaudit.rules.criteria.product import has_constant, multiplier_of
from gradaudit.rules.criteria.reparameterised import DISCRETE, compared_with_data
from gradaudit.rules.criteria.score import is_log_probability
from gradaudit.tape import DATA, Location, Node

SUMS = frozenset("add sub neg mean sum mul div reshape cast stack getitem cat phi".split())
"""What an objective is made of: behind a product no square, no comparison, no exponent."""

CONSTANT = frozenset(("stop", "compare", "argmax"))


def unowned(case: Case) -> Iterator[Judgement]:
    """Judgements of a loss whose owners are not known."""
    yield from _dead_draws(case)  # no rule sees through a draw of a run: all that is made of it is constant
    if _is_owned(case) and case.view.sink.kind == "backward":
        yield from _expected_values(case, case.view.own)  # one step for the policy and what it is rated by
        return  # of what jax.grad differentiates nobody has said what it is
    yield from _expected_values(case)
    yield from _temperatures(case)
    yield from _dead_actions(case)


def _is_owned(case: Case) -> bool:
    """Whether a step was seen or the user says what is trained; what is only concluded from the loss proves nothing."""
    tape = case.recording.tape
    stepped = any(event.kind == "step" for event in tape.events) or TRAINED in tape.roles.values()
    return stepped and case.view.own is not None


def _expected_values(case: Case, stepped: int | None = None) -> Iterator[Judgement]:
    """`stepped`: what this loss is known to train; what another optimizer holds is a matter of the rules."""
    for node in case.view.slice:
        for weights, values in _pairs(case, node):
            policy = case.view.live(weights)
            if not _is_probability(weights) or not _is_objective(case, node):
                continue
            behind = _behind(values)
            pushed = [one for one in _pushed_up(case, node, values) if one.node in behind]
            valued = [one for one in pushed if _beside(case, one.node, policy)]
            if not valued:
                continue
            leaves = 0
            for one in valued:
                leaves |= case.view.live(one.node)
            if stepped is not None and (leaves | policy) & ~stepped:
                continue
            whole = leaves == case.view.live(values)
            alone = (one for one in case.view.dominators(values, leaves) if not case.view.live(one) & ~leaves)
            operand = next(alone, valued[0].node)  # of several critics' values the least, or their mean
            where = place(case.view, node if whole else _user(case, operand, behind), operand, leaves)
            yield _judged(
                case,
                "GA204",
                f"gradient of the policy's loss reaches {_who(case, leaves)}, by which the policy is only rated",
                where,
                leaves,
                operand,
                "warning" if stepped is None else "error",
            )


def _temperatures(case: Case) -> Iterator[Judgement]:
    products = [node for node in case.view.slice if node.op == "mul"]
    for node in products:
        for factor, term in _pairs(case, node):
            leaf = multiplier_of(case.view, factor)
            if leaf is None or has_constant(case.view, term) or not is_log_probability(term):
                continue
            if not _is_objective(case, node):
                continue
            leaves = case.analysis.bit(leaf)
            if any(_weighs_constant(case, other, leaves) for other in products):
                continue
            yield _judged(
                case,
                "GA203",
                f"{_who(case, leaves)} gets gradient from the loss that it only weighs",
                place(case.view, node, factor, leaves),
                leaves,
                factor,
            )


def _dead_draws(case: Case) -> Iterator[Judgement]:
    live = case.view.live(case.view.sink.loss)
    for node in case.analysis.graph.nodes:
        if node.op != "sample" or not node.inputs or not node.grad_mode:
            continue
        leaves = 0
        for edge in node.inputs:
            leaves |= case.analysis.alive(edge.source)
        if not leaves & ~live or any(word in node.detail.lower() for word in DISCRETE):
            continue
        raised = not leaves & live and _only_raised(case, node)
        if raised or _regressed(case, node):
            leaves &= ~live
            how = "raises a value of this draw" if raised else "compares this draw with data"
            found = finding(
                case,
                "GA205",
                "warning",
                f"the loss {how}, and the draw has no gradient: it does not train {_who(case, leaves)}",
                node.location,
                fix="draw with `rsample()`",
            )
            yield Judgement(found, starved=tuple(_groups(case, leaves)), nodes=(node,))


def _dead_actions(case: Case) -> Iterator[Judgement]:
    """A constant that a network made, and another network's value of it that the loss only raises."""
    live = case.view.live(case.view.sink.loss)
    for node in case.analysis.graph.nodes:
        if not _ends(case, node) or case.analysis.alive(node):
            continue
        leaves = case.mask(group for group in case.groups if group.trainable) & case.analysis.dep(node)
        if not leaves or leaves & live or not _only_raised(case, node):
            continue
        found = finding(
            case,
            "GA401",
            "warning",
            f"the loss raises a value of what is stopped here: it does not train {_who(case, leaves)}",
            node.location,
            fix="take the stop away: this objective is maximised through the other network",
        )
        yield Judgement(found, starved=tuple(_groups(case, leaves)), nodes=(node,))


def _ends(case: Case, node: Node) -> bool:
    """Whether gradient ends here, and what is computed from it is computed with gradient."""
    if node.op != "stop" and (node.grad_mode or not node.inputs):
        return False
    graph = case.analysis.graph
    return any(
        graph.nodes[user].grad_mode and graph.nodes[user].op != "stop" for user in graph.users[graph.index[node]]
    )


# -- questions ---------------------------------------------------------------------------------------------------


def _pairs(case: Case, node: Node) -> list[tuple[Node, Node]]:
    """Both operands of a product, either way round, if gradient goes to both."""
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op != "mul" or len(data) != 2 or not all(edge.passes and case.view.live(edge.source) for edge in data):
        return []
    first, second = data[0].source, data[1].source
    return [] if first is second else [(first, second), (second, first)]


def _is_probability(node: Node) -> bool:
    """A softmax, or the exponential of a log-softmax, of all actions (none was chosen)."""
    for _ in range(6):
        if node.op == "softmax":
            return True
        if node.op not in SHAPES | {"exp"} or not node.inputs:
            return node.op == "log_softmax"
        if node.op in ("gather", "getitem") and len(node.inputs) > 1:
            return False
        node = node.inputs[0].source
    return False


def _is_objective(case: Case, node: Node) -> bool:
    """Whether the value is a term of the loss: it reaches it by sums, means and constant factors alone."""
    way = case.view.way_to_loss(node)[1:]
    return all(step.op in SUMS and (step.op not in ("mul", "div") or _one_live(case, step)) for step in way)


def _one_live(case: Case, node: Node) -> bool:
    return sum(bool(edge.passes and case.view.live(edge.source)) for edge in node.inputs) == 1


def _sign(case: Case, node: Node) -> int:
    """The sign with which a term enters the loss."""
    sign = 1
    way = case.view.way_to_loss(node)
    for inner, outer in zip(way, way[1:], strict=False):
        data = [edge.source for edge in outer.inputs if edge.kind == DATA]
        if outer.op == "neg" or (outer.op == "sub" and len(data) > 1 and data[1] is inner and data[0] is not inner):
            sign = -sign
        elif outer.op in ("mul", "div"):
            sign *= _sign_of_constant([one for one in data if one is not inner])
    return sign


def _sign_of_constant(nodes: list[Node]) -> int:
    try:
        return -1 if any(float(node.detail) < 0 for node in nodes if node.op == "const") else 1
    except ValueError:
        return 1


def _pushed_up(case: Case, node: Node, values: Node) -> list[Atom]:
    """The networks' outputs among the summands of a weighted value that minimising the loss makes grow."""
    sign = _sign(case, node)
    return [
        atom
        for atom in expand(case.analysis, values).network()
        if atom.sign * sign < 0 and case.view.reaches(atom.node) and _is_output(atom.node)
    ]


def _is_output(node: Node) -> bool:
    return node.op in ("module_call", "matmul", "call") or node.frame is not None


def _beside(case: Case, node: Node, policy: int) -> bool:
    """Whether the value is another network's, and made of nothing that the policy made."""
    return not case.view.live(node) & policy


def _user(case: Case, node: Node, among: set[Node]) -> Node:
    users = [user for user, _ in case.view.consumers(node) if user in among]
    return users[0] if users else case.view.sink.loss


def _behind(value: Node) -> set[Node]:
    """What gradient of a value reaches."""
    seen, waiting = {value}, [value]
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def _weighs_constant(case: Case, node: Node, leaves: int) -> bool:
    """The multiplier's own loss, where what it weighs is stopped."""
    data = [edge for edge in node.inputs if edge.kind == DATA]
    if len(data) != 2:
        return False
    for factor, term in (data, data[::-1]):
        mine = case.view.live(factor.source) == leaves
        if mine and factor.passes and not (term.passes and case.view.live(term.source)) and term.source.inputs:
            return True
    return False


def _only_raised(case: Case, draw: Node) -> bool:
    """Whether the loss is a network's value of the draw, pushed up, and the network is used for nothing else."""
    view = case.view
    behind = _after(case, draw)
    if any(node.op == "log_prob" for node in behind):
        return False  # a score function's draw
    takers = [node for node in view.slice if any(view.analysis.bit(edge.source) for edge in node.inputs if edge.passes)]
    first = [node for node in view.slice if node in behind]
    if all(
        multiplier_of(view, edge.source) for node in takers for edge in node.inputs if view.analysis.bit(edge.source)
    ):
        return False  # its weight is all that learns
    if not any(map(_is_output, takers)) or not first or not all(node in behind for node in takers):
        return False
    outer = [node for node in first if node.frame is None]
    start = outer[0] if outer else view.sink.loss
    return _is_objective(case, start) and _sign(case, start) < 0


def _regressed(case: Case, draw: Node) -> bool:
    """Whether the draw itself is compared with data, and its log-probability with nothing."""
    behind = _after(case, draw)
    if case.view.sink.loss not in behind or any(node.op == "log_prob" for node in behind):
        return False
    return compared_with_data(case.analysis, behind)


def _after(case: Case, start: Node) -> set[Node]:
    """What is computed from a value with gradient switched on and without a stop."""
    graph = case.analysis.graph
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            if user not in seen and user.grad_mode and user.op not in CONSTANT:
                seen.add(user)
                waiting.append(user)
    return seen


# -- words -------------------------------------------------------------------------------------------------------


def _groups(case: Case, leaves: int) -> list[str]:
    return [group.name for group in case.groups if case.mask([group]) & leaves]


def _who(case: Case, leaves: int) -> str:
    return names(_groups(case, leaves))


def _judged(
    case: Case, code: str, message: str, where: Location, leaves: int, node: Node, level: str = "warning"
) -> Judgement:
    stop = "`jax.lax.stop_gradient(...)`" if case.recording.framework == "jax" else "`.detach()`"
    found = finding(case, code, level, message, where, fix=f"stop it: {stop}", trace=trace(case, node, leaves))
    cut = find_cut(case, found, leaves)
    masks = {group.name: case.mask([group]) for group in case.groups} if cut is not None else {}
    leaks = [name for name, mask in masks.items() if mask and not mask & ~leaves]
    return Judgement(found, cut, tuple(leaks), nodes=(node,))
