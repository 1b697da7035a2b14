"""What a value is made of, whatever stops gradient on the way: a network's output, raw data, a constant; and what it
is to the algorithm (reward, discount), from structure first and from names last.
"""

from __future__ import annotations

import functools
import re
import sys
import tomllib
from collections.abc import Container
from importlib import resources
from typing import TYPE_CHECKING

from gradaudit.tape import INDEX, PARAMETER, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, Graph

ENVIRONMENT = frozenset({"reward", "done", "observation", "next-observation"})
CHOICES = frozenset({"compare", "argmax", "argmin", "argsort", "sample", "random", "env_step", "shape"})
"""Operations behind which a value no longer is the network's value: a decision, a draw, what the world answers."""

SOURCES = frozenset({"random", "alloc"})
SHAPES = frozenset({
    "reshape", "getitem", "gather", "cast", "stop", "identity", "clone", "index_select", "copy", "flip", "roll", "tile",
    "pad", "narrow", "diagonal", "scale_gradient", "clip_gradient",
})  # fmt: skip
SUMS = SHAPES | {"add", "sub", "neg", "mean", "sum"}
"""Ways on which a summand of a loss is still one, constant factors aside."""


@functools.cache
def names(table: str, role: str) -> re.Pattern[str]:
    """The pattern of names that suggest `role`, from roles.toml."""
    return re.compile(_roles()[table][role])


@functools.cache
def _roles() -> dict[str, dict[str, str]]:
    return tomllib.loads((resources.files("gradaudit.rules") / "roles.toml").read_text(encoding="utf-8"))


class Marks:
    """Facts about the values of one tape, found in one pass each. `trees`: inputs that are a network's parameters."""

    def __init__(self, analysis: Analysis, trees: frozenset[Node] = frozenset()) -> None:
        graph = analysis.graph
        self._trees = trees
        self.index = graph.index
        nodes = graph.nodes
        self._network = [False] * len(nodes)
        self._sourced = [False] * len(nodes)
        self._spread(graph)

    def _spread(self, graph: Graph) -> None:
        nodes, users = graph.nodes, graph.users
        network, sourced = self._network, self._sourced
        trainable = _trainable(nodes)
        fixed = bytearray(len(nodes))
        for position, node in enumerate(nodes):
            leaf = node.leaf
            if leaf is not None:
                network[position] = leaf.kind in ("param", "arg") and node in trainable or node in self._trees
                sourced[position] = leaf.kind == "input" and node not in self._trees
            elif node.op in SOURCES:
                sourced[position] = True
            if node.marks and node.marks & ENVIRONMENT:
                network[position], sourced[position] = False, True
                fixed[position] = True
            elif leaf is not None:
                fixed[position] = True
        waiting: set[int] = set()
        for position, node in enumerate(nodes):
            if not fixed[position] and self._gather(position, node):
                waiting.update(graph.earlier(position))
        while waiting:
            position = waiting.pop()
            if not fixed[position] and self._gather(position, nodes[position]):
                waiting.update(users[position])

    def _gather(self, position: int, node: Node) -> bool:
        """Takes over what the inputs are made of; True if that was news."""
        index = self.index
        network, sourced = self._network[position], self._sourced[position]
        keeps = node.op not in CHOICES
        for source, _, kind, _ in node.inputs:
            if kind != INDEX:
                place = index[source]
                network = network or (keeps and self._network[place])
                sourced = sourced or self._sourced[place]
        if network == self._network[position] and sourced == self._sourced[position]:
            return False
        self._network[position], self._sourced[position] = network, sourced
        return True

    def network(self, node: Node) -> bool:
        """Did a network (or, in a library function, an argument) produce this value? Stops are ignored."""
        position = self.index.get(node)
        return position is not None and self._network[position]

    def raw(self, node: Node) -> bool:
        """Data that passed no network: a reward, a done flag, an observation. Constants are not data."""
        position = self.index.get(node)
        return position is not None and self._sourced[position] and not self._network[position]

    def named(self, node: Node, role: str) -> bool:
        """Do the names that this value went by on its way through shape operations suggest the role?"""
        pattern = names("values", role)
        for _ in range(12):
            if node.name and pattern.search(node.name.lower()):
                return True
            if node.leaf is not None:
                return bool(node.leaf.name and pattern.search(node.leaf.name.split(".")[-1].lower()))
            if node.op == "getitem" and pattern.search(node.detail.strip("[]'\"").lower()):
                return True
            if node.op not in SHAPES or not node.inputs:
                return False
            node = node.inputs[0].source
        return False

    def reward(self, node: Node) -> bool:
        """A reward by structure (what the environment returned) or by name, scaled or shifted as it may be."""
        waiting = [node]
        for _ in range(12):
            if not waiting:
                return False
            current = waiting.pop()
            if "reward" in _marks(current) or self.named(current, "reward"):
                return True
            core = bare(current)
            if core.op in ("mul", "div", "add", "sub", "clamp", "normalize") and not self.network(core):
                waiting += core.arguments()
        return False


def bare(node: Node) -> Node:
    """The value behind operations that change its shape or type alone."""
    return behind(node, SHAPES, 12)


def behind(node: Node, ways: Container[str], most: int = sys.maxsize) -> Node:
    """What comes before operations of these kinds, by their first operands; no more than so many."""
    for _ in range(most):
        if node.op not in ways or not node.inputs:
            break
        node = node.inputs[0].source
    return node


def _trainable(nodes: list[Node]) -> set[Node]:
    """The parameters that are a layer's weights or get gradient somewhere. A frozen one is a constant."""
    return {
        edge.source
        for node in nodes
        for edge in node.inputs
        if edge.source.leaf is not None and (edge.passes or edge.kind == PARAMETER)
    }


def _marks(node: Node) -> frozenset[str]:
    for _ in range(12):
        if node.marks or node.op not in SHAPES or not node.inputs:
            break
        node = node.inputs[0].source
    return node.marks


def marks(analysis: Analysis) -> Marks:
    known = analysis.cache.get("marks")
    if not isinstance(known, Marks):
        known = analysis.cache["marks"] = Marks(analysis)
    return known
