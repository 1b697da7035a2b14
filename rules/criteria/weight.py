"""K7: a coefficient of an objective that carries gradient.

A *weight* multiplies a score (a log-probability, a ratio, a probability of the policy that is trained) and speaks of
how good an action was: an advantage, an exponentiated one, a likelihood ratio beside another log-probability. The other
kind, norms and balances, is in scale.py.

Not weights: what is a function of the very distribution that is scored (p * log p, KL, entropies), mixture gates and
attention (nothing says that they rate actions), and the ratio of a surrogate objective itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import discrepancies, meetings_at
from gradaudit.rules.criteria.expand import constant, expand
from gradaudit.rules.criteria.marks import SHAPES, behind, marks
from gradaudit.rules.criteria.rated import is_residual, rates_action
from gradaudit.rules.criteria.reweighting import is_dual_weight, own_shift, own_temperature, reciprocal_weight
from gradaudit.rules.criteria.roles import parameters
from gradaudit.rules.criteria.scale import (
    ADVANTAGE,
    IMPORTANCE,
    NORM,
    PEELED,
    Weight,
    is_reduced_term,
    is_scaled,
    norms,
)
from gradaudit.rules.criteria.score import LOG_PROBABILITIES, NAMED, is_log_probability, is_score
from gradaudit.rules.criteria.severity import decided
from gradaudit.rules.criteria.signs import signs
from gradaudit.tape import DATA, Edge, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

EXPONENTIAL = frozenset({"exp", "softmax"})
RATES = re.compile(r"(^|_)(adv|advs|advantages?|gae|td|deltas?|q|qs|values?|v|returns?|regrets?|baseline)($|_)|q_?val")
CALLED = re.compile(r"(^|_)(adv|advs|advantages?|gae)($|_)")
ERRORS = frozenset({
    "td_learning", "td_lambda", "vtrace_td_error_and_advantage", "leaky_vtrace_td_error_and_advantage",
    "truncated_generalized_advantage_estimation",
})  # fmt: skip
"""Library functions that give the temporal-difference errors of a value network."""
MOST_SHIFTS = 40
ERROR_SIZES = frozenset({"square", "pow", "abs", "huber", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})


def live_weights(analysis: Analysis) -> list[Weight]:
    """Every live weight and norm of a tape."""
    known = analysis.cache.get("weights")
    if not isinstance(known, list):
        known = analysis.cache["weights"] = [found for view in analysis.views for found in _in_view(view)]
    return known


def _in_view(view: View) -> Iterator[Weight]:
    home = view.sink.loss.frame
    for node in view.slice:
        if node.op == "exp" and (shift := own_shift(view, node)) is not None:
            yield Weight(view, node, shift, node, NORM, view.live(shift))
        if node.op not in ("mul", "div", "matmul", "einsum", "dot") or node.frame not in (None, home):
            continue
        edges = [edge for edge in node.inputs if edge.kind == DATA]
        if len(edges) != 2 or not all(edge.passes and view.live(edge.source) for edge in edges):
            continue
        yield from norms(view, node, edges)
        if node.op != "div":
            yield from _weights(view, node, edges)
            yield from _reciprocals(view, node, edges)
        elif (mean := own_temperature(view, node)) is not None:
            yield Weight(view, node, mean, edges[0].source, NORM, view.live(mean))


def _reciprocals(view: View, node: Node, edges: list[Edge]) -> Iterator[Weight]:
    found = reciprocal_weight(view, edges)
    if found is not None:
        weight, score = found
        yield Weight(view, node, weight, score, IMPORTANCE, view.live(weight))


def _weights(view: View, node: Node, edges: list[Edge]) -> Iterator[Weight]:
    for score, weight in (edges, edges[::-1]):
        found = _weighs(view, node, score.source, weight.source)
        if found is None or (view.sink.kind == "library" and decided(view, weight.source, found.leaves)):
            continue
        if view.sink.kind == "library" and found.kind != IMPORTANCE and not weighs_by_residual(found):
            continue  # a finished weight is the caller's, and so is what a switch leaves open
        if not found.leaves & parameters(view.analysis) and _is_left_to_callers(view, weight.source):
            continue
        yield found
        return


def _is_left_to_callers(view: View, weight: Node) -> bool:
    """Of arguments, the project's own calls tell; but what has its own dual here is trained by that, whoever calls."""
    return view.sink.called and not is_dual_weight(view, weight)


