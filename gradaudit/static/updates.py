"""Writes into parameters: copies, averages and their weights, and a network that is written with itself.

What is written is read as a weighted sum of the old value and of other parameters. Numbers that are not known are NaN:
they make every weight that depends on them unknown, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.state import Scope
from gradaudit.static.values import (
    MISSING,
    Const,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Union,
    Unknown,
)
from gradaudit.tape import DATA, OWN, SHARED, Event, Location, Network, Node

UNKNOWN = math.nan
IN_PLACE = frozenset({
    "copy_", "lerp_", "add_", "sub_", "mul_", "div_", "assign", "assign_add", "assign_sub", "set_", "addcmul_",
})  # fmt: skip
SAME = frozenset({"stop", "reshape", "cast", "identity", "clone", "copy", "flatten", "getitem"})
SCALED = SAME | {"div", "clamp", "normalize"}
MOST = 80
MOST_BEHIND = 400  # of what a written value is computed from


@dataclass(frozen=True, slots=True)
class Mix:
    """`old` times what is overwritten, plus `new` times other parameters (`sources`), plus `number`."""

    old: float = 0.0
    new: float = 0.0
    number: float = 0.0
    sources: frozenset[Node] = frozenset()

    def scaled(self, factor: float) -> Mix:
        def times(weight: float) -> float:
            return weight * factor if weight else 0.0

        return Mix(times(self.old), times(self.new), times(self.number), self.sources)

    def plus(self, other: Mix) -> Mix:
        total = self.old + other.old, self.new + other.new, self.number + other.number
        return Mix(*total, self.sources | other.sources)

    def times(self, other: Mix) -> Mix:
        for one, factor in ((self, other), (other, self)):
            if not factor.old and not factor.new:
                return one.scaled(factor.number)
        return Mix(UNKNOWN, UNKNOWN, UNKNOWN, self.sources | other.sources)

    def over(self, other: Mix) -> Mix:
        plain = not other.old and not other.new and other.number
        return self.times(Mix(number=1 / other.number if plain else UNKNOWN))

    @property
    def weight(self) -> float | None:
        """The weight of the old value, where this is an average of old and new."""
        average = abs(self.old + self.new - 1) < 1e-6 and self.number == 0
        return round(self.old, 9) if average else None


SELF = Mix(old=1.0)
"""What is overwritten, and nothing else."""


@dataclass(frozen=True, slots=True)
class Place:
    """A name under which a network is kept; `home` tells the object, mapping or scope that has the name."""

    home: object
    name: str
    location: Location
    conditional: bool


class Updates(Machine):
    kept: dict[Network, tuple[Instance, list[Place]]]
    scaled: dict[Any, Any]

    # -- writes ------------------------------------------------------------------------------------------------------
    def parameter_write(self, leaves: list[Node], new: Any) -> None:
        """The parameters become `new`."""
        self._write(leaves, self._mix(new, frozenset(leaves)))
        if isinstance(new, Node):
            self.entry_write(leaves, new)
            self.statistic_write(leaves, new)

    def data_write(self, leaves: list[Node], new: Any) -> None:
        """The parameters get `new` for their storage: `p.data = new`."""
        before = len(self.events)
        self.parameter_write(leaves, new)
        for event in self.events[before:]:
            if event.kind in ("copy", "soft_update"):
                event.storage = SHARED if _is_storage(new) else OWN

    def entry_write(self, leaves: list[Node], new: Node) -> None:
        """Are parameters, or some rows of them, written with a sum of what they are, decayed, and of data?"""
        for _ in range(6):
            if new.op not in SAME or not new.inputs:
                break
            new = new.inputs[0].source
        parts = [edge.source for edge in new.inputs if edge.kind == DATA]
        if new.op not in ("add", "sub", "lerp") or len(parts) < 2:
            return
        decayed = [self._is_decayed(part, leaves) for part in parts[:2]]
        if new.op == "lerp":
            decayed = [bool(set(self.storage_of(parts[0])) & set(leaves)), False]
        if decayed.count(True) == 1 and math.isnan(self.mix_of(parts[decayed.index(False)], frozenset(leaves)).number):
            self.event("average", leaves=tuple(leaves))

    def statistic_write(self, leaves: list[Node], new: Node) -> None:
        """Are parameters set to a running average of data that is kept beside them: `codes.copy_(sums / counts)`?"""
        if any(_is_running_average(node) for node in _scaled(self.current(new))) and not _is_of_gradient(new):
            self.event("average", leaves=tuple(leaves))

    def _is_decayed(self, node: Node, leaves: list[Node]) -> bool:
        """Is it a product with the parameters that are written, or with rows of them?"""
        factors = [edge.source for edge in node.inputs if edge.kind == DATA] if node.op == "mul" else []
        return any(leaf in leaves for factor in factors for leaf in self.storage_of(factor))

    def write_in_parameters(
        self, leaves: list[Node], name: str, args: Args, keywords: Keywords, base: Mix = SELF
    ) -> None:
        """A method that writes parameters in place; `base` is what it starts from."""
        values = [*args, *(keywords[key] for key in ("other", "value", "end", "input") if key in keywords)]
        if not values:
            return
        if _is_of_gradient(values[0]):  # by hand: plain descent, a line search
            self.event("step", leaves=tuple(leaves))
            return
        mix = self._mix(values[0], frozenset(leaves))
        if name == "set_":
            self.data_write(leaves, values[0])
        elif name in ("copy_", "assign"):
            self._write(leaves, mix)
            if isinstance(values[0], Node):
                self.statistic_write(leaves, values[0])
        elif name in ("mul_", "div_") and base is SELF:
            self._scale(leaves, mix if name == "mul_" else Mix(number=1.0).over(mix))
        elif name in ("mul_", "div_"):
            self._write(leaves, base.times(mix) if name == "mul_" else base.over(mix))
        elif name == "lerp_":
            weight = self.number(values[1] if len(values) > 1 else keywords.get("weight"))
            if isinstance(values[0], Node) and values[0].leaf is None and not mix.sources and math.isnan(mix.number):
                self.event("average", leaves=tuple(leaves))  # of what is computed of data
                return
            self._write(leaves, base.scaled(1 - weight).plus(mix.scaled(weight)))
        elif name in ("add_", "sub_", "assign_add", "assign_sub"):
            alpha = self.number(keywords.get("alpha", Const(1)))
            self._write(leaves, base.plus(mix.scaled(-alpha if "sub" in name else alpha)))
        else:
            sources = self._mix(values, frozenset(leaves)).sources
            self._write(leaves, Mix(UNKNOWN, UNKNOWN, UNKNOWN, sources))

    def recorded_write(self, leaves: list[Node], name: str, args: Args, keywords: Keywords) -> None:
        """Such a write that autograd sees. Into frozen parameters it is allowed, and gives them a history."""
        before = len(self.events)
        self.write_in_parameters(leaves, name, args, keywords)
        if self.current_framework == "tensorflow":
            return  # `variable.assign(x)` passes no gradient to x
        if self.grad_on and not self.grad_guard and all(self.is_frozen(leaf) for leaf in leaves):
            if any(self.reaches_parameters(value) for value in args):
                for event in self.events[before:]:
                    event.tracked = event.kind in ("copy", "soft_update")

    def reaches_parameters(self, value: Any) -> bool:
        """Does gradient go from this value to a parameter that is not frozen, a few steps back?"""
        if isinstance(value, Parameters):
            return any(not self.is_frozen(leaf) for leaf in value.leaves)
        if isinstance(value, Sequence):
            return any(self.reaches_parameters(part) for part in (*value.items, value.rest) if part is not None)
        if not isinstance(value, Node):
            return False
        todo, seen = [value], {value}
        while todo and len(seen) < MOST:
            current = todo.pop()
            if current.leaf is not None and current.leaf.kind == "param" and not self.is_frozen(current):
                return True
            for edge in current.inputs:
                if edge.passes and edge.source not in seen:
                    seen.add(edge.source)
                    todo.append(edge.source)
        return False

    def write_into(self, out: Any, name: str, args: Args, keywords: Keywords) -> None:
        """`torch.add(t, p, alpha=tau, out=t)`."""
        leaves = self.written_in(out)
        self.write_in_parameters(leaves, name + "_", args[1:], keywords, self._mix(args[0], frozenset(leaves)))

    def written_in(self, value: Any) -> list[Node]:
        """The parameters that are written where a value is."""
        if isinstance(value, Sequence):
            return [leaf for part in (*value.items, value.rest) for leaf in self.written_in(part)]
        if isinstance(value, (Parameters, StateDict)):
            return list(value.leaves)
        return self.storage_of(value) if isinstance(value, Node) else []

    def _scale(self, leaves: list[Node], factor: Mix) -> None:
        """`t.mul_(0.99)`: half of an average; the other half is added next."""
        if factor.sources:
            self._write(leaves, Mix(UNKNOWN, UNKNOWN, UNKNOWN, factor.sources))
            return
        for leaf in leaves:
            self.put(self.scaled, leaf, self.scaled.get(leaf, 1.0) * factor.number)

    def _write(self, leaves: list[Node], mix: Mix) -> None:
        pending = {self.scaled.get(leaf, 1.0) for leaf in leaves}
        for leaf in leaves:
            if leaf in self.scaled:
                self.drop(self.scaled, leaf)
        factor = pending.pop() if len(pending) == 1 else 1.0
        if factor != 1.0:
            mix = Mix(mix.old * factor, mix.new, mix.number, mix.sources)
        if mix.sources and not (mix.weight is None and _are_parts(leaves, mix.sources)):
            kind = "soft_update" if mix.old != 0 else "copy"
            self.event(kind, leaves=tuple(leaves), sources=_in_order(mix.sources), weight=mix.weight)
        elif mix.old > 0 and mix.number == 0 and leaves:
            self.written_with_itself(leaves)
        elif leaves and not mix.sources and factor != 1.0 and mix.old != 0:
            self.event("average", leaves=tuple(leaves))

    def updated(self, leaves: list[Node], sources: Iterable[Node], kind: str, weight: float | None = None) -> None:
        """An update of which both sides are known as a whole."""
        others = tuple(leaf for leaf in dict.fromkeys(sources) if leaf not in leaves)
        if others:
            self.event(kind, leaves=tuple(leaves), sources=others, weight=weight)
        elif set(sources) == set(leaves):
            self.written_with_itself(leaves)

    def lost(self, leaves: list[Node], value: Node) -> None:
        """A value that is made of these and of others' parameters alone, as an average of them is."""
        mix = self._mix(value, frozenset(leaves))
        if mix.sources and mix.old != 0 and mix.new != 0 and mix.number == 0 and not _are_parts(leaves, mix.sources):
            self.event("lost", leaves=tuple(leaves), sources=_in_order(mix.sources), weight=mix.weight)

    # -- one network under two names ---------------------------------------------------------------------------------
    def keep(self, home: object, name: str, value: Instance) -> None:
        """A network is kept under a name."""
        places = self.kept.setdefault(value.network, (value, []))[1]
        if len(places) < 12 and not any(place.home is home and place.name == name for place in places):
            if any(place.home is home for place in places):
                self.doubled.setdefault(value.network, {})
            places.append(Place(home, name, self.location(), bool(self.undecided or self.assumed)))

    def written_with_itself(self, leaves: list[Node]) -> None:
        """A copy of a network into itself says that it was meant to be two: told where it got its second name."""
        if self.undecided_callee or self._follows_another(leaves):
            return
        owner = leaves[0].leaf.owner if leaves and leaves[0].leaf is not None else None
        for network in owner.chain() if owner is not None else ():
            instance, places = self.kept.get(network, (None, []))
            if instance is None or set(self.parameters_of(instance)) != set(leaves):
                continue
            second = _second(places)  # of a network that is one part only, both hold the same
            if second is not None:
                if not second.conditional:
                    self.alias(leaves, second.location)
                return

    def _follows_another(self, leaves: list[Node]) -> bool:
        """Was it averaged with another network already? A tree of averages is written back, then, no second name."""
        return any(event.kind == "soft_update" and set(event.leaves) == set(leaves) for event in self.events)

    def alias(self, leaves: list[Node], location: Location) -> None:
        known = any(event.kind == "alias" and event.location == location for event in self.events)
        if not known:
            self.events.append(Event("alias", self.tick(), location, leaves=tuple(leaves), loops=self.loop_keys))

    # -- what is written ---------------------------------------------------------------------------------------------
    def number(self, value: Any) -> float:
        """The number that a value is known to be, by default at least; NaN where it is not."""
        if isinstance(value, Const):
            return float(value.value) if isinstance(value.value, (int, float)) else UNKNOWN
        if isinstance(value, Unknown):
            default = value.default
            return float(default) if isinstance(default, (int, float)) else UNKNOWN
        if isinstance(value, Node):
            mix = self._mix(value, frozenset())
            return UNKNOWN if mix.sources else mix.number
        return UNKNOWN

    def mix_of(self, node: Node, written: frozenset[Node]) -> Mix:
        return self._mix_of_node(node, written, {})

    def _mix(self, value: Any, written: frozenset[Node]) -> Mix:
        if isinstance(value, StateDict) and value.written is not None:
            return self._mix(value.written, written)
        if isinstance(value, (Parameters, StateDict)):
            return _of_leaves(value.leaves, written)
        if isinstance(value, (Const, Unknown)) and not self._is_network(value):
            return Mix(number=self.number(value))
        if isinstance(value, Node):
            return self._mix_of_node(self.current(value), written, {})
        if isinstance(value, (Sequence, Mapping, list, Union)):
            return self._mix_of_parts(value, written)
        if isinstance(value, Instance):
            return _of_leaves(self.parameters_of(value), written) if self.is_module(value) else Mix(number=UNKNOWN)
        return Mix(number=UNKNOWN)

    def _is_network(self, value: Any) -> bool:
        return isinstance(value, Unknown) and value.leaf is not None

    def _mix_of_parts(self, value: Any, written: frozenset[Node]) -> Mix:
        """The values of a dictionary of parameters, or a list of them: each is written into its own."""
        parts = value
        if isinstance(value, Sequence):
            parts = [part for part in (*value.items, value.rest) if part is not None]
        elif isinstance(value, Union):
            parts = list(value.alternatives)
        elif isinstance(value, Mapping):
            parts = [part for part in value.entries.values() if part is not MISSING]
        mixes = [self._mix(part, written) for part in parts[:64]]
        sources = frozenset(leaf for mix in mixes for leaf in mix.sources)
        weights = {(mix.old, mix.new, mix.number) for mix in mixes}
        return Mix(*weights.pop(), sources) if len(weights) == 1 else Mix(UNKNOWN, UNKNOWN, UNKNOWN, sources)

    def _mix_of_node(self, node: Node, written: frozenset[Node], known: dict[Node, Mix]) -> Mix:
        if node not in known:
            known[node] = Mix(UNKNOWN, UNKNOWN, UNKNOWN)  # while it is being read: a loop
            known[node] = self._read(node, written, known)
        return known[node]

    def _read(self, node: Node, written: frozenset[Node], known: dict[Node, Mix]) -> Mix:
        leaf = node.leaf
        if leaf is not None and leaf.kind in ("param", "arg"):
            return _of_leaves((node,), written)
        if leaf is not None or node.op == "const":
            return Mix(number=_parsed(node.detail))
        parts = [edge.source for edge in node.inputs if edge.kind == DATA]
        if node.op in SAME and parts:
            return self._mix_of_node(parts[0], written, known)
        if node.op == "pack":
            return _pack([self._mix_of_node(part, written, known) for part in parts])
        count, combine = COMBINE.get(node.op, (0, None))
        if combine is not None and len(parts) == count and len(known) < MOST:
            return combine(*(self._mix_of_node(part, written, known) for part in parts))  # type: ignore[no-any-return]
        behind = frozenset(self.leaves_behind(node))
        old, new = UNKNOWN if behind & written else 0.0, UNKNOWN if behind - written else 0.0
        return Mix(old, new, UNKNOWN, behind - written)


