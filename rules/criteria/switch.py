"""K3: a switch that is to stop gradient, and what it does.

A recorder turns `lax.select(flag, stop(x), x)`, `x if flag else x.detach()` and `if flag: x = x.detach()` into a join
whose arms are guarded by a symbol. An arm whose value is the other's without its gradient makes the switch a *stopper*.
A join whose arms are alike in value and in gradient does nothing: whoever set the flag is not served.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.bootstrap import is_return
from gradaudit.rules.criteria.expand import expand
from gradaudit.rules.criteria.marks import marks
from gradaudit.tape import Edge, Literal, Node, Symbol, join_guards

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

STOPPING = frozenset("stop stops stopped detach detached freeze frozen fixed block sg nograd".split())
PASSING = frozenset("grad grads gradient gradients backprop backpropagate differentiable train trainable".split())
CARRIES = frozenset({"phi", "stop", "reshape", "cast", "identity"})
NEGATIONS = frozenset("no not without disable disabled skip".split())


class Switch(NamedTuple):
    """A join of two arms under one symbol; `stops` is the value of the symbol that stops gradient, if one does."""

    node: Node
    symbol: Symbol
    when_true: Edge
    when_false: Edge
    stops: bool | None

    @property
    def dead(self) -> bool:
        """Neither arm stops: both hold the same value with the same gradient."""
        return self.stops is None

    @property
    def live_arm(self) -> Edge:
        return self.when_false if self.stops else self.when_true


def switches(analysis: Analysis) -> list[Switch]:
    """Every join of equal values under one symbol that stops gradient in one arm, or that is about stopping it."""
    known = analysis.cache.get("switches")
    if known is None:
        joins = [node for node in analysis.graph.nodes if node.op == "phi"]
        choices = [found for node in joins for found in [_choice(analysis, node)] if found]
        known = [found for choice in choices for found in [_stopper(analysis, choice)] if found]
        about = {switch.symbol.key for switch in known}
        known += [
            Switch(choice.node, choice.symbol, choice.when_true, choice.when_false, None)
            for choice in choices
            if all(choice.alive) and (choice.symbol.key in about or _named_stop(choice.symbol) is not None)
            if _equal(analysis, choice) and analysis.algebra.alike(choice.when_true.source, choice.when_false.source)
        ]
        analysis.cache["switches"] = known
    assert isinstance(known, list)
    return known


class _Choice(NamedTuple):
    """A join of two arms under one symbol, and the leaves that gradient reaches through each of them."""

    node: Node
    symbol: Symbol
    when_true: Edge
    when_false: Edge
    alive: tuple[int, int]


def _choice(analysis: Analysis, node: Node) -> _Choice | None:
    if node.detail == "loop" or len(node.inputs) != 2 or not node.inputs[0].guard:
        return None
    first, second = node.inputs
    literal = _deciding(first, second)
    symbol = analysis.tape.symbols.get(literal[0]) if literal is not None else None
    if literal is None or symbol is None:
        return None
    true, false = (first, second) if literal[1] else (second, first)
    lives = _alive_under(analysis, true, (symbol.key, True)), _alive_under(analysis, false, (symbol.key, False))
    return _Choice(node, symbol, true, false, lives) if any(lives) else None


def _stopper(analysis: Analysis, choice: _Choice) -> Switch | None:
    if all(choice.alive) or not _equal(analysis, choice):
        return None
    return Switch(choice.node, choice.symbol, choice.when_true, choice.when_false, not choice.alive[0])


def _equal(analysis: Analysis, choice: _Choice) -> bool:
    return analysis.algebra.same(choice.when_true.source, choice.when_false.source)


def _deciding(first: Edge, second: Edge) -> Literal | None:
    """The literal of `first` whose opposite guards `second`."""
    for symbol, value in sorted(first.guard):
        if (symbol, not value) in second.guard:
            return symbol, value
    return None


def _alive_under(analysis: Analysis, edge: Edge, literal: Literal) -> int:
    """The leaves that gradient reaches through this arm where the symbol has that value."""
    position = analysis.graph.index.get(edge.source)
    if position is None or not edge.passes:
        return 0
    mask = 0
    for guard, leaves in analysis.graph.live[position].items():
        if join_guards(guard, frozenset({literal})) is not None:
            mask |= leaves
    return mask


def stopping_value(analysis: Analysis, symbol: Symbol) -> bool | None:
    """The value of the symbol that stops gradient: where it does so elsewhere, else as its name says."""
    siblings = {switch.stops for switch in switches(analysis) if switch.symbol is symbol and switch.stops is not None}
    return siblings.pop() if len(siblings) == 1 else _named_stop(symbol)


def _named_stop(symbol: Symbol) -> bool | None:
    """The value that stops gradient as the symbol's name says."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", symbol.name).lower())
    negated = not NEGATIONS.isdisjoint(words)
    if not STOPPING.isdisjoint(words):
        return not negated
    if not PASSING.isdisjoint(words):
        return negated
    return None


