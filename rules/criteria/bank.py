"""A memory bank that autograd records: live rows are written into what is kept from one update to the next.

The rows that an earlier update wrote are still there, with its graph, when the next one writes beside them: a queue of
embeddings, a bank with a row for every sample, whatever is drawn from it later on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.encoded import WRITES
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.stale import stale_values
from gradaudit.tape import ALWAYS, DATA, INDEX, Edge, Event, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

ROWS = WRITES | {"cat"}  # written in place; put in front, and the oldest cut off
KEPT = ROWS | {"phi", "getitem", "clone", "identity", "reshape", "pack", "cast"}
MOST = 60
WRITTEN, AS_IT_WAS = "written", "as it was"


class Bank(NamedTuple):
    """`node` writes rows that carry gradient to `leaves`; `always`: however switches are set."""

    view: View
    node: Node
    leaves: int
    always: bool

    @property
    def severity(self) -> str:
        """The graph that is kept costs memory; where a later loss takes gradient through it, that update fails."""
        if not self.always:
            return "info"
        return "error" if self.view.reaches(self.node) else "warning"


def recorded_banks(analysis: Analysis) -> list[Bank]:
    """Every write of live rows into a bank that a later loss depends on, once for a place in the text."""
    if analysis.tape.framework != "torch" or ROWS.isdisjoint(analysis.graph.ops):
        return []
    backwards = [event for event in analysis.tape.events if event.kind == "backward"]
    found: dict[object, Bank] = {}
    for node in analysis.tape.nodes if backwards else ():
        if node.op in ROWS and node.grad_mode and node.location not in found:
            bank = _bank(analysis, node, backwards)
            if bank is not None:
                found[node.location] = bank
    old = {maker for stale in stale_values(analysis) for maker in stale.makers} if found else set()
    return [bank for bank in found.values() if old.isdisjoint(_makers(bank.node))]


def _makers(node: Node) -> set[Node]:
    """What its gradient comes from. Rows that are old when the loss reads them are told of where they are made."""
    seen, waiting = {node}, [node]
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return seen


def _bank(analysis: Analysis, node: Node, backwards: list[Event]) -> Bank | None:
    index = analysis.graph.index
    for base in _bases(node):
        kept = _carried(node, base, backwards)
        written = node if node in index else kept  # what the last update writes nobody reads any more
        if kept is not None and written is not None and written in index and written.op == node.op:
            reached, always = _written(analysis, written)
            leaves = _learning(analysis, reached)
            view = _depending(analysis, kept) if leaves else None
            if view is None or not view.reaches(written) and _is_filled(node, backwards):
                return None
            return Bank(view, written, leaves, always)
    return None


def _is_filled(node: Node, backwards: list[Event]) -> bool:
    """Is it written step by step, in a loop of its own between the updates: a rollout that is filled anew each time?"""
    return bool(node.loops) and not any(node.loops[-1] in event.loops for event in backwards)


def _written(analysis: Analysis, node: Node) -> tuple[int, bool]:
    """The leaves that gradient reaches from the rows that are written, and whether it does however switches are set."""
    live, index = analysis.graph.live, analysis.graph.index
    edges = node.inputs[1:] if node.op in WRITES else node.inputs
    rows = [edge for edge in edges if edge.passes and edge.kind == DATA]
    rows = rows if node.op in WRITES else [edge for edge in rows if edge.source.op not in KEPT]
    always, any_way = 0, 0
    for edge in rows:
        always |= 0 if edge.guard else live[index[edge.source]].get(ALWAYS, 0)
        any_way |= analysis.alive(edge.source)
    return (always, True) if always else (any_way, False)


def _learning(analysis: Analysis, leaves: int) -> int:
    """Those that follow no other network: what a lagging one makes is to be a constant where it is made."""
    known = roles(analysis)
    return analysis.mask(leaf for leaf in analysis.leaves(leaves) if not (known.target(leaf) or known.follows(leaf)))


def _bases(node: Node) -> list[Node]:
    return [edge.source for edge in _states(node) if edge.passes and edge.source.op in KEPT]


def _carried(node: Node, base: Node, backwards: list[Event]) -> Node | None:
    """What the bank was when the present update found it: a loop's join that this write goes round to, or the result of
    this line from before a backward.
    """
    for current in _kept(base):
        if current.op == "phi" and current.detail == "loop" and current.loops:
            loop = current.loops[-1]
            if any(loop in event.loops and not event.conditional for event in backwards):
                later = [edge.source for edge in current.inputs if edge.source.time > current.time]
                if later and all(_leads(source, node, current) for source in later):
                    return current
        elif current.op == node.op and current.location == node.location and current.time < node.time:
            if any(current.time < event.time < node.time for event in backwards) and _leads(base, current, None):
                return current
    return None


def _kept(base: Node) -> list[Node]:
    """The earlier states of the storage, the latest first."""
    seen, waiting = {base}, [base]
    for current in waiting:
        if current.op in KEPT and len(seen) < MOST:
            for edge in _states(current):
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    waiting.append(edge.source)
    return waiting


def _states(node: Node) -> list[Edge]:
    """The edges to the storage that this is a later state of, or a part of."""
    edges = [edge for edge in node.inputs if edge.kind == DATA]
    if node.op == "cat":
        return [edge for edge in edges if edge.source.op in KEPT]
    return edges[:1] if node.op in WRITES else edges


def _leads(source: Node, write: Node, head: Node | None) -> bool:
    """Is the write in it whichever branch was taken, but for a switch? Then nothing empties the bank on the way, and no
    first update alone fills it.
    """
    return _kept_by(source, write, head, {}) == WRITTEN


def _kept_by(node: Node, write: Node, head: Node | None, known: dict[Node, str]) -> str:
    """WRITTEN if the write is in it, AS_IT_WAS if it is what the present update found, "" if neither is sure."""
    if node is write or node is head:
        return WRITTEN if node is write else AS_IT_WAS
    if node not in known and len(known) < MOST:
        known[node] = AS_IT_WAS  # where it comes round to itself
        known[node] = _joined(node, [_kept_by(edge.source, write, head, known) for edge in _states(node)], head)
    return known.get(node, "")


def _joined(node: Node, states: list[str], head: Node | None) -> str:
    edges = _states(node)
    if node.op not in KEPT or not edges or not all(edge.passes for edge in edges):
        return ""
    if node.op == "phi" and WRITTEN in states and all(edge.guard for edge in edges):
        return WRITTEN  # a switch: there is a way to set it
    if "" in states or node.op == "phi" and node.detail != "loop" and any(edge.source is head for edge in edges):
        return ""
    return WRITTEN if WRITTEN in states else AS_IT_WAS


def _depending(analysis: Analysis, bank: Node) -> View | None:
    """A loss that gradient reaches the bank from, or else one whose value depends on it."""
    for view in analysis.views:
        if view.reaches(bank):
            return view
    for view in analysis.views:
        if _is_read(view.sink.loss, bank):
            return view
    return None


def _is_read(loss: Node, bank: Node) -> bool:
    seen, waiting = {loss}, [loss]
    while waiting:
        for edge in waiting.pop().inputs:
            if edge.source is bank:
                return True
            if edge.kind != INDEX and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False