def _are_parts(leaves: Iterable[Node], sources: Iterable[Node]) -> bool:
    """Free parameters of one module, of which one is set from another: a normalisation, no network and its average."""
    owners = {leaf.leaf.owner for leaf in (*leaves, *sources) if leaf.leaf is not None}
    return len(owners) == 1 and None not in owners


def _of_leaves(leaves: Iterable[Node], written: frozenset[Node]) -> Mix:
    found = frozenset(leaves)
    sources = found - written
    return Mix(1.0 if found & written else 0.0, 1.0 if sources else 0.0, 0.0, sources)


def _pack(mixes: list[Mix]) -> Mix:
    """Parameters of one network, side by side: each is a summand of its own."""
    sources = frozenset(leaf for mix in mixes for leaf in mix.sources)
    return Mix(max((mix.old for mix in mixes), default=0.0), max((mix.new for mix in mixes), default=0.0), 0.0, sources)


def _lerp(start: Mix, end: Mix, weight: Mix) -> Mix:
    return start.times(Mix(number=1.0).plus(weight.scaled(-1))).plus(end.times(weight))


COMBINE: dict[str, tuple[int, Any]] = {
    "add": (2, Mix.plus),
    "sub": (2, lambda one, other: one.plus(other.scaled(-1))),
    "mul": (2, Mix.times),
    "div": (2, Mix.over),
    "neg": (1, lambda one: one.scaled(-1)),
    "lerp": (3, _lerp),
}


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return UNKNOWN


