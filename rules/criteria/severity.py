"""How bad it is: does a step use the gradient, is it left lying, does a switch decide?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradaudit.ownership import deposit
from gradaudit.rules.criteria.roles import roles
from gradaudit.rules.criteria.switch import stopping_value
from gradaudit.tape import Guard, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View


def severity(view: View, leaves: int) -> str:
    """error where a step uses this gradient, warning where it is left in leaves that nobody steps or that are cleared.

    A role that the user states binds: gradient into a stated frozen group is an error.
    """
    analysis = view.analysis
    facts = roles(analysis)
    found = analysis.leaves(leaves)
    if any(facts.stated(leaf) == "frozen" for leaf in found):
        return "error"
    if view.sink.kind == "library":
        return "warning"
    if view.own is not None:
        if view.own & leaves:
            return "error"
        held = [leaf for leaf in found if leaf in facts.held]
        return "error" if any(deposit(analysis.tape, view.sink, leaf) == "used" for leaf in held) else "warning"
    copies = [leaf for leaf in found if facts.target(leaf)]
    return "warning" if len(copies) == len(found) else "error"


def decided(view: View, node: Node, leaves: int) -> bool:
    """Does a gradient switch decide whether the loss reaches `leaves` through `node`, and is it off by default?"""
    guards = [guard - view.sink.guard for guard in view.guards(node, leaves)]  # what it takes for there to be a loss
    return bool(guards) and all(_off(view.analysis, guard) for guard in guards)


def _off(analysis: Analysis, guard: Guard) -> bool:
    for key, value in guard:
        symbol = analysis.tape.symbols.get(key)
        if symbol is not None and isinstance(symbol.default, bool) and symbol.default is not value:
            if stopping_value(analysis, symbol) is (not value):
                return True
    return False


def switched(view: View, node: Node, leaves: int) -> bool:
    """Is there a parameter of the function that is to stop this gradient, whatever it does?"""
    guards = view.guards(node, leaves)
    return bool(guards) and all(any(_stops(view.analysis, key) for key, _ in guard) for guard in guards)


def _stops(analysis: Analysis, key: str) -> bool:
    symbol = analysis.tape.symbols.get(key)
    return symbol is not None and symbol.parameter and stopping_value(analysis, symbol) is not None
