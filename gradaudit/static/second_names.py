"""What a network is called by where it is used: whether a second name of it is meant to be another network.

`ref = model`, and in one function `model(x)` with gradient and `ref(x)` without: whoever writes so takes the second for
a copy. Only networks that one object (or scope) keeps under two names are followed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.state import Scope
from gradaudit.static.syntax import last_name
from gradaudit.static.updates import Place
from gradaudit.static.values import Instance
from gradaudit.tape import Event, Network

BESIDE = frozenset(
    "eval train to cpu cuda half float double bfloat16 requires_grad_ zero_grad apply parameters named_parameters "
    "buffers state_dict load_state_dict children modules named_modules share_memory compile".split()
)
"""Methods of a network that ask for no answer of it."""


@dataclass(slots=True)
class Uses:
    """In one function: the names under which a network is asked for answers with gradient, and without."""

    live: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)


class SecondNames(Machine):
    kept: dict[Network, tuple[Instance, list[Place]]]
    doubled: dict[Network, dict[Scope, Uses]]
    """Networks that one object or scope keeps under two names, and how each function uses them."""

    def note_names(self, expression: ast.Call, function: Any, args: list[Any], scope: Scope) -> None:
        """A call that asks a network that has two names, or hands one in."""
        asked, callee = expression.func, function
        if not isinstance(function, Instance) and isinstance(asked, ast.Attribute) and asked.attr not in BESIDE:
            asked = asked.value
            callee = self.evaluate(asked, scope) if last_name(asked) else None
        starred = any(isinstance(part, ast.Starred) for part in expression.args)
        for part, value in ((asked, callee), *(() if starred else zip(expression.args, args, strict=True))):
            name = last_name(part)
            if name and isinstance(value, Instance) and value.network in self.doubled:
                uses = self.doubled[value.network].setdefault(scope, Uses())
                (uses.live if self.grad_on else uses.stopped).add(name)

    def second_names(self) -> None:
        """At the end of an entry: the names that were used for answers without gradient only, in a function that asks
        the network by its other name as well."""
        told = {event.location for event in self.events if event.kind == "alias"}
        for network, used in self.doubled.items():
            instance, places = self.kept[network]
            live = set().union(*(uses.live for uses in used.values()))
            for uses in used.values() if live else ():
                stopped = [place for place in places if place.name in uses.stopped - live and not place.conditional]
                beside = (uses.live | uses.stopped) - {place.name for place in stopped}
                if beside and len(stopped) == 1 and stopped[0] is not places[0] and stopped[0].location not in told:
                    leaves = tuple(self.parameters_of(instance))
                    self.events.append(Event("second_name", self.tick(), stopped[0].location, leaves=leaves))
                    break
