"""A value as a sum: its summands with their signs, through shapes, joins, storage and recursion. Stops are ignored:
what a summand is does not depend on whether gradient passes it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.marks import SHAPES, Marks, behind, marks
from gradaudit.tape import DATA, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis

WRITES = frozenset({
    "store", "index_add", "index_copy", "index_put", "index_fill", "scatter", "scatter_add", "scatter_reduce", "fill",
    "masked_fill", "masked_scatter", "slice_scatter", "select_scatter", "container", "append",
})  # fmt: skip
JOINS = WRITES | {"phi", "where", "minimum", "maximum", "stack", "cat", "pack", "lerp"}
FIRST = SHAPES | {
    "clamp", "max", "min", "mean", "sum", "cumsum", "sort", "topk", "nan_to_num", "median", "amax", "amin", "nanmean",
    "pool", "logsumexp",
}  # fmt: skip
LAYERS = frozenset({"module_call", "matmul", "call"})
MOST = 600


class Atom(NamedTuple):
    """One summand. `factor`: it is multiplied by something that is no network's output (a discount, a mask)."""

    node: Node
    sign: int
    factor: bool
    raw: bool


class Sum(NamedTuple):
    atoms: tuple[Atom, ...]
    affine: bool
    """Some factor is itself of the form r + g * x: a support that was shifted by rewards (distributional targets)."""

    def raw(self, sign: int = 0) -> list[Atom]:
        return [atom for atom in self.atoms if atom.raw and not atom.factor and sign in (0, atom.sign)]

    def network(self, sign: int = 0) -> list[Atom]:
        return [atom for atom in self.atoms if not atom.raw and sign in (0, atom.sign)]


def expand(analysis: Analysis, root: Node) -> Sum:
    """The summands of `root`, each once for a sign."""
    cache = analysis.cache.setdefault("sums", {})
    assert isinstance(cache, dict)
    if root not in cache:
        cache[root] = summands(marks(analysis), root)
    return cache[root]


def summands(facts: Marks, root: Node) -> Sum:
    """The same, for those who know of more networks than the tape's parameters."""
    home = set()
    frame = root.frame
    while frame is not None:
        home.add(frame)
        frame = frame.parent
    atoms: list[Atom] = []
    affine = False
    seen: set[tuple[Node, int, bool]] = set()
    waiting = [(root, 1, False)]
    while waiting and len(seen) < MOST:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        node, sign, factor = item
        if not facts.network(node):
            if "reward" not in node.marks and (_is_flag(node) or _is_empty(node)):
                continue
            if facts.raw(node) or node.op == "leaf" or facts.reward(node):
                atoms.append(Atom(node, sign, factor, node.op != "const" and node.op != "leaf" or facts.raw(node)))
            continue
        if node.frame is not None and node.frame not in home and node is not root:
            atoms.append(Atom(node, sign, factor, False))
            continue
        parts, shifted = _parts(facts, node, sign, factor)
        affine |= shifted
        if parts:
            waiting.extend(parts)
        else:
            atoms.append(Atom(node, sign, factor, False))
    return Sum(tuple(atoms), affine)


FLAGS = frozenset({"compare", "not", "bitwise", "logical_and", "logical_or", "logical_not", "isnan", "one_hot"})


def _is_flag(node: Node) -> bool:
    """A mask or an indicator is no summand of a return."""
    for _ in range(6):
        if node.op in FLAGS:
            return True
        if node.op not in SHAPES or not node.inputs:
            return False
        node = node.inputs[0].source
    return False


def _is_empty(node: Node) -> bool:
    """What a total begins with, whichever branch made it: storage that nothing was written into is no summand."""
    seen, waiting = {node}, [node] if node.op == "phi" else []
    found = False
    while waiting and len(seen) < 12:
        current = waiting.pop()
        found = found or current.op == "alloc"
        if current.op not in ("phi", "alloc"):
            return False
        for source in current.arguments() if current.op == "phi" else ():
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return found and not waiting


def _parts(facts: Marks, node: Node, sign: int, factor: bool) -> tuple[list[tuple[Node, int, bool]], bool]:
    """The summands of one operation, and whether a factor of it is a shifted support; none where it is no sum."""
    data = [edge.source for edge in node.inputs if edge.kind == DATA]
    op = node.op
    if not data or node.leaf is not None:
        return [], False
    if op == "getitem" and data[0].op == "pack":
        item = _item(node.detail, data[0])
        if item is not None:
            return [(item, sign, factor)], False
    if op in JOINS:  # an empty container is no summand
        return [(source, sign, factor) for source in data if source.op != "alloc"], False
    if op in FIRST:
        return [(data[0], sign, factor)], False
    if op == "add":
        return [(source, sign, factor) for source in data], False
    if op == "sub" and len(data) == 2:
        return [(data[0], sign, factor), (data[1], -sign, factor)], False
    if op == "neg":
        return [(data[0], -sign, factor)], False
    if op == "div" and len(data) == 2 and facts.network(data[0]):
        return [(data[0], sign, factor)], False
    if op == "matmul" and is_layer(facts, data):
        return [], False
    if op in ("mul", "einsum", "matmul", "categorical_l2_project"):
        return _product(facts, data, sign, factor)
    return [], False