def _weighs(view: View, node: Node, score: Node, weight: Node) -> Weight | None:
    live = _live_factor(view, weight)
    if _is_ratio(view, live):
        own = _is_exponential_of(view, weight, score) or _is_sampled_entropy(view, node, weight, score)
        if _is_bare(view, score) and not own or is_error(view, score):
            return Weight(view, node, weight, score, IMPORTANCE, view.live(weight))
        return None
    if is_likelihood(view, live):
        return (
            Weight(view, node, weight, score, IMPORTANCE, view.live(weight)) if _is_gap(view, weight, score) else None
        )
    if _is_shifted(weight) and not is_likelihood(view, score):
        return None
    kind = IMPORTANCE if is_dual_weight(view, weight) else rating(view, weight)
    if not kind and view.sink.kind != "library" and is_likelihood(view, score):
        kind = _rating_by_structure(view, score, weight)
    regression = kind == IMPORTANCE and view.sink.kind != "library" and is_reduced_term(view, node, score)
    if not kind or not (is_likelihood(view, score) or regression):
        return None
    leaves = _beside(view, score, weight)
    if not leaves or not view.live(score) & ~leaves and not is_likelihood(view, score):
        return None
    return Weight(view, node, weight, score, kind, leaves)


def _live_factor(view: View, weight: Node) -> Node:
    """What a weight is without its constant factors: a clipped ratio that is stopped, in a corrected advantage."""
    while weight.op == "mul" and sum(bool(view.live(source)) for source in weight.arguments()) == 1:
        weight = _main(view, weight)
    return weight


def is_error(view: View, score: Node) -> bool:
    """A squared error that learns: whose data it is reckoned on is not for it to change."""
    node = behind(score, SHAPES | {"mean", "sum"})
    meetings = meetings_at(view.analysis, node) if node.op in ERROR_SIZES else []
    return any(len(meeting.sides) == 2 and view.reaches(meeting.node) for meeting in meetings)


def _rating_by_structure(view: View, score: Node, weight: Node) -> str:
    """The same by what a network is given, where neither rewards nor names tell."""
    if not rates_action(view, score, weight, _cores(score)):
        return ""
    node = weight
    for _ in range(12):
        if node.op in EXPONENTIAL:
            return IMPORTANCE
        if node.op not in PEELED or not node.inputs:
            break
        node = _main(view, node)
    return ADVANTAGE


def _is_gap(view: View, weight: Node, score: Node) -> bool:
    """`(log p - log q) * log p`: how far off the very log-probability is that it weighs: a distillation's reward."""
    form = view.analysis.algebra.lin(weight)
    parts = {term.vn for term in view.analysis.algebra.lin(score).terms}
    return len(form.terms) > 1 and _is_bare(view, score) and any(term.vn in parts for term in form.terms)


def _is_shifted(node: Node) -> bool:
    """exp(x - max(x)): the numerator of a softmax written out, as in attention; what it weighs are no scores."""
    while node.op in SHAPES and node.inputs:
        node = node.inputs[0].source
    if node.op != "exp" or node.inputs[0].source.op != "sub":
        return False
    shifted, shift = (edge.source for edge in node.inputs[0].source.inputs[:2])
    seen, waiting = {shift}, [shift]
    while waiting and len(seen) < MOST_SHIFTS:
        current = waiting.pop()
        if current.op in ("max", "maximum", "amax") and any(edge.source is shifted for edge in current.inputs):
            return True
        for edge in current.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _is_bare(view: View, node: Node) -> bool:
    """A log-probability and nothing else, but for constants: no sum with anything, no divergence."""
    for _ in range(10):
        if node.op in ("mul", "div") and sum(bool(view.live(source)) for source in node.arguments()) == 1:
            node = _main(view, node)
            continue
        if node.op == "add" and is_scaled(node):  # log(p + epsilon)
            node = _main(view, node)
            continue
        if node.op in LOG_PROBABILITIES or (node.name and NAMED.search(node.name)):
            return True
        if node.op not in SHAPES | {"neg", "clamp", "cat", "stack", "sum", "mean", "log"} or not node.inputs:
            return node.op in ("softmax", "sigmoid")
        node = _main(view, node)
    return False


