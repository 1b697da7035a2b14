"""Findings out of what a criterion found: message, severity, line, trace and the leaves that it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradaudit.finding import Finding, Fix, Step
from gradaudit.rules.criteria.place import at_identity
from gradaudit.tape import Location, Network, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Rooted(Finding):
    """A finding that remembers the leaves it is about: two rules that speak of one root at one line are one thing."""

    roots: frozenset[Node] = frozenset()


def make_finding(
    view: View,
    code: str,
    name: str,
    message: str,
    severity: str,
    location: Location,
    *,
    fix: str = "",
    leaves: int = 0,
    through: Sequence[Node] = (),
) -> Rooted:
    """A finding of one sink. `through` are nodes that the trace must pass, the nearest to the loss first."""
    if through:
        location = at_identity(view, location, leaves, through)
    return Rooted(
        code,
        name,
        message,
        severity,
        location,
        view.analysis.tape.framework,
        Fix(fix) if fix else None,
        trace(view, leaves, through),
        roots=frozenset(view.analysis.leaves(leaves)),
    )


def trace(view: View, leaves: int, through: Sequence[Node] = ()) -> tuple[Step, ...]:
    """The lines from the loss to the origin, each once in a row."""
    nodes: list[Node] = [view.sink.loss]
    if through and view.reaches(through[0]):
        nodes = view.way_to_loss(through[0])[::-1] or nodes
    for node in through[1:]:
        nodes.append(node)
    nodes += view.path(nodes[-1], leaves)[1:]
    steps = [Step(view.sink.location, "the loss is differentiated here")]
    for node in nodes:
        if node.leaf is not None and node.leaf.kind == "const" or node.op == "phi" and node.detail != "switch":
            continue  # what goes round a loop, or is left by a branch, stands at no line of its own
        step = Step(node.location, _says(node))
        if _line(step.location) == _line(steps[-1].location):
            if len(steps) > 1 and node.leaf is None and not steps[-1].message.endswith(MADE):
                steps[-1] = Step(steps[-1].location, _says(node))
            continue
        steps.append(step)
    return tuple(steps)


MADE = "is made here"
"""What tells most of a line: the name that the user gave to what is on it."""


def _line(location: Location) -> tuple[str, int]:
    return location.path, location.line


def _says(node: Node) -> str:
    if node.leaf is not None:
        return f"parameters of {label(node)}"
    if node.name.isidentifier():
        return f"{node.name} {MADE}"
    if node.op == "module_call":
        owner = node.frame.network.path if node.frame is not None else ""
        return f"output of {owner}" if owner else "output of a network"
    return f"{node.op}({node.detail})" if node.detail and node.op == "call" else node.op.replace("_", " ")


def label(leaf: Node) -> str:
    """What a reader calls this leaf: the network that owns it, else its own name."""
    known = leaf.leaf
    if known is None:
        return leaf.name or "a value"
    if known.owner is not None:
        chain = [network.name for network in known.owner.chain() if network.name]
        if chain:
            return chain[-1] if chain[-1] not in ("self", "") else chain[-2] if len(chain) > 1 else chain[-1]
    return known.name or leaf.name or "a parameter"


def names_of(analysis: Analysis, leaves: int) -> str:
    """`critic and actor`, at most three of them, quoted; of a network with other parts, the parts: `agent.critic`."""
    return names_of_leaves(analysis, analysis.leaves(leaves))


def names_of_leaves(analysis: Analysis, leaves: Sequence[Node]) -> str:
    """The same, of parameters that no loss may be made of."""
    whole = _wholes(analysis, set(leaves))
    return listed(dict.fromkeys(f"`{_part(leaf, whole) or label(leaf)}`" for leaf in leaves))


def _wholes(analysis: Analysis, leaves: set[Node]) -> set[Network]:
    """The outermost networks of which no loss has anything but these leaves."""
    known = analysis.cache.get("owners")
    if known is None:
        owners: dict[Network, set[Node]] = {}
        for node in analysis.graph.leaves:
            if node.leaf is not None and node.leaf.owner is not None:
                owners.setdefault(node.leaf.owner.outermost(), set()).add(node)
        known = analysis.cache["owners"] = owners
    assert isinstance(known, dict)
    return {network for network, owned in known.items() if owned <= leaves}


def _part(leaf: Node, wholes: set[Network]) -> str:
    """The outermost named part of a network that is not meant as a whole."""
    if leaf.leaf is None or leaf.leaf.kind not in ("param", "arg") or leaf.leaf.owner is None:
        return ""
    if leaf.leaf.kind == "arg":  # an entry of a tree that is differentiated
        tree = leaf.leaf.owner.outermost()
        return "" if tree in wholes or not tree.name.isidentifier() else ".".join(leaf.leaf.path.split(".")[:2])
    outer, *inner = [network for network in leaf.leaf.owner.chain()][::-1]
    if outer in wholes or not inner or not inner[0].name.isidentifier() or outer.name in ("self", ""):
        return ""
    return f"{outer.name}.{inner[0].name}"


def labels(leaves: Iterable[Node]) -> str:
    return listed(dict.fromkeys(f"`{label(leaf)}`" for leaf in leaves))


def listed(words: Iterable[str]) -> str:
    known = list(words)
    if len(known) > MOST_NAMES:
        known = [*known[: MOST_NAMES - 1], f"{len(known) - MOST_NAMES + 1} more"]
    if len(known) < 2:
        return "".join(known)
    return f"{', '.join(known[:-1])} and {known[-1]}"


def stop_call(analysis: Analysis) -> str:
    """How this framework spells a stop."""
    return {"jax": "jax.lax.stop_gradient(...)", "tensorflow": "tf.stop_gradient(...)"}.get(
        analysis.tape.framework, ".detach() or torch.no_grad()"
    )