def _is_of_gradient(value: Any) -> bool:
    """Is it a gradient, or computed with one?"""
    if isinstance(value, Unknown):
        return value.plain and value.name == "grad"
    waiting = [value] if isinstance(value, Node) else []
    seen = set(waiting)
    while waiting and len(seen) < MOST_BEHIND:
        current = waiting.pop()
        if current.op == "gradient" or current.op == "const" and current.detail == "grad":
            return True
        for edge in current.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def _is_storage(value: Any) -> bool:
    """Is it the storage of parameters themselves: `p`, `p.data`, `p.detach()`?"""
    if isinstance(value, StateDict):
        return value.shares and value.written is None
    if not isinstance(value, Node):
        return isinstance(value, Parameters)
    while value.op == "stop" and value.detail in (".data", "stop_gradient") and value.inputs:
        value = value.inputs[0].source
    return value.leaf is not None and value.leaf.kind == "param"


def _scaled(node: Node) -> Iterable[Node]:
    """What a value is but for its scale, of each branch in which it may have been made."""
    seen, waiting = {node}, [node]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        parts: list[Node] = []
        if node.op == "store":  # what was written last into the storage of the average
            parts = [node.inputs[-1].source]
        elif node.op in SCALED and node.inputs:
            parts = [node.inputs[0].source]
        elif node.op in ("phi", "where"):  # `if self.training: sums.lerp_(...)`, dead codes that are drawn anew
            parts = node.arguments()
        else:
            yield node
        waiting += [part for part in parts if part not in seen]
        seen.update(parts)


