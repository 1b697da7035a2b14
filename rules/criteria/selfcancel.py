"""K4: a value against itself, both sides live. Its gradient cancels, whatever the value is for.

A difference `x - x` (within a longer sum, too), a quotient `x / x`, a divergence between a distribution and itself.
Equality is of values (`Algebra.vn`), so two calls of one network on one input count
and two samples or two dropout masks do not. `x - stop(x)` is none of this: one side is not live.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.byhand import beside_stopped
from gradaudit.rules.criteria.marks import SHAPES, marks
from gradaudit.rules.criteria.place import private
from gradaudit.rules.criteria.sites import stopped_beside
from gradaudit.tape import Edge, Node, join_guards

if TYPE_CHECKING:
    from gradaudit.algebra import Algebra, Linear, Term
    from gradaudit.paths import Analysis, View

DIVERGENCES = frozenset({"kl_divergence", "kl_div", "js_divergence", "cross_entropy_dist"})
DISCREPANCIES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
SQUARES = frozenset({"square", "abs", "huber", "norm", "exp"}) | DISCREPANCIES
THROUGH = frozenset({"reshape", "getitem", "sum", "mean", "clamp", "cast", "neg", "gather", "phi", "stack"})
COMBINES = frozenset({"add", "mul", "div", "minimum", "maximum", "where"})
MOST_PARTS = 8
MOST_BEHIND = 40


class Cancellation(NamedTuple):
    """`first` and `second` are one value; at `node` their gradients cancel. `leaves`: what loses its gradient.

    `kind` is difference, quotient or divergence; `rest` is what is left of the sum and still live.
    `first_side` and `second_side` are the operands of `node` (a distribution's parameters) that contain them.
    """

    view: View
    node: Node
    kind: str
    first: Node
    second: Node
    leaves: int
    rest: int = 0
    first_side: Node | None = None
    second_side: Node | None = None
    surrogate: bool = False
    """Something is left of the sum: an estimator that was to have one value and another gradient."""


def cancellations(analysis: Analysis) -> list[Cancellation]:
    """Every place where a live value meets itself, at the smallest expression that contains both."""
    known = analysis.cache.get("cancellations")
    if not isinstance(known, list):
        known = analysis.cache["cancellations"] = _all(analysis)
    return known


def _all(analysis: Analysis) -> list[Cancellation]:
    found: list[Cancellation] = []
    seen: set[Node] = set()
    for view in analysis.views:
        for node in view.slice:
            if node not in seen:
                here = list(_at(view, node))
                seen.update(entry.node for entry in here)
                found += here
    return found


def _at(view: View, node: Node) -> Iterator[Cancellation]:
    data = [edge for edge in node.inputs if edge.kind == "data"]
    if len(data) != 2:
        if node.op in DIVERGENCES:
            yield from _of_tensors(view, node, data)
        return
    if node.op in ("sub", "add"):
        yield from _difference(view, node)
        if node.op == "sub":
            yield from _in_one_arm(view, node, data[0], data[1])
    elif node.op == "div" and not _beside_its_log(view, node):
        yield from _pair(view, node, "quotient", data[0], data[1])
        yield from _over_itself(view, node, data[0], data[1])
    elif node.op in DIVERGENCES:
        yield from _divergence(view, node, data[0], data[1])


def _pair(view: View, node: Node, kind: str, first: Edge, second: Edge) -> Iterator[Cancellation]:
    if not first.passes or not second.passes or not view.analysis.algebra.same(first.source, second.source):
        return
    leaves = view.live(first.source) & view.live(second.source)
    if leaves and join_guards(first.guard, second.guard) is not None:
        sides = first.source, second.source
        yield Cancellation(view, node, kind, *sides, leaves, 0, *sides)


def _beside_its_log(view: View, ratio: Node) -> bool:
    """`r - 1 - log r` beside a distance: how two scales differ, in the divergence of Gaussians that share one. It has
    its minimum where they do not differ."""
    powers = {ratio}
    for user, _ in view.consumers(ratio):
        if user.op in ("pow", "square") or user.op == "mul" and set(user.arguments()) == {ratio}:
            powers.add(user)
    users = [user for power in powers for user, _ in view.consumers(power) if user not in powers]
    others = [part for user in users if user.op == "add" for part in user.arguments() if part not in powers]
    return any(user.op == "log" for user in users) and any(_is_distance(view, other) for other in others)


def _is_distance(view: View, node: Node) -> bool:
    """A scaled square of a difference that is not one of a value from itself."""
    for _ in range(6):
        if node.op == "sub":
            first, second = node.arguments()[:2]
            return not view.analysis.algebra.same(first, second)
        if node.op not in ("pow", "square", "mul", "div", "sum") or not node.inputs:
            return False
        node = node.inputs[0].source
    return False


def _over_itself(view: View, node: Node, over: Edge, under: Edge) -> Iterator[Cancellation]:
    """`(x + ...) / x` in a divergence by hand: one of its summands is the divisor, but for a factor."""
    divisor = view.analysis.algebra.lin(under.source).terms
    if len(divisor) != 1 or not under.passes:
        return
    for term in view.analysis.algebra.lin(over.source).terms if over.passes else ():
        leaves = view.live(term.node) & view.live(under.source)
        if term.vn == divisor[0].vn and term.passes and leaves and term.node is not over.source:
            if beside_stopped(view, node):
                yield Cancellation(view, node, "quotient", term.node, divisor[0].node, leaves, 0, node, node)
            return


def _difference(view: View, node: Node) -> Iterator[Cancellation]:
    algebra = view.analysis.algebra
    form = algebra.lin(node)
    pairs = [pair for pair in form.cancelled() if _both_live(view, *pair)]
    if not pairs:
        return
    ratio = _is_exponent(view, node, THROUGH | {"add"}) or _is_expected(view, node)
    if _is_itself(node) and not ratio and not beside_stopped(view, node):
        return  # `chunk` and the like give equal parts one node: only a ratio of one value is sure to be a mistake
    forward = form.forward()
    left = [term for term in form.terms if term.vn in forward]
    if not forward and _corrects(view, node):
        return
    if node.op == "add" and not ratio and _is_begun(view, node):
        return  # `mean + (batch_mean - mean) + count / total`: an average that is moved on, wrongly or not
    inner = _told_inside(view, node, left)
    rest = 0
    for term in left:
        if term.passes:
            rest |= view.live(term.node)
    if rest and any(_is_sample(edge.source) for edge in node.inputs):
        return  # a sample against its own mean: mean + noise * scale - mean
    for plus, minus in pairs:
        lost = view.live(plus.node) & ~rest
        if plus.vn in inner or not lost:
            continue
        if left and not algebra.alike(plus.node, minus.node):
            continue  # two terms of one pair that train its two sides: their weights add up to one
        if rest and not _is_replacement(node, form):
            if not any(is_hard(view.analysis, term.node, lost) for term in left):
                continue
        sides = _operand(view, node, plus), _operand(view, node, minus)
        yield Cancellation(view, node, "difference", plus.node, minus.node, lost, rest, *sides, bool(left))


def _is_begun(view: View, node: Node) -> bool:
    """Is it the first part of a longer sum in the text?"""
    here = (node.location.path, node.location.line, node.location.column)
    users = [user for user, _ in view.consumers(node)]
    return len(users) == 1 and users[0].op == "add" and here == (
        users[0].location.path, users[0].location.line, users[0].location.column
    )  # fmt: skip


def _told_inside(view: View, node: Node, left: list[Term]) -> set[int]:
    """What cancels in an operand already. `x - x` alone is told by nobody, but with a stopped value added to it it is
    an estimator that lost a stop."""
    stopped = bool(left) and not any(term.passes and view.live(term.node) for term in left)
    parts = [edge.source for edge in node.inputs if not (stopped and _is_nothing(view, edge.source))]
    return {term.vn for part in parts for pair in view.analysis.algebra.lin(part).cancelled() for term in pair}


def _is_nothing(view: View, node: Node) -> bool:
    """A sum all of whose terms cancel."""
    return node.op in ("sub", "add", "cast") and not view.analysis.algebra.lin(node).forward()


def _corrects(view: View, node: Node) -> bool:
    """Is the difference added to a value without gradient? Then the two are one estimator: `hard + (soft - soft)`."""
    for user, _ in view.consumers(node):
        if user.op == "cast":
            return _corrects(view, user)
        if user.op == "add" and not any(view.live(edge.source) for edge in user.inputs if edge.source is not node):
            return True
    return False


def _is_replacement(node: Node, form: Linear) -> bool:
    """`a + (b - a)`: nobody writes b like that, but whoever wants b's value with a's gradient."""
    return node.op == "add" and len(form.terms) == 3 and all(abs(term.coefficient) == 1.0 for term in form.terms)


def _is_sample(node: Node) -> bool:
    """A sum with a random number in it."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 12:
        current = waiting.pop()
        if current.op == "random":
            return True
        if current.op in THROUGH or current.op in ("mul", "add"):
            for source in current.arguments():
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
    return False


def _is_itself(node: Node) -> bool:
    sources = node.arguments()
    return len(sources) == 2 and sources[0] is sources[1]


def _is_exponent(view: View, node: Node, ways: frozenset[str]) -> bool:
    """Whether the value is exponentiated, by way of these operations: the ratio of two probabilities."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 40:
        current = waiting.pop()
        for user, _ in view.consumers(current):
            if user.op == "exp":
                return True
            if (user.op in ways or _is_multiple(user, current)) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _is_multiple(product: Node, value: Node) -> bool:
    """`2 * x`, where the divergence of two Gaussians is written out."""
    return product.op == "mul" and all(one is value or one.op == "const" for one in product.arguments())


def _is_expected(view: View, node: Node) -> bool:
    """Whether `p - p` is weighed with exp(p): the divergence of a distribution from itself, by hand."""
    (value, *_) = node.arguments()
    products = [user for user, _ in view.consumers(node) if user.op == "mul"]
    weights = [source for user in products for source in user.arguments() if source is not node]
    return any(one.op == "exp" and view.analysis.algebra.same(one.inputs[0].source, value) for one in weights)


def _in_one_arm(view: View, node: Node, first: Edge, second: Edge) -> Iterator[Cancellation]:
    """`exp(x - (x if old is None else old))`: where the arm is taken, the ratio's gradient cancels."""
    algebra = view.analysis.algebra
    for value, join in ((first, second), (second, first)):
        if join.source.op != "phi" or join.source.detail == "loop" or not (value.passes and join.passes):
            continue
        leaves = view.live(value.source)
        arms = [
            arm
            for arm in join.source.inputs
            if arm.passes and view.live(arm.source) & leaves and algebra.same(arm.source, value.source)
        ]
        if arms and len(arms) < len(join.source.inputs) and _is_exponent(view, node, THROUGH | COMBINES):
            sides = (value.source, join.source) if join is second else (join.source, value.source)
            yield Cancellation(view, node, "difference", value.source, arms[0].source, leaves, 0, *sides)
            return


def is_hard(analysis: Analysis, node: Node, leaves: int) -> bool:
    """Whether the value depends on the leaves, choices included, without gradient: a rounded or looked-up version."""
    seen, waiting = {node}, [node]
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return any(leaf in seen for leaf in analysis.leaves(leaves)) and not analysis.alive(node) & leaves


def _both_live(view: View, plus: Term, minus: Term) -> bool:
    if not plus.passes or not minus.passes or join_guards(plus.guard, minus.guard) is None:
        return False
    return bool(view.live(plus.node) & view.live(minus.node))


def _operand(view: View, node: Node, term: Term) -> Node:
    """The operand of a sum or difference that contains the term."""
    for edge in node.inputs:
        sign = -1.0 if node.op == "sub" and edge is node.inputs[-1] else 1.0
        for part in view.analysis.algebra.lin(edge.source).terms:
            if part.vn == term.vn and part.coefficient * sign == term.coefficient and part.passes:
                return edge.source
    return term.node


def measured(view: View, node: Node) -> bool:
    """Whether the value is squared, compared or exponentiated: what it is taken for is its size."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 40:
        for user, _ in view.consumers(waiting.pop()):
            if user.op in SQUARES or (user.op == "pow") or _is_square(user):
                return True
            if (user.op in THROUGH or user.op in ("mul", "div")) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _is_square(node: Node) -> bool:
    sources = node.arguments()
    return node.op == "mul" and len(sources) == 2 and sources[0] is sources[1]


def _divergence(view: View, node: Node, first: Edge, second: Edge) -> Iterator[Cancellation]:
    """KL of a distribution with itself: all parameters equal, and one of them live on both sides."""
    if not first.passes or not second.passes:
        return
    algebra = view.analysis.algebra
    pairs = list(zip(_parameters(first.source), _parameters(second.source), strict=False))
    if not pairs or len(_parameters(first.source)) != len(_parameters(second.source)):
        return
    remade = _made_of(algebra, first.source, second.source) or _made_of(algebra, second.source, first.source)
    if (
        not remade
        and not _is_log_of(algebra, node, first, second)
        and not all(algebra.same(one.source, other.source) for one, other in pairs)
    ):
        return
    for one, other in pairs:
        leaves = view.live(one.source) & view.live(other.source)
        if leaves and one.passes and other.passes:
            yield Cancellation(
                view, node, "divergence", one.source, other.source, leaves, 0, first.source, second.source
            )


def _of_tensors(view: View, node: Node, data: list[Edge]) -> Iterator[Cancellation]:
    """In a run a distribution is the tensors that it is made of: those of the one, then those of the other."""
    half = len(data) // 2
    pairs = list(zip(data[:half], data[half:], strict=False))
    if len(data) % 2 or not all(view.analysis.algebra.same(one.source, other.source) for one, other in pairs):
        return
    for one, other in pairs:
        leaves = view.live(one.source) & view.live(other.source)
        if leaves and one.passes and other.passes:
            yield Cancellation(view, node, "divergence", one.source, other.source, leaves, 0, one.source, other.source)


def _made_of(algebra: Algebra, copy: Node, origin: Node) -> bool:
    """Whether a distribution is made of the attributes of another one, `Normal(now.loc, now.scale)`, or of some and of
    what that is made of itself; under however many wrappers, `Independent(Normal(now.base_dist.loc, scale), 1)`."""
    owners = {origin}
    for _ in range(MOST_PARTS):
        if copy.op != "dist" or origin.op != "dist" or copy.detail != origin.detail:
            return False
        inner, parts = _parameters(copy), _parameters(origin)
        if len(inner) != 1 or len(parts) != 1 or not inner[0].source.op == parts[0].source.op == "dist":
            break
        copy, origin = inner[0].source, parts[0].source
        owners.add(origin)
    attributes = [part.source.detail for part in inner if _is_attribute(part.source, owners)]
    others = [
        edge for edge, own in zip(inner, parts, strict=False)
        if not _is_attribute(edge.source, owners) and not algebra.same(edge.source, own.source)
    ]  # fmt: skip
    return bool(attributes) and len(set(attributes)) == len(attributes) and not others and len(inner) == len(parts)


def _is_attribute(node: Node, owners: set[Node]) -> bool:
    """`now.loc`, or `now.base_dist.loc`."""
    while node.op == "getitem" and node.detail.startswith(".") and node.inputs:
        node = node.inputs[0].source
        if node in owners:
            return True
    return False


def _is_log_of(algebra: Algebra, node: Node, first: Edge, second: Edge) -> bool:
    """`kl_div(log_softmax(x), softmax(x))`, `kl_div(log(p), p)`: one distribution, and its logarithm."""
    log, plain = first.source, second.source
    if node.op != "kl_div" or not log.inputs or (log.op, plain.op) != ("log_softmax", "softmax") and log.op != "log":
        return False
    return algebra.same(log.inputs[0].source, plain if log.op == "log" else plain.inputs[0].source)


def _parameters(node: Node) -> list[Edge]:
    """A distribution's parameters; anything else stands for itself."""
    for _ in range(MOST_PARTS):
        if node.op == "dist":
            return [edge for edge in node.inputs if edge.kind == "data"]
        if node.op != "dist_transform" or not node.inputs:
            break
        node = node.inputs[0].source
    return [Edge(node)]


def older_side(found: Cancellation) -> Node:
    """The side that should have been stopped: what its name calls old, else what was computed first."""
    first, second = found.first_side or found.first, found.second_side or found.second
    if first is second:
        return found.node
    facts = marks(found.view.analysis)
    olds = [side for side in (first, second) if facts.named(side, "old")]
    if len(olds) == 1:
        return olds[0]
    for copy, origin in ((first, second), (second, first)):
        if _made_of(found.view.analysis.algebra, copy, origin):
            return copy
    if found.surrogate:  # the side that holds more than the value itself
        return max((first, second), key=lambda side: len(found.view.analysis.algebra.lin(side).terms))
    bases = [side for side in (first, second) if _is_base(found, side)]
    if len(bases) == 1:
        return bases[0]
    unshared = [side for side in (first, second) if _shares_nothing(found, side)]
    if len(unshared) == 1:
        return unshared[0]
    alone = [side for side in (first, second) if private(found.view, side, {found.node})]
    if len(alone) == 1:  # what the loss uses elsewhere is the policy that it trains
        return alone[0]
    stopped = [side for side in (first, second) if stopped_beside(found.view, _origin(side))]
    if len(stopped) == 1:  # the same call's other results are constants
        return stopped[0]
    if found.kind == "quotient" or (found.kind == "difference" and _is_exponent(found.view, found.node, THROUGH)):
        return second  # new - old, new / old
    return first if first.time < second.time else second


def _shares_nothing(found: Cancellation, side: Node) -> bool:
    """Whether what the side is computed from serves it alone, down to the parameters: a network that is asked once
    more. What the loss trains has an encoder that other terms of the loss need as well."""
    view = found.view
    uses = {found.node, *(user for user, _ in view.consumers(found.node))}
    seen, waiting = {side}, [side]
    while waiting and len(seen) < MOST_BEHIND:
        for edge in waiting.pop().inputs:
            source = edge.source
            if edge.passes and source.leaf is None and source not in seen and view.reaches(source):
                seen.add(source)
                waiting.append(source)
    return all(private(view, node, uses) for node in seen)


def _is_base(found: Cancellation, side: Node) -> bool:
    """Whether the clipped difference is added to this side: `old + clamp(new - old)` stays near the older one."""
    clipped = {user for user, _ in found.view.consumers(found.node) if user.op == "clamp"}
    return any(user.op == "add" and clipped.intersection(user.arguments()) for user, _ in found.view.consumers(side))


def _origin(node: Node) -> Node:
    """The call or operation whose result this is, or a part of it."""
    for _ in range(8):
        if node.op not in SHAPES or not node.inputs:
            break
        node = node.inputs[0].source
    return node
