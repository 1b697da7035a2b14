"""K5, within one update: the steps that only warm a recurrent state up are learnt through.

A value is unrolled over a sequence in two pieces. Of the first one nothing but the state is used, and that by the
second one; what is bootstrapped from is unrolled over the same two pieces by another network, or begins with the same
state. The first piece is a burn-in (R2D2, section 4): it produces a state to start from, and nothing is to be learnt
from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import permutations
from operator import or_
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.bootstrap import is_bootstrap
from gradaudit.rules.criteria.discrepancy import Discrepancy, discrepancies
from gradaudit.rules.criteria.expand import expand, summands
from gradaudit.rules.criteria.marks import SHAPES, bare
from gradaudit.rules.criteria.place import activations
from gradaudit.rules.criteria.roles import is_made_here
from gradaudit.rules.criteria.sites import ALIASES, takers
from gradaudit.rules.criteria.trees import backs_up, marks_of_trees
from gradaudit.tape import DATA, INDEX, Edge, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOVES = frozenset({"add", "sub", "lerp"})
"""What makes other parameters of parameters, or adds a bias: nothing is unrolled with it."""
SQUASHES = SHAPES | {"mul", "add", "sub", "sign", "sqrt", "abs", "log", "log1p", "exp"}
ENTRY = re.compile(r"[.\[]")
Lines = tuple[Location, ...]
"""The lines that lead to where a value is made, the outermost call first."""


class BurnIn(NamedTuple):
    """`maker` computes with `leaves` in the first piece, and gradient of `meeting` gets there."""

    view: View
    meeting: Node
    maker: Node
    leaves: int
    location: Location


def burn_ins(analysis: Analysis) -> Iterator[BurnIn]:
    """Every first piece of a sequence whose state passes gradient into it."""
    told = set()
    for view in analysis.views:
        for found in _of_view(view):
            if found.location not in told:
                told.add(found.location)
                yield found


def _of_view(view: View) -> Iterator[BurnIn]:
    for meeting in discrepancies(view):
        sides = meeting.sides if len(meeting.sides) == 2 else ()
        for prediction, target in permutations(sides, 2):
            for piece in _pieces(view, prediction):
                if _is_twofold(view, piece, [target.source]) and _bootstraps(view, meeting, prediction, target):
                    yield BurnIn(view, meeting.node, piece.first[0], piece.leaves, piece.location)
    for node in view.slice:
        learnt, constants = _library_error(node)
        for piece in _pieces(view, learnt) if learnt is not None else ():
            if _is_twofold(view, piece, constants):
                yield BurnIn(view, node, piece.first[0], piece.leaves, piece.location)


def _library_error(node: Node) -> tuple[Edge | None, list[Node]]:
    """The prediction that a library's temporal-difference error learns, and what it takes as constants: a reward, a
    discount and a value at the least."""
    passing = [edge for edge in node.inputs if edge.kind == DATA and edge.passes]
    constants = [edge.source for edge in node.inputs if edge.kind == DATA and not edge.passes]
    return (passing[0] if passing and len(constants) >= 3 else None), constants


class Piece(NamedTuple):
    """Two unrolls of one network: what computes with its `leaves` in the first and in the second."""

    first: list[Node]
    second: list[Node]
    leaves: int
    area: set[Node]
    lines: Lines
    """The lines that lead to the second."""
    location: Location
    """Where the text calls the first."""


def _pieces(view: View, prediction: Edge) -> Iterator[Piece]:
    """The pairs of unrolls, each written on lines of its own, the first of which counts through the second alone."""
    area = view.backward(prediction.source) if prediction.passes else set()
    area = {node for node in area if node.op != "gradient"}  # weights that an inner update adapts are no state
    makers = [maker for maker in takers(view, view.trained, area) if maker.op not in MOVES]
    taken = [_parameters(view, [maker]) for maker in makers]
    if sum(taken) == reduce(or_, taken, 0):
        return  # nothing is used twice
    unrolls: dict[Lines, list[Node]] = {}
    for maker in makers:
        unrolls.setdefault(_lines(maker), []).append(maker)
    used = {lines: _parameters(view, makers) for lines, makers in unrolls.items()}
    for one, other in permutations(unrolls, 2):
        shared = used[one] & used[other]
        if one[-1] != other[-1]:  # not the same text: of a network that stands for all its parts, other parts maybe
            shared &= view.analysis.mask(filter(_is_one_part, view.analysis.leaves(shared)))
        level = next((level for level, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its), None)
        if not shared or level is None:
            continue
        lines = other[: level + 1]
        if _only_through(prediction.source, area, set(unrolls[one]), lines):
            yield Piece(unrolls[one], unrolls[other], shared, area, lines, one[level])


def _lines(node: Node) -> Lines:
    return (*(call.location for call in reversed(activations(node.call))), node.location)


def _is_one_part(leaf: Node) -> bool:
    """Is it the parameter of a layer, or an entry of a tree, and not a whole network?"""
    known = leaf.leaf
    return known is not None and is_made_here(leaf) and (known.kind == "param" or bool(ENTRY.search(known.name)))


def _parameters(view: View, makers: list[Node]) -> int:
    """The parameters among the inputs of these operations."""
    mask, seen, waiting = 0, set(makers), list(makers)
    while waiting:
        for edge in waiting.pop().inputs:
            source = edge.source
            mask |= view.analysis.bit(source) & view.mask if edge.passes else 0
            if source.op in ALIASES and source not in seen:
                seen.add(source)
                waiting.append(source)
    return mask


def _only_through(prediction: Node, area: set[Node], first: set[Node], lines: Lines) -> bool:
    """Does gradient get to the first unroll, and on no way but through what is called on `lines`?"""
    reached, inside = _walk([prediction], area, lines)
    return bool(inside) and not reached & first and bool(_walk(inside, area, ())[0] & first)


def _walk(starts: Iterable[Node], area: set[Node], lines: Lines) -> tuple[set[Node], list[Node]]:
    """What is behind `starts` without going through what is called on `lines`, and where these are entered."""
    seen, waiting, inside = set(starts), list(starts), []
    while waiting:
        node = waiting.pop()
        if lines and node.leaf is None and _lines(node)[: len(lines)] == lines:
            inside.append(node)
            continue
        for edge in node.inputs:
            if edge.passes and edge.source in area and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen, inside


def _is_twofold(view: View, piece: Piece, targets: list[Node]) -> bool:
    """Does the second unroll go on with other data, and another network begin where the first one does or ends?"""
    vn = view.analysis.algebra.vn
    given = {vn(node) for node in _data(view, piece.first)}
    if all(vn(node) in given for node in _data(view, piece.second, piece.first)):
        return False
    operations = {node.op for node in piece.first}
    for node in _behind(targets, piece.lines):
        if node in piece.first:
            return True
        if node not in piece.area and node.op in operations and any(vn(one) in given for one in _joined(node)):
            return True
    return False


def _joined(node: Node) -> list[Node]:
    """What an operation is given, and what is put together to be that: `concatenate([frame, state])`."""
    given = node.arguments()
    return [*given, *(part for one in given if one.op == "cat" for part in one.arguments())]


def _data(view: View, makers: list[Node], others: Iterable[Node] = ()) -> list[Node]:
    """What these operations are given that is no parameter, no state (what the others make) and no constant; of what
    layers before them make of data, the data."""
    found, stop = [], {*makers, *others}
    waiting = [node for maker in makers for node in maker.arguments()]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if not view.analysis.alive(node):
            found.append(node)
            continue
        sources = [source for source in node.arguments() if source not in seen] if node not in stop else []
        seen.update(sources)
        waiting += sources
    return [node for node in found if bare(node).op not in ("const", "alloc")]


def _behind(targets: list[Node], lines: Lines) -> set[Node]:
    """What the value of the target is made of, whatever is called on `lines` left out."""
    seen, waiting = set(targets), list(targets)
    while waiting:
        node = waiting.pop()
        if node.leaf is None and _lines(node)[: len(lines)] == lines:
            continue
        for edge in node.inputs:
            if edge.kind != INDEX and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def _bootstraps(view: View, meeting: Discrepancy, prediction: Edge, target: Edge) -> bool:
    """Is the target reward and value, squashed as a whole or not?"""
    total, against = expand(view.analysis, target.source), expand(view.analysis, prediction.source)
    if is_bootstrap(view, total, against, meeting.of_distributions):
        return True
    facts = marks_of_trees(view.analysis)
    learnt = summands(facts, prediction.source)
    return any(backs_up(summands(facts, node), learnt) for node in _squashed(target.source))


def _squashed(target: Node) -> Iterator[Node]:
    """The target, and what it is a function of, element by element: `sign(y) * (sqrt(abs(y) + 1) - 1)`."""
    seen, waiting = {target}, [target]
    while waiting:
        node = waiting.pop()
        yield node
        sources = node.arguments() if node.op in SQUASHES else []
        waiting += [source for source in dict.fromkeys(sources) if source not in seen]
        seen.update(sources)