def is_likelihood(view: View, node: Node) -> bool:
    """A log-probability, by structure or name, or what is one but for its sign."""
    if is_score(node) or is_log_probability(node):
        return True
    for _ in range(8):
        if node.op in ("cross_entropy", "nll_loss"):
            return True
        if node.op not in PEELED | {"sum", "mean"} or not node.inputs:
            return False
        node = _main(view, node)
    return False


def _is_exponential_of(view: View, weight: Node, score: Node) -> bool:
    """exp(x) * x: an entropy or a divergence."""
    for _ in range(8):
        if weight.op == "exp":
            return view.analysis.algebra.same(weight.inputs[0].source, score)
        if weight.op not in PEELED or (weight.op == "div" and _is_quotient(view, weight)) or not weight.inputs:
            return False
        weight = _main(view, weight)
    return False


def _is_sampled_entropy(view: View, node: Node, weight: Node, score: Node) -> bool:
    """`(p / q) * log p` with the sign of a bonus for entropy, of actions that q chose: its gradient is that of p, too.

    With the other sign, or weighed by something else, it is a likelihood whose weight is a constant.
    """
    number = view.analysis.algebra.vn
    own = {number(core) for core in _cores(weight)}
    return not own.isdisjoint(map(number, _cores(score))) and signs(view, node) == {1}


def _is_ratio(view: View, node: Node) -> bool:
    """exp of a difference, one side of which is data or another policy's; or one probability by another."""
    for _ in range(8):
        if node.op == "exp":
            inner = node.inputs[0].source
            differences = [part for part in (inner, *inner.arguments()[:1]) if part.op == "sub"]
            return any(is_log_probability(source) for part in differences for source in part.arguments())
        if node.op == "div" and _is_quotient(view, node):
            return True
        if node.op not in PEELED | {"sub"} or not node.inputs:
            return False
        if node.op == "mul" and not is_scaled(node) and all(view.live(source) for source in node.arguments()):
            return False
        if node.op == "sub" and not is_scaled(node):
            return False
        node = _main(view, node)
    return False


def _is_quotient(view: View, node: Node) -> bool:
    """A probability by another one that is a constant to it (not what normalises it)."""
    over, under = node.inputs[0].source, node.inputs[-1].source
    if view.live(under) or over is under:
        return constant(over) is not None and is_probability(under)
    if not is_probability(over):
        return False
    return not view.analysis.dep(over) & view.analysis.dep(under) & view.live(over) or _is_of_before(over, under)


def _is_of_before(over: Node, under: Node) -> bool:
    """Whether it is divided by what the same network said another time: neither it nor anything made of it."""
    new, old = _probability(over), _probability(under)
    return new is not None and old is not None and new is not old


def is_label(view: View, node: Node) -> bool:
    """A distribution, but for its sign and scale: its product with a log-probability is a cross-entropy."""
    for _ in range(12):
        if node.op in ("softmax", "sigmoid"):
            return True
        if node.op not in PEELED | {"split", "chunk"} or not node.inputs:
            return False
        node = _main(view, node)
    return False


def is_probability(node: Node) -> bool:
    """A softmax or sigmoid output, or the exponential of a log-probability, behind shapes and choices."""
    return _probability(node) is not None


def _probability(node: Node) -> Node | None:
    """The softmax, or the log-probability whose exponential it is."""
    for _ in range(8):
        if node.op in ("softmax", "sigmoid"):
            return node
        if node.op == "exp":
            inner = node.inputs[0].source
            while inner.op in SHAPES and inner.inputs:
                inner = inner.inputs[0].source
            return inner if is_log_probability(inner) else None
        if node.op not in SHAPES | {"clamp", "phi"} or not node.inputs:
            return None
        node = node.inputs[0].source
    return None


def _main(view: View, node: Node) -> Node:
    """The operand that is live, or at least no constant."""
    sources = [source for source in node.arguments() if constant(source) is None]
    live = [source for source in sources if view.live(source)]
    return (live or sources or [node.inputs[0].source])[0]