def dead_switches(analysis: Analysis) -> Iterator[tuple[Switch, View]]:
    """Joins that do nothing on a live value, each with the sink that reaches it."""
    for switch in switches(analysis):
        if (
            switch.stops is not None
            or stopping_value(analysis, switch.symbol) is None
            or is_shift(analysis, switch.node)
        ):
            continue  # a switch of something else may well choose between equal values
        for view in analysis.views:
            if view.reaches(switch.node) and view.live(switch.node) and not view.sink.called:
                yield switch, view
                break


def asked_for(analysis: Analysis, switch: Switch) -> bool:
    """Whether the value that is to stop is the default, or some call passes it."""
    stops = stopping_value(analysis, switch.symbol)
    if stops is None:
        return False
    default = switch.symbol.default
    return (default is not None and bool(default) == stops) or _passed(switch.symbol, stops)


def _passed(symbol: Symbol, value: bool) -> bool:
    """Whether some call in the project passes that value, or something that may be it."""
    return any(given is ... or bool(given) == value for given in symbol.passed)


def unused(switch: Switch, stops: bool | None) -> bool:
    """The project calls the function, and no call ever asks for the stop: an option that nobody needs here."""
    return stops is not None and bool(switch.symbol.passed) and not _passed(switch.symbol, stops)


def is_shift(analysis: Analysis, node: Node) -> bool:
    """The maximum that is taken off before `exp` and put back after `log`: its gradient cancels, stopped or not."""
    if not _is_maximum(node):
        return False
    graph = analysis.graph
    carriers, waiting, taken_off = {node}, [node], False
    while waiting:
        for position in graph.users[graph.index[waiting.pop()]]:
            user = graph.nodes[position]
            if user.op in CARRIES:
                if user not in carriers:
                    carriers.add(user)
                    waiting.append(user)
            elif user.op == "sub" and user.inputs[-1].source in carriers:
                taken_off = True
            elif user.op not in ("add", "compare"):
                return False
    return taken_off


def _is_maximum(node: Node) -> bool:
    for _ in range(8):
        callee = node.detail.rsplit(".", 1)[-1].lower() if node.op == "call" else ""
        if node.op in ("max", "amax", "pmax") or "max" in callee:
            return True
        if node.op not in CARRIES or not node.inputs:
            return False
        node = node.inputs[0].source
    return False


def worth_stopping(view: View, switch: Switch) -> bool:
    """Whether the program builds something here that must not carry gradient: a return, an advantage, a target."""
    if unused(switch, stopping_value(view.analysis, switch.symbol)):
        return False
    return is_target(view, switch.when_true.source) or is_target(view, switch.when_false.source)


def is_target(view: View, node: Node) -> bool:
    """Rewards and bootstrapped values in one sum, however it was scanned, scaled or projected."""
    leaves = view.live(node)
    if not leaves:
        return False
    total = expand(view.analysis, node)
    facts = marks(view.analysis)
    rewards = [atom for atom in total.atoms if facts.reward(atom.node)]
    return is_return(view, total, leaves) or (bool(rewards) and len(rewards) < len(total.atoms))


def _forms_target(view: View, switch: Switch) -> bool:
    """Whether the live arm is a target, or the value that the returned one bootstraps from."""
    live = switch.live_arm.source
    if is_target(view, live):
        return True
    total = expand(view.analysis, view.sink.loss)
    facts = marks(view.analysis)
    signs = {atom.sign for atom in total.atoms if facts.reward(atom.node)}
    return any(atom.node is live and atom.sign in signs for atom in total.atoms)


def open_by_default(analysis: Analysis) -> Iterator[tuple[Switch, View]]:
    """Targets that a public function without callers leaves open unless it is asked for the stop."""
    told: set[str] = set()
    for switch in switches(analysis):
        symbol = switch.symbol
        if switch.stops is None or not symbol.parameter or symbol.default is None or symbol.key in told:
            continue
        if bool(symbol.default) == switch.stops or unused(switch, switch.stops):
            continue
        for view in analysis.views:
            if view.sink.kind != "library" or view.sink.function.split(".")[-1].startswith("_"):
                continue
            if view.reaches(switch.node) and _forms_target(view, switch) and not view.sink.called:
                told.add(symbol.key)
                yield switch, view
                break
