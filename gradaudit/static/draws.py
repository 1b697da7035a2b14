"""Draws: which of several members (of an ensemble, mostly) are taken, and whether one may be taken twice.

A draw is a node of op `random` that is marked with how it was made. A network that is chosen by one is called with an
index edge to it: the call's value depends on which one it was.
"""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import Const, Instance, Mapping, Sequence, Union, Unknown
from gradaudit.tape import Node

REPLACEMENT = "drawn-with-replacement"
DISTINCT = "drawn"
DRAWN = frozenset({REPLACEMENT, DISTINCT})
PASSED_ON = frozenset({"getitem", "cast", "stop", "reshape", "identity", "gather"})


class Draws(Machine):
    def draw(self, how: str, args: Args, keywords: Keywords, made: Any) -> Any:
        """What a library's drawing function gives, marked; `made` is what its model says."""
        kind, members = DRAWS[how](args, keywords)
        population = args[0] if members and args else None
        if isinstance(population, Sequence) and self._of_records(population):
            return Sequence((), self.element(population), "list")
        if not kind:
            return made
        if isinstance(population, Sequence) and any(
            self.is_module(part) for part in (*population.items, population.rest)
        ):
            node = self._marked(None, kind)
            return Sequence((), self.drawn(self.element(population), node), "list")
        if members and not (isinstance(population, Sequence) and _of_numbers(population)):
            return made
        return self._marked(made, kind)

    def _of_records(self, population: Sequence) -> bool:
        """Is what is drawn from a memory: of what was stored together, step by step?"""
        parts = [*population.items, *([population.rest] if population.rest is not None else [])]
        return bool(parts) and all(isinstance(part, (Sequence, Mapping)) for part in parts)

    def _marked(self, made: Any, kind: str) -> Node:
        node = made if isinstance(made, Node) and made.leaf is None else self.node("random", [], detail="draw")
        node.marks = node.marks | {kind}
        return node

    def drawn(self, value: Any, draw: Node) -> Any:
        """The same network, chosen by a draw."""
        if isinstance(value, Union):
            return Union(tuple(self.drawn(part, draw) for part in value.alternatives), value.guards)
        if not isinstance(value, Instance) or not self.is_module(value):
            return value
        self.parameters_of(value)  # made now, so that both have the same
        made = Instance(value.cls, value.external)
        for slot in ("attrs", "leaf", "network", "children", "row", "applied", "width"):
            setattr(made, slot, getattr(value, slot))
        made.draw = draw
        return made

    def draw_behind(self, index: Any) -> Node | None:
        """The draw that an index comes from."""
        node = index
        for _ in range(6):
            if not isinstance(node, Node):
                return None
            if node.marks & DRAWN:
                return node
            if node.op not in PASSED_ON or not node.inputs:
                return None
            node = node.inputs[0].source
        return None


def _of_numbers(population: Sequence) -> bool:
    parts = [*population.items, *([population.rest] if population.rest is not None else [])]
    return bool(parts) and all(
        isinstance(part, Const) and isinstance(part.value, int) or isinstance(part, Unknown) and part.plain
        for part in parts
    )


def _one(value: Any) -> bool:
    return isinstance(value, Const) and value.value in (1, (), None)


def _choices(args: Args, keywords: Keywords) -> tuple[str, bool]:
    count = keywords.get("k")
    return ("" if count is None or _one(count) else REPLACEMENT), True


def _sample(args: Args, keywords: Keywords) -> tuple[str, bool]:
    count = args[1] if len(args) > 1 else keywords.get("k")
    return ("" if count is None or _one(count) else DISTINCT), True


def _choice(args: Args, keywords: Keywords, first: int = 0) -> tuple[str, bool]:
    count = args[first + 1] if len(args) > first + 1 else keywords.get("size", keywords.get("shape"))
    replace = args[first + 2] if len(args) > first + 2 else keywords.get("replace", Const(True))
    if count is None or _single(count) or not isinstance(replace, Const):
        return "", False
    return (REPLACEMENT if replace.value else DISTINCT), False


def _single(count: Any) -> bool:
    """No choice of several: one, or a whole table of numbers."""
    if isinstance(count, Sequence):
        return len(count.items) != 1 or _one(count.items[0])
    return _one(count)


def _jax_choice(args: Args, keywords: Keywords) -> tuple[str, bool]:
    return _choice(args, keywords, 1)


def _randint(args: Args, keywords: Keywords) -> tuple[str, bool]:
    """`randint(low, high, size)`, of numpy or torch; one number is no choice of several."""
    count = keywords.get("size", args[2] if len(args) > 2 else args[1] if len(args) == 2 else None)
    return ("" if count is None or _single(count) else REPLACEMENT), False


def _jax_randint(args: Args, keywords: Keywords) -> tuple[str, bool]:
    count = args[1] if len(args) > 1 else keywords.get("shape")
    return ("" if count is None or _single(count) else REPLACEMENT), False


def _shuffled(args: Args, keywords: Keywords) -> tuple[str, bool]:
    return DISTINCT, False


def _multinomial(args: Args, keywords: Keywords) -> tuple[str, bool]:
    count = args[1] if len(args) > 1 else keywords.get("num_samples")
    replace = args[2] if len(args) > 2 else keywords.get("replacement", Const(False))
    if count is None or _one(count) or not isinstance(replace, Const):
        return "", False
    return (REPLACEMENT if replace.value else DISTINCT), False


DRAWS: dict[str, Any] = {
    "random.choices": _choices,
    "random.sample": _sample,
    "numpy.random.choice": _choice,
    "numpy.random.randint": _randint,
    "numpy.random.permutation": _shuffled,
    "torch.randint": _randint,
    "torch.randperm": _shuffled,
    "torch.multinomial": _multinomial,
    "jax.random.choice": _jax_choice,
    "jax.random.randint": _jax_randint,
    "jax.random.permutation": _shuffled,
    "Generator.choice": _choice,
    "Generator.integers": _randint,
    "Generator.permutation": _shuffled,
}
"""What is drawn, by the function: with replacement, without, or nothing that several are chosen with; and whether the
first argument is the population itself."""
