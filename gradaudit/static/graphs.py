"""TensorFlow: loops as functions, and gradients that are asked for in the middle of a computation."""

from __future__ import annotations

from typing import Any

from gradaudit.models import Row
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import NONE, Const, Sequence, Unknown
from gradaudit.tape import Edge


class Graphs(Machine):
    def tf_scan(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """`tf.scan(fn, elems, initializer)`: what `fn` makes is carried on and stacked; the folds give the last one."""
        given = bind(row, args, keywords)
        function, rows = given.get("fn", NONE), given.get("elems", NONE)
        start = given.get("initializer", NONE)
        if isinstance(start, Const) and start.value is None:
            start = self.row_of(rows)

        def body(state: Any) -> Any:
            made = self.call(function, [state, self.row_of(rows)], {})
            return Sequence([made, made])

        last, every = self.carried(start, body, stacked=True).items
        return every if row.path.endswith("scan") else last

    def tf_while(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """`tf.while_loop(cond, body, loop_vars)`: the variables are passed one by one."""
        given = bind(row, args, keywords)
        variables, function = given.get("loop_vars", NONE), given.get("body", NONE)
        if not isinstance(variables, Sequence):
            return Unknown("loop")

        def body(state: Any) -> Any:
            made = self.call(function, list(state.items), {})
            return made if isinstance(made, Sequence) else Sequence([made])

        return self.carried(variables, body, stacked=False)

    def tape_gradient(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """`tf.gradients(ys, xs)`: differentiated for these; what comes back is a constant to first order."""
        given = bind(row, args, keywords)
        target, sources = given.get("ys", given.get("target", NONE)), given.get("xs", given.get("sources", NONE))
        self.backward(target, "grad", sources)
        return self.gradient_of(target, sources)

    def gradient_of(self, target: Any, sources: Any) -> Any:
        """A gradient as a value: one for each source."""
        edges = [Edge(node, False) for node in self.nodes_of(target)[:8]]
        if isinstance(sources, Sequence) and sources.items:
            return Sequence([self.node("gradient", edges, passes=False) for _ in sources.items[:16]])
        if self.nodes_of(sources):
            return self.node("gradient", edges, passes=False)
        return Unknown("gradients")


def bind(row: Row, args: Args, keywords: Keywords) -> Keywords:
    """The arguments by the names that the model row gives them."""
    return {**dict(zip(row.args, args, strict=False)), **keywords}
