"""Which networks a loss applies: with parameters that it trains, or as constants.

A network is known by its place in the outermost one that the program has: of a module that is differentiated itself
(equinox, nnx) each loss sees a copy, and a constant copy (`stop_gradient(model)`) is one of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradaudit.rules.criteria.discrepancy import discrepancies
from gradaudit.rules.criteria.maximised import LAYERS, LINEAR, is_raised
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.sites import frames
from gradaudit.rules.criteria.trees import Place, places_of
from gradaudit.tape import PARAMETER, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

PASSES = LINEAR | LAYERS | {"activation", "relu", "tanh", "sigmoid", "softplus", "layer_norm", "dropout"}
"""On the way through further layers a value is still what the network says; behind a loss or a logarithm it is not."""

Part = tuple[Network, tuple[str, ...]]


def regressed(view: View) -> dict[Part, set[Place]]:
    """The networks whose own parameters a regression of this loss trains, and what it trains before them."""
    predicting = {
        node
        for meeting in discrepancies(view)
        for edge in meeting.sides
        if edge.passes
        for node in view.backward(edge.source)
    }
    found: dict[Part, set[Place]] = {}
    for node, part, given, trained in _calls(view):
        if trained and node in predicting:
            for argument in given:
                found.setdefault(part, set()).update(places_of(view.analysis, view.live(argument)))
    return found


def followed_parts(view: View) -> dict[Part, list[Node]]:
    """The networks that the loss follows without training them (`-critic(z, actor(z))`), and what they are given."""
    found: dict[Part, list[Node]] = {}
    for node, part, given, trained in _calls(view):
        if not trained and view.reaches(node) and view.live(node) and is_followed(view, node):
            found.setdefault(part, []).extend(one for one in given if view.reaches(one))
    return found


def is_followed(view: View, maker: Node) -> bool:
    """Is there a way through layers, sums and means to the loss, in which a minus comes after the last layer?"""
    return is_raised(view, maker, PASSES)


def _calls(view: View) -> Iterator[tuple[Node, Part, tuple[Node, ...], bool]]:
    """(a layer's call, each of the networks that it is in and what that is given, whether its parameters learn)"""
    origins = _origins(view.analysis)
    for node in view.slice:
        weights = [edge for edge in node.inputs if edge.kind == PARAMETER]
        if node.op == "module_call" and weights:
            trained = any(edge.passes and view.live(edge.source) for edge in weights)
            for frame in frames(node):
                yield node, _part(frame.network, origins), frame.arguments, trained


def _origins(analysis: Analysis) -> dict[Network, Network]:
    """Of the copies that losses see: whose they are."""
    origins = analysis.cache.get("origins")
    if not isinstance(origins, dict):
        origins = analysis.cache["origins"] = _find_origins(analysis)
    return origins


def _find_origins(analysis: Analysis) -> dict[Network, Network]:
    pairs = roles(analysis).versions.items()
    known = ((leaf.leaf, tree.leaf) for leaf, tree in pairs)
    owners = ((leaf.owner, tree.owner) for leaf, tree in known if leaf is not None and tree is not None)
    return {
        mine: its
        for copy, original in owners
        if copy is not None and original is not None
        for mine, its in zip(copy.chain(), original.chain(), strict=False)
    }


def _part(network: Network, origins: dict[Network, Network]) -> Part:
    names: list[str] = []
    while True:
        network = _origin(network, origins)
        if network.parent is None or len(names) > 16:
            return network, tuple(names)
        names.append(network.name or network.class_name)
        network = network.parent


def _origin(network: Network, origins: dict[Network, Network]) -> Network:
    for _ in range(4):
        if network in origins or network.copied_from is None:
            break
        network = network.copied_from
    return origins.get(network, network)
