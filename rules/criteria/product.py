"""K8: a multiplier against what it multiplies.

A multiplier (a temperature, a Lagrange multiplier) is a trained scalar that the program uses only as a factor. It is
trained by a dual term, `m * (x + constant)`, in which x must be a constant; in every other term it is the constant. Two
proofs that a product breaks this: the loss steps one of the two sides and not the other; or both are trained together,
and the same multiplier weighs the same thing in another term of the loss, where a stop keeps the two apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gradaudit import ownership
from gradaudit.algebra import Linear, number
from gradaudit.rules.criteria.soft_dual import is_soft_dual
from gradaudit.tape import PARAMETER, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

PROJECTIONS = frozenset(
    "exp softplus clamp relu abs square sigmoid activation reshape cast phi stop neg log log_sigmoid identity "
    "maximum minimum gather getitem store broadcast".split()
)
FACTORS = frozenset({"mul", "div"})
SHIFTS = frozenset({"add", "sub"})
LINEAR = frozenset({"add", "mean", "sum", "reshape", "cast", "phi", "stack", "pack", "getitem"})
SIGNED = frozenset({"mul", "div", "neg", "sub"})
ENTRIES = frozenset({"gather", "index_select", "sum", "norm"})
"""What is done to an array and not to a number: a mask is counted, a table of log-probabilities is looked up in."""
HARMLESS = frozenset({"compare", "add", "sub", "mean", "sum", "stack", "pack"})


class Product(NamedTuple):
    """`node` = factor * term. `wrong` is the side that should have been stopped; it lets gradient reach `leaves`."""

    view: View
    node: Node
    multiplier: Node
    factor: Node
    term: Node
    wrong: Node
    leaves: int
    deposit: str

    @property
    def dual(self) -> bool:
        """The multiplier's own loss (the term leaks), not the loss of what it weighs (the multiplier leaks)."""
        return self.wrong is self.term


def broken_products(analysis: Analysis) -> list[Product]:
    """Products of a live multiplier and a live term that one of the two proofs condemns."""
    known = analysis.cache.get("products")
    if known is None:
        known = [found for view in analysis.views for found in _in_view(view)]
        analysis.cache["products"] = known
    assert isinstance(known, list)
    return known


def _in_view(view: View) -> list[Product]:
    found = []
    candidates = [entry for node in view.slice if node.op in FACTORS for entry in _candidates(view, node)]
    for node, multiplier, factor, term in candidates:
        product = _judge(view, node, multiplier, factor, term)
        if product is not None:
            found.append(product)
    return found


def _candidates(view: View, node: Node) -> list[tuple[Node, Node, Node, Node]]:
    data = [edge for edge in node.inputs if edge.kind == "data"]
    if len(data) != 2:
        return []
    found = []
    for factor, term in ((data[0], data[1]), (data[1], data[0])):
        if not (factor.passes and term.passes) or (node.op == "div" and factor is data[0]):
            continue
        multiplier = multiplier_of(view, factor.source)
        if multiplier is not None and view.live(term.source) & ~view.analysis.bit(multiplier):
            found.append((node, multiplier, factor.source, term.source))
    return found


def multiplier_of(view: View, node: Node) -> Node | None:
    """The one trained scalar behind `node`, if that is all there is and it is only ever a factor."""
    mask = view.live(node)
    if not mask or mask & (mask - 1):
        return None
    leaf = view.analysis.leaves(mask)[0]
    return leaf if is_multiplier(view.analysis, leaf) else None


def is_multiplier(analysis: Analysis, leaf: Node) -> bool:
    """A trained leaf that is used as a factor, and as nothing else but a bare term."""
    known = analysis.cache.setdefault("multipliers", {})
    assert isinstance(known, dict)
    if leaf not in known:
        known[leaf] = _is_multiplier(analysis, leaf)
    return bool(known[leaf])