def _is_running_average(node: Node) -> bool:
    """Is it a sum of what is kept from call to call, decayed, and of something else?"""
    parts = [edge.source for edge in node.inputs if edge.kind == DATA][:2]
    if node.op not in ("add", "lerp", "index_add", "scatter_add") or len(parts) < 2:
        return False
    decayed = [part.arguments() if part.op == "mul" else [] for part in parts]
    groups = [parts[:1], parts[1:]] if node.op == "lerp" else decayed
    kept = [any(_is_state(factor, node) for factor in group) for group in groups]
    return kept == [True, False] or kept == [False, True] and node.op == "add"


def _is_state(node: Node, average: Node) -> bool:
    """Is it what is kept from call to call: what was set up in the beginning, or what the same line made before?"""
    for _ in range(8):
        if node.op in ("alloc", "random") or node.leaf is not None and node.leaf.kind == "param":
            return True
        if node.op == average.op and node.location == average.location:
            return True
        if node.op not in SAME and not (node.op == "phi" and node.detail == "loop") or not node.inputs:
            return False
        node = node.inputs[0].source
    return False


def _in_order(leaves: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(sorted(leaves, key=lambda leaf: leaf.time))


def _second(places: list[Place]) -> Place | None:
    """The last place that is another name in the same object, else in the same scope. A registry's entry is no name of
    its owner's."""
    names = [place for place in places if "." not in place.name]
    again = [one for index, one in enumerate(names) if any(place.home is one.home for place in names[:index])]
    lasting = [one for one in again if not isinstance(one.home, Scope)]
    return next(reversed(lasting or again), None)
