"""K12: truncated backpropagation that truncates at every step.

An update is over several steps of a recurrent state, which is stopped where it comes from the update before. Where it
is stopped once more at every step, no gradient goes through time at all, and there was no need for the first stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.marks import SHAPES
from gradaudit.rules.criteria.starved import Starved, is_test
from gradaudit.tape import PARAMETER, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


def stopped_states(analysis: Analysis) -> Iterator[Starved]:
    """Every stop of a state within the steps of one update, where another one stands before them."""
    if "stop" not in analysis.graph.ops:
        return
    for view in analysis.views:
        if view.sink.kind == "library" or is_test(view):
            continue
        for cell in view.slice:
            if cell.op == "module_call":
                yield from _at(view, cell)


def _at(view: View, cell: Node) -> Iterator[Starved]:
    for state in cell.arguments():
        stop = _behind(state)
        if not _is_written(stop) or not stop.inputs or not view.analysis.alive(stop.inputs[0].source):
            continue
        carried = _behind(stop.inputs[0].source)
        if carried.op != "phi" or carried.detail != "loop" or carried.loops[-1:] != cell.loops[-1:]:
            continue
        if carried.loops[-1] in view.sink.loops or not _goes_round(view, carried, cell):
            continue
        leaves = view.analysis.mask(edge.source for edge in cell.inputs if edge.kind == PARAMETER) & view.mask
        if leaves:
            yield Starved(view, cell, stop, leaves)


def _goes_round(view: View, carried: Node, cell: Node) -> bool:
    """Does it begin with what another stop cut off from an earlier update, and go on with what the cell gives?"""
    begins, *goes_on = [edge.source for edge in carried.inputs]
    first = _behind(begins)
    cut = _is_written(first) and any(view.analysis.alive(edge.source) for edge in first.inputs)
    return cut and bool(goes_on) and all(_behind(source) is cell for source in goes_on)


def _is_written(node: Node) -> bool:
    """A stop that stands in the text."""
    return node.op == "stop" and node.grad_mode and node.detail != "constant"


def _behind(node: Node) -> Node:
    for _ in range(8):
        if node.op == "stop" or node.op not in SHAPES or not node.inputs:
            break
        node = node.inputs[0].source
    return node