def _beside(view: View, score: Node, weight: Node) -> int:
    """The leaves that gradient reaches from the weight without passing the distribution that is scored."""
    number = view.analysis.algebra.vn
    blocked = {number(core) for core in _cores(score)}  # the logits may be computed once more for the weight
    area = view.backward(weight)
    seen = {weight}
    waiting = [weight] if number(weight) not in blocked else []
    mask = 0
    while waiting:
        node = waiting.pop()
        mask |= view.analysis.bit(node)
        for edge in node.inputs:
            source = edge.source
            if edge.passes and source in area and source not in seen and number(source) not in blocked:
                seen.add(source)
                waiting.append(source)
    return mask & view.live(weight)


def _cores(score: Node) -> set[Node]:
    """The distribution, the logits, the call behind a score."""
    found: set[Node] = set()
    seen, waiting = {score}, [score]
    while waiting and len(seen) < 80:
        node = waiting.pop()
        if node.op in ("log_softmax", "softmax", "log_prob", "cross_entropy", "nll_loss", "call", "module_call"):
            found.add(node)
            found.update(edge.source for edge in node.inputs if edge.passes and edge.source.leaf is None)
            if node.op == "log_prob" and node.inputs:
                found.update(e.source for e in node.inputs[0].source.inputs if e.passes and e.source.leaf is None)
            continue
        for edge in node.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return found


def rating(view: View, weight: Node) -> str:
    """What the weight says of an action: an advantage, an importance made of one, or nothing."""
    facts = marks(view.analysis)
    exponential = False
    seen, waiting = {weight}, [weight]
    while waiting and len(seen) < 60:
        node = waiting.pop()
        if _rates(view, node, facts.network(node)):
            return IMPORTANCE if exponential else ADVANTAGE
        if node.op in EXPONENTIAL:
            exponential = True
        elif node.op not in PEELED and node.op not in ("add", "sub"):
            continue
        for edge in node.inputs:
            if edge.kind == DATA and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return ""


def _rates(view: View, node: Node, network: bool) -> bool:
    """A value that tells how good an action was: it has a reward in it, is a value network's, or is called one."""
    if node.op in ERRORS:
        return True
    total = expand(view.analysis, node)
    if network and total.raw() and total.network() and marks(view.analysis).reward(total.raw()[0].node):
        return True
    if any(view.analysis.bit(leaf) & values_of(view.analysis) for leaf in _nearest_leaves(node)):
        return True
    if network and view.sink.kind != "library" and is_residual(view, node):
        return True
    return bool(node.name and RATES.search(node.name.lower()))


def says_advantage(weight: Weight) -> bool:
    """Whether the weight is a temporal-difference error that a library made, or is called an advantage."""
    seen, waiting = {weight.weight}, [weight.weight]
    while waiting and len(seen) < 60:
        node = waiting.pop()
        if node.op in ERRORS or (node.op == "call" and node.detail.rsplit(".", 1)[-1] in ERRORS):
            return True
        if node.name and CALLED.search(node.name.lower()):
            return True
        if node.op in PEELED | {"add", "sub", "normalize", "getitem"}:
            for source in node.arguments():
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
    return False


def weighs_by_residual(weight: Weight) -> bool:
    """Whether the weight is, but for shapes, what a prediction is regressed by in the same program."""
    node = weight.weight
    while node.op in SHAPES and node.inputs:
        node = node.inputs[0].source
    if weight.view.sink.kind == "library" and not all(map(weight.view.live, node.arguments())):
        return False  # a return that the caller finished, and values that are constants here
    return is_residual(weight.view, node)


def _nearest_leaves(node: Node) -> list[Node]:
    if node.op != "module_call":
        return []
    return [edge.source for edge in node.inputs if edge.source.leaf is not None]


def values_of(analysis: Analysis) -> int:
    """The leaves of value networks: what is regressed on something with a reward in it."""
    known = analysis.cache.get("value networks")
    if not isinstance(known, int):
        known = analysis.cache["value networks"] = _values_of(analysis)
    return known


def _values_of(analysis: Analysis) -> int:
    mask = 0
    for view in analysis.views:
        for meeting in discrepancies(view):
            if len(meeting.sides) != 2:
                continue
            for prediction, target in (meeting.sides, meeting.sides[::-1]):
                raw = expand(analysis, target.source).raw()
                if raw and prediction.passes and any(marks(analysis).reward(atom.node) for atom in raw):
                    node = prediction.source
                    for _ in range(12):
                        if node.op not in SHAPES or not node.inputs:
                            break
                        node = node.inputs[0].source
                    mask |= analysis.mask(_nearest_leaves(node))
    return mask