def _is_multiplier(analysis: Analysis, leaf: Node) -> bool:
    if leaf.leaf is None or leaf.leaf.kind not in ("param", "arg"):
        return False
    if leaf.leaf.kind == "param" and not leaf.leaf.scalar:
        return False
    graph = analysis.graph
    seen, waiting, factor = {leaf}, [leaf], False
    while waiting:
        node = waiting.pop()
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            edges = [edge for edge in user.inputs if edge.source is node]
            if any(edge.kind == "parameter" for edge in edges):
                return False
            if leaf.leaf.kind == "arg" and user.op in ENTRIES:
                return False
            if user.op in FACTORS:
                if not _other_is_plain(analysis, user, node):
                    if enters_layer(analysis, user):
                        return False
                    factor = True
                    continue
            elif user.op not in PROJECTIONS and not (user.op in SHIFTS and _other_is_plain(analysis, user, node)):
                if user.op in HARMLESS:
                    continue
                return False
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return factor


def enters_layer(analysis: Analysis, value: Node) -> bool:
    """Does the value go into a layer, with gradient? Then it is an input, and weighs no term of a loss."""
    graph = analysis.graph
    seen, waiting = {value}, [value]
    while waiting:
        node = waiting.pop()
        for position in graph.users[graph.index[node]]:
            user = graph.nodes[position]
            if user in seen or not any(edge.source is node and edge.passes for edge in user.inputs):
                continue
            if any(edge.kind == PARAMETER for edge in user.inputs):
                return True
            seen.add(user)
            waiting.append(user)
    return False


def _other_is_plain(analysis: Analysis, user: Node, node: Node) -> bool:
    """Whether the product is with constants only, so that it is still the multiplier."""
    return all(edge.source is node or number(edge.source) is not None for edge in user.inputs)


def _judge(view: View, node: Node, multiplier: Node, factor: Node, term: Node) -> Product | None:
    analysis = view.analysis
    mine = analysis.bit(multiplier)
    others = view.live(term) & ~mine
    own = view.own
    if own is None or (mine & own and others & own):
        return _by_terms(view, node, multiplier, factor, term, others)
    if any(analysis.mask(holder.leaves) & others for holder in ownership.holders(analysis.tape, multiplier)):
        return None  # a scale among a network's weights
    # One side is stepped with this gradient and the other belongs to another optimizer.
    if mine & own:
        wrong, leaked = term, others
    elif others & own:
        wrong, leaked = factor, mine
    else:
        return None
    states = {ownership.deposit(analysis.tape, view.sink, leaf) for leaf in analysis.leaves(leaked)}
    if states <= {ownership.UNKNOWN, ownership.UNHELD}:
        return None
    state = ownership.USED if ownership.USED in states else ownership.CLEARED
    return Product(view, node, multiplier, factor, term, wrong, leaked, state)


def _by_terms(view: View, node: Node, multiplier: Node, factor: Node, term: Node, others: int) -> Product | None:
    """Both sides are trained together: condemned where another term weighs the same thing with a stop between."""
    if node.op != "mul" or not all(step.op in LINEAR | SIGNED for step in view.way_to_loss(node)):
        return None
    sibling = stopped_sibling(view, node, multiplier, others)
    if sibling is None:
        asked = has_constant(view, term) and pushed_up(view, node, factor, term)
        if view.sink.kind == "library" or not (asked or is_soft_dual(view, node, multiplier, term, others)):
            return None
    wrong = factor if sibling == "term" else term
    leaked = others if wrong is term else view.analysis.bit(multiplier)
    return Product(view, node, multiplier, factor, term, wrong, leaked, ownership.USED)


def has_constant(view: View, term: Node) -> bool:
    """Whether the term is what a dual needs: a live part and something that is not live, added up."""
    form = view.analysis.algebra.lin(term)
    dead = form.constant != 0.0 or any(not term.passes or not view.live(term.node) for term in form.terms)
    return dead and any(term.passes and view.live(term.node) for term in form.terms)


def pushed_up(view: View, node: Node, factor: Node, term: Node) -> bool:
    """Whether minimising the loss makes the live part of the term grow: what a dual asks of its multiplier alone."""
    outer, own, inner = _sign_in_loss(view, node), _sign(view, factor), _sign(view, term)
    return outer is not None and outer * own * inner < 0