def is_layer(facts: Marks, data: list[Node]) -> bool:
    """`tanh(h) @ w`: a layer's product, written by hand. Of `psi(x) @ w` the features are the value."""
    weights = [source for source in data if source.leaf is not None and source.leaf.kind in ("param", "arg")]
    given = [source for source in data if source not in weights]
    if len(weights) != 1 or len(given) != 1 or not all(map(facts.network, data)):
        return False
    return behind(given[0], SHAPES | {"add"}, 6).op not in LAYERS


def _product(facts: Marks, data: list[Node], sign: int, factor: bool) -> tuple[list[tuple[Node, int, bool]], bool]:
    plain = [source for source in data if not facts.network(source)]
    shifted = any(is_affine(facts, source) for source in plain)
    for source in plain:
        if is_negative(source):
            sign = -sign
    factor = factor or any(facts.raw(source) or is_discount(source) for source in plain) or len(plain) < len(data) - 1
    return [(source, sign, factor) for source in data if facts.network(source)], shifted


def _item(detail: str, pack: Node) -> Node | None:
    match = re.fullmatch(r"\[?(\d+)\]?", detail)
    parts = pack.arguments()
    return parts[int(match[1])] if match and int(match[1]) < len(parts) else None


def constant(node: Node) -> float | None:
    """The number that a constant node stands for."""
    if node.op != "const" and not (node.leaf is not None and node.leaf.kind == "const"):
        return None
    try:
        return float(node.detail or (node.leaf.name if node.leaf else ""))
    except ValueError:
        return None


def filled(node: Node) -> float | None:
    """The one number that a whole array is made of, as labels are."""
    bare = behind(node, SHAPES, 8)
    if bare.op != "alloc":
        return constant(bare)
    try:
        return float(bare.detail)
    except ValueError:
        return None


def is_drawn(root: Node) -> bool:
    """A reparameterised draw `mean + std * noise`, shifted by others: where a walk goes, and nothing that is estimated
    of it. Discounted noise (a value that is drawn from its distribution) is a summand of a return like any other."""
    seen, waiting = {root}, [root]
    while waiting and len(seen) < 80:
        current = waiting.pop()
        data = [edge.source for edge in current.inputs if edge.kind == DATA]
        if current.op == "mul" and any(_is_noise(one) for one in data) and not all(map(_is_settled, data)):
            return True
        for source in data if current.op in SHIFTS or current.op in SHAPES else ():
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


SHIFTS = frozenset({"add", "sub", "neg", "phi"})
NORMAL = frozenset({"randn", "randn_like", "normal", "standard_normal"})


def _is_noise(node: Node) -> bool:
    for _ in range(6):
        if node.op not in SHAPES or not node.inputs:
            break
        node = node.inputs[0].source
    return node.op == "random" and node.detail in NORMAL


def _is_settled(node: Node) -> bool:
    """Noise and its scale, where neither was computed."""
    return _is_noise(node) or not node.inputs and (node.leaf is None or node.leaf.kind != "param")


def is_negative(node: Node) -> bool:
    value = constant(node)
    return value is not None and value < 0


def is_discount(node: Node) -> bool:
    """A constant in (0, 1], or anything that is computed from no network."""
    value = constant(node)
    return value is None or 0 < value <= 1


def is_affine(facts: Marks, node: Node) -> bool:
    """A support that rewards have shifted: r + g * support (or a return) that is then clamped, scaled, projected."""
    seen = {node}
    waiting = [node]
    while waiting and len(seen) < 80:
        current = waiting.pop()
        data = current.arguments()
        if facts.reward(current):
            return True
        if current.op == "add" and len(data) == 2:
            for one, other in (data, data[::-1]):
                if facts.raw(one) and _contains_product(other):
                    return True
        for source in data:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _contains_product(node: Node) -> bool:
    for _ in range(6):
        if node.op == "mul" or (node.op == "const" and node.detail == "mul"):  # a product of settings is a constant
            return True
        if node.op not in SHAPES or not node.inputs:
            return False
        node = node.inputs[0].source
    return False
