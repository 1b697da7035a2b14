"""Which operations belong to one call of a network, told by structure: jax has no module objects at run time.

A call of a network is what lies between one use of its parameters and the next: the operations on a way from a
parameter of the network to another parameter of the same network, with no other network's parameters between. Two calls
share no operation, so they are the connected parts of that region; what flows in from outside are the call's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gradaudit.tape import PARAMETER, Frame, Network, Node


def assign(nodes: list[Node], network_of: Callable[[Node], Network | None], by_library: Callable[[Node], bool]) -> None:
    """Set `frame` of every node that is part of a network's call. `network_of` gives a parameter leaf's network;
    `by_library` tells what a library has computed, not the user's own text."""
    pure, owners = _direct(nodes, network_of)
    users = _users(nodes)
    by_network: dict[Network, list[Node]] = {}
    for node, network in owners.items():
        if network is not None and node not in pure:
            by_network.setdefault(network, []).append(node)
    for network, takers in by_network.items():
        region = _between(takers, network, owners, users)
        for part in _parts(region, users):
            _frame(part, region, network, pure)
            if _one_line(part) and by_library(part[-1]):
                part[-1].op = "module_call"
            for node in part:
                _layer(node, pure)


def _direct(
    nodes: list[Node], network_of: Callable[[Node], Network | None]
) -> tuple[dict[Node, Network], dict[Node, Network | None]]:
    """Parameter-only values (leaves, their casts and shapes), and those with whoever takes them -> the network (None:
    several)."""
    pure: dict[Node, Network] = {}
    found: dict[Node, Network | None] = {}
    for node in nodes:
        if node.leaf is not None:
            network = network_of(node)
            if network is not None:
                pure[node] = network
            continue
        networks = {pure[edge.source] for edge in node.inputs if edge.source in pure}
        if not networks:
            continue
        one = next(iter(networks)) if len(networks) == 1 else None
        rest = [edge.source for edge in node.inputs if edge.source not in pure and edge.source.op != "const"]
        if not rest and one is not None and node.op in ("reshape", "cast", "getitem", "identity", "stop", "phi"):
            pure[node] = one
            continue
        found[node] = one
    return pure, found | dict(pure)


def _users(nodes: list[Node]) -> dict[Node, list[Node]]:
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for edge in node.inputs:
            users.setdefault(edge.source, []).append(node)
    return users


def _between(
    takers: list[Node], network: Network, owners: dict[Node, Network | None], users: dict[Node, list[Node]]
) -> set[Node]:
    """The takers of the network's parameters and everything on a way from one to another, other networks apart."""

    def foreign(node: Node) -> bool:
        return node.leaf is not None or owners.get(node, network) is not network

    after = _closure(takers, lambda node: users.get(node, ()), foreign)
    before = _closure(takers, lambda node: [edge.source for edge in node.inputs], foreign)
    return after & before


def _closure(starts: list[Node], step: Callable[[Node], Iterable[Node]], foreign: Callable[[Node], bool]) -> set[Node]:
    seen, waiting = set(starts), list(starts)
    while waiting:
        for node in step(waiting.pop()):
            if node not in seen and not foreign(node):
                seen.add(node)
                waiting.append(node)
    return seen


def _parts(region: set[Node], users: dict[Node, list[Node]]) -> list[list[Node]]:
    """The connected parts of a region, in order of time."""
    left = dict.fromkeys(sorted(region, key=lambda node: node.time))
    parts = []
    while left:
        first = next(iter(left))
        del left[first]
        part, waiting = [first], [first]
        while waiting:
            node = waiting.pop()
            for other in [*users.get(node, ()), *(edge.source for edge in node.inputs)]:
                if other in left:
                    del left[other]
                    part.append(other)
                    waiting.append(other)
        parts.append(sorted(part, key=lambda node: node.time))
    return parts


def _frame(part: list[Node], region: set[Node], network: Network, pure: dict[Node, Network]) -> None:
    arguments = {
        edge.source: None
        for node in part
        for edge in node.inputs
        if edge.source not in region and edge.source not in pure and edge.source.op != "const"
    }
    frame = Frame(network, tuple(arguments))
    for node in part:
        node.frame = frame


def _layer(node: Node, pure: dict[Node, Network]) -> None:
    """A product with a weight is a layer: a call of its own inside the network's."""
    if node.op not in ("matmul", "einsum") and not node.detail.startswith("conv"):
        return
    weights = [edge.source for edge in node.inputs if edge.source in pure]
    data = tuple(edge.source for edge in node.inputs if edge.source not in pure)
    if not weights or not data:
        return
    leaf = weights[0]
    while leaf.leaf is None:
        leaf = leaf.inputs[0].source
    owner = leaf.leaf.owner
    node.op, node.detail = "module_call", node.detail if node.detail.startswith("conv") else "linear"
    node.inputs[:] = [edge._replace(kind=PARAMETER) if edge.source in pure else edge for edge in node.inputs]
    if owner is not None:
        node.frame = Frame(owner, data, node.frame)


def _one_line(part: list[Node]) -> bool:
    """Whether a whole call stands on one line, outside any module's own methods: the network is the library's."""
    lines = {(node.location.path, node.location.line, node.call) for node in part}
    return len(lines) == 1 and part[-1].op != "phi" and not part[-1].location.function.endswith("__call__")
