"""What a network is called by where it is used: whether a second name of it is meant to be another network.

`ref = model`, and in one function `model(x)` with gradient and `ref(x)` without: whoever writes so takes the second for
a copy. Only networks that one object (or scope) keeps under two names are followed. In jax, gradient is what a network
gets as the argument of a gradient function; without it is what the loss is given of it as data.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.state import Scope
from gradaudit.static.syntax import last_name
from gradaudit.static.updates import Place
from gradaudit.static.values import Instance
from gradaudit.tape import DATA, Event, Location, Network, Node

BESIDE = frozenset(
    "eval train to cpu cuda half float double bfloat16 requires_grad_ zero_grad apply parameters named_parameters "
    "buffers state_dict load_state_dict children modules named_modules share_memory compile".split()
)
"""Methods of a network that ask for no answer of it."""
CHOICES = frozenset({"argmax", "argmin", "compare", "sample", "random", "call"})
MOST = 4000


@dataclass(slots=True)
class Uses:
    """In one function: the names under which a network is asked for answers with gradient, and without."""

    live: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    asked: list[tuple[str, Location]] = field(default_factory=list)
    """jax: each name and where; which of the two it was is seen when all losses are known."""


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
                if self.current_framework == "jax":
                    uses = self.doubled[value.network].setdefault(_outermost(scope), Uses())
                    uses.asked.append((name, self.location()))
                    continue
                uses = self.doubled[value.network].setdefault(scope, Uses())
                (uses.live if self.grad_on else uses.stopped).add(name)

    def second_names(self) -> None:
        """At the end of an entry: the names that were used for answers without gradient only, in a function that asks
        the network by its other name as well."""
        told = {event.location for event in self.events if event.kind == "alias"}
        for network, used in self.doubled.items():
            instance, places = self.kept[network]
            if self.has_variables(instance):
                self._as_losses_say(instance, used)
            live = set().union(*(uses.live for uses in used.values()))
            for uses in used.values() if live else ():
                stopped = [place for place in places if place.name in uses.stopped - live and not place.conditional]
                beside = (uses.live | uses.stopped) - {place.name for place in stopped}
                if beside and len(stopped) == 1 and stopped[0] is not places[0] and stopped[0].location not in told:
                    leaves = tuple(self.parameters_of(instance))
                    self.events.append(Event("second_name", self.tick(), stopped[0].location, leaves=leaves))
                    break

    def _as_losses_say(self, instance: Instance, used: dict[Scope, Uses]) -> None:
        """What is differentiated for the network is asked with gradient, what enters such a loss as data is not."""
        mine = set(self.parameters_of(instance))
        taken = [event for event in self.events if event.kind == "backward" and event.sink is not None]
        sinks = [event.sink for event in taken if event.sink and mine & {*event.leaves, *event.sources}]
        learning = {sink.location for sink in sinks} | {at for sink in sinks for at in _around(sink.loss)}
        given = {at for sink in sinks for node in _made_of(sink.loss) for at in (node.location, *_around(node))}
        for uses in used.values():
            uses.live.update(name for name, at in uses.asked if at in learning)
            uses.stopped.update(name for name, at in uses.asked if at in given - learning)


def _outermost(scope: Scope) -> Scope:
    """The function that the loss is written in."""
    while scope.parent is not None and scope.parent.parent is not None:
        scope = scope.parent
    return scope


def _around(node: Node) -> Iterator[Location]:
    """Where the functions were called that made it."""
    call = node.call
    while call is not None:
        yield call.location
        call = call.parent


def _made_of(loss: Node) -> set[Node]:
    """What a loss is computed of, as data or not; an action that was chosen says nothing of who chose it."""
    found, waiting = {loss}, [loss]
    while waiting and len(found) < MOST:
        node = waiting.pop()
        for edge in node.inputs if node.op not in CHOICES else ():
            if edge.kind == DATA and edge.source not in found:
                found.add(edge.source)
                waiting.append(edge.source)
    return found
