"""Custom functions: which of their inputs gradient really reaches is seen while they run backward."""

from __future__ import annotations

from typing import Any

from gradaudit.dynamic.torch_recorder.gradients import Gradients
from gradaudit.dynamic.torch_recorder.tracer import Tracer
from gradaudit.tape import Edge, Node, Tape


def watch(tracer: Tracer) -> dict[Any, list[bool]]:
    """Which inputs a custom function really gives gradient to, seen while it runs backward."""
    watched: dict[Any, list[bool]] = {}
    for function in tracer.opaque:

        def note(inputs: Any, outputs: Any, function: Any = function) -> None:
            watched[function] = [one is not None for one in inputs]

        function.register_hook(note)
    return watched


def settle(tracer: Tracer, watched: dict[Any, list[bool]], grads: Gradients) -> None:
    """Correct the edges of custom functions, and add the leaves that only their backward knows."""
    for function, given in watched.items():
        node = tracer.opaque[function]
        silent = set()
        for (below, place), passed in zip(function.next_functions, given, strict=False):
            if below is not None and not passed:
                silent.add(_source(tracer, below, place))
        node.inputs = [
            edge._replace(passes=False) if edge.passes and edge.source in silent else edge for edge in node.inputs
        ]
    walked = {id(node) for node in _live_leaves(tracer.tape)}
    for key, gradient in grads.of.items():
        leaf = tracer.known[key][0]
        if gradient is not None and id(leaf) not in walked:
            for node in dict.fromkeys(tracer.opaque.values()):
                node.inputs.append(Edge(leaf, True))


def _live_leaves(tape: Tape) -> list[Node]:
    return [edge.source for node in tape.nodes for edge in node.inputs if edge.passes and edge.source.leaf is not None]


def _source(tracer: Tracer, function: Any, number: int) -> Node | None:
    variable = getattr(function, "variable", None)
    if variable is not None:
        known = tracer.known.get(id(variable))
        return known[0] if known else None
    return tracer.tags.get(function, {}).get(number) or tracer.inner.get(function)