def _sign(view: View, node: Node) -> float:
    """The sign of the live operand in a sum with constants, or behind a negation; what it is made of does not count."""
    sign = 1.0
    for _ in range(12):
        data = [edge for edge in node.inputs if edge.kind == "data"]
        live = [edge for edge in data if edge.passes and view.live(edge.source)]
        if len(live) != 1 or node.op not in LINEAR | SIGNED:
            break
        if node.op in SHIFTS and any(_is_drawn(edge.source) for edge in data if edge is not live[0]):
            break  # a log-probability written out: the noise is no constant of the dual
        if node.op == "neg" or (node.op == "sub" and live[0] is data[-1]):
            sign = -sign
        elif node.op in ("mul", "div"):
            others = [number(edge.source) for edge in data if edge is not live[0]]
            if not others or others[0] is None:
                break
            sign = math.copysign(sign, sign * others[0])
        node = live[0].source
    return sign


def _is_drawn(node: Node) -> bool:
    """Whether the value is made of noise."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 40:
        current = waiting.pop()
        if current.op in ("random", "sample"):
            return True
        for edge in current.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _sign_in_loss(view: View, node: Node) -> float | None:
    """The sign with which `node` enters the loss, if only sums, means and constant factors lie between."""
    sign = 1.0
    way = view.way_to_loss(node)
    for inner, outer in zip(way, way[1:], strict=False):
        edges = [edge for edge in outer.inputs if edge.kind == "data"]
        if outer.op == "neg":
            sign = -sign
        elif outer.op == "sub":
            sign = -sign if edges[-1].source is inner else sign
        elif outer.op in ("mul", "div"):
            others = [number(edge.source) for edge in edges if edge.source is not inner]
            if len(others) != 1 or not others[0]:
                return None
            sign = math.copysign(sign, sign * others[0])
        elif outer.op not in LINEAR:
            return None
    return sign


def stopped_sibling(view: View, node: Node, multiplier: Node, others: int) -> str | None:
    """Which side is stopped in another product of the same multiplier with something of the same origin."""
    # whose step uses what another loss leaves is known with the optimizers alone
    known = view.own is not None or view.sink.kind == "library"
    explicit = view.sink.kind == "library"  # numpy on an argument says nothing
    area = view.analysis.graph.nodes if known else behind(view)
    for other in area:
        data = [edge for edge in other.inputs if edge.kind == "data"]
        if other is node or other.op != "mul" or len(data) != 2:
            continue
        for first, second in (data, data[::-1]):
            if _interpolates(view, node, other):
                continue
            if view.analysis.dep(second.source) & others and _is_projection(first.source, multiplier):
                if not (first.passes and view.live(first.source)):
                    return "factor"
                if not (second.passes and view.live(second.source) & others):
                    if not explicit or _is_stopped(second.source):
                        return "term"
    return None


def _is_stopped(node: Node) -> bool:
    """Is there a stop that somebody wrote on the way to this value, and not only a comparison or an index?"""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < 40:
        current = waiting.pop()
        if current.op == "stop" or not current.grad_mode:
            return True
        for source in current.arguments():
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _interpolates(view: View, one: Node, other: Node) -> bool:
    """`s * x + (1 - s) * stop(x)`: a scaled gradient."""
    algebra = view.analysis.algebra
    for first, second in (one.arguments(), one.arguments()[::-1]):
        for third, fourth in (other.arguments(), other.arguments()[::-1]):
            if algebra.same(first, third):
                left, right = algebra.lin(second), algebra.lin(fourth)
                rest = Linear(left.terms + right.terms).forward()
                if not rest and abs(left.constant + right.constant - 1.0) < 1e-9:
                    return True
    return False


def behind(view: View) -> list[Node]:
    """What the loss is computed from, in order of time: terms of another loss are another matter."""
    known = view.analysis.cache.setdefault("behind", {})
    assert isinstance(known, dict)
    if view not in known:
        seen, waiting = {view.sink.loss}, [view.sink.loss]
        while waiting:
            for edge in waiting.pop().inputs:
                if edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
        known[view] = sorted(seen, key=lambda node: node.time)
    return list(known[view])


def _is_projection(node: Node, multiplier: Node) -> bool:
    """Whether the value is the multiplier, put into its range and stopped or not."""
    for _ in range(16):
        if node is multiplier:
            return True
        sources = [source for source in node.arguments() if number(source) is None]
        if node.op not in PROJECTIONS | FACTORS | SHIFTS or not sources or (len(sources) > 1 and node.op != "phi"):
            return False
        node = sources[0]
    return False
