"""Gradients that are applied as they are: whatever a loss's gradient says of a tree is stepped."""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import Unknown
from gradaudit.tape import Node, Sink

APPLIES = frozenset({"update", "apply_gradients"})
"""`optimizer.update(grads, state)`, `state.apply_gradients(grads=grads)`"""
ADDS = frozenset({"add", "sub", "mul", "div", "neg", "phi", "identity", "cast"})
MOST = 24


class Applied(Machine):
    gradient_of_sink: dict[Unknown, Sink]
    """What differentiating gave, and the loss that it is the gradient of."""

    def note_applied(self, name: str, args: Args, keywords: Keywords) -> None:
        if name not in APPLIES or not self.gradient_of_sink:
            return
        for value in (*args, *keywords.values()):
            for sink in self._sinks_of(value):
                sink.applied = True

    def _sinks_of(self, value: Any) -> list[Sink]:
        """The losses whose gradients, or whose sum, this is: of all that was differentiated, not of some entries."""
        if isinstance(value, Unknown) and value in self.gradient_of_sink:
            return [self.gradient_of_sink[value]]
        if not isinstance(value, Node):
            return []
        known = {made.node: sink for made, sink in self.gradient_of_sink.items() if made.node is not None}
        found: list[Sink] = []
        waiting, seen = [value], {value}
        while waiting and len(seen) < MOST:
            node = waiting.pop()
            if node in known:
                found.append(known[node])
            elif node.op in ADDS:
                fresh = [edge.source for edge in node.inputs if edge.source not in seen]
                seen.update(fresh)
                waiting += fresh
        return found
