"""What happens to parameters beside the graph: which optimizers hold them, and which networks are copies.

A run of one loss shows neither steps nor copies. Living optimizers say what they hold; a network whose every tensor
equals another's was copied from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from gradaudit.dynamic.roles import TRAINED
from gradaudit.dynamic.torch_recorder.in_text import Step, Text
from gradaudit.dynamic.torch_recorder.ranks import local
from gradaudit.dynamic.torch_recorder.reach import Reach, living
from gradaudit.dynamic.torch_recorder.updates import BACKWARD, GRADIENT, Entry
from gradaudit.tape import Event, Location, Network, Node, Optimizer, Sink, Tape

_LAGGING = re.compile(r"target|tgt|targ|ema|momentum|teacher|old|ref|slow|shadow|copy|lag|avg|average|frozen|prev|key")
_Pair = tuple[torch.nn.Module, Network]
_PLAIN = frozenset("optim optimizer optimiser opt loss fn compute step update the of self get calculate calc".split())


def add_events(
    tape: Tape,
    reach: Reach,
    leaves: Mapping[int, Node],
    tick: Callable[[], int],
    nowhere: Location,
    before: Sequence[Entry] = (),
    after: Sequence[Entry] = (),
) -> None:
    """A hold event for every living optimizer that takes a parameter in reach, and what happens to parameters.

    `before` and `after` are the log of a function that does the whole update; without it, the step of the loss's own
    optimizer is guessed.
    """
    records: list[Optimizer] = []
    nameless: dict[frozenset[Node], Optimizer] = {}
    of: dict[int, Optimizer] = {}
    frozen: set[Node] = set()
    for optimizer in living(torch.optim.Optimizer):
        given = [one for group in optimizer.param_groups for one in group["params"] if id(one) in leaves]
        taken = {leaves[id(one)] for one in given}
        if not taken:
            continue
        frozen |= {leaves[id(one)] for one in given if not one.requires_grad}
        name = reach.optimizers[id(optimizer)][1] if id(optimizer) in reach.optimizers else ""
        record = Optimizer(name, taken, location=nowhere)
        if not name:  # one that the function makes is made again in every run of it
            record = nameless.setdefault(frozenset(taken), record)
        of[id(optimizer)] = record
        if record not in records:
            records.append(record)
    text = None if before or after or tape.roles else Text(reach.call)
    if text is not None and not records:
        records = _in_text(text, leaves, nowhere)
    named = [record.leaves for record in records if record.name]
    records = [record for record in records if record.name or record.leaves not in named]
    records.sort(key=lambda record: (record.name, min(leaf.time for leaf in record.leaves)))
    for record in records:
        taken_by = tuple(sorted(record.leaves, key=_time))
        tape.optimizers.append(record)
        tape.events.append(Event("hold", 0, nowhere, optimizer=record, leaves=taken_by))
    if frozen:  # an optimizer passes over them
        tape.events.append(Event("freeze", 0, nowhere, leaves=tuple(sorted(frozen, key=_time))))
    sink = tape.sinks[0]
    tape.events.append(Event("backward", sink.time, nowhere, sink=sink))
    happened = [event for entry in before for event in _events(entry, entry.time, of, leaves)]
    happened += [event for entry in after for event in _events(entry, tick(), of, leaves)]
    for event in happened:
        if event.kind == "step" and event.optimizer is None:  # one of another run, which holds the same
            event.optimizer = next((one for one in records if one.leaves == set(event.leaves)), None)
    tape.events += _together(happened)
    step = text.step([record.name.rpartition(".")[2] for record in records]) if text is not None else None
    own = None if before or after or TRAINED in tape.roles.values() else _own(records, sink, step)
    if own is not None:
        told = step is not None and step.alone and step.name == own.name.rpartition(".")[2]
        place = Location(tape.path, step.line) if step is not None and told else nowhere
        tape.events.append(Event("step", tick(), place, optimizer=own, leaves=tuple(sorted(own.leaves, key=_time))))
    held = {leaf for record in records for leaf in record.leaves}
    for copy, origin in copies(reach, held, leaves):
        _mark(copy, origin, leaves)


def _in_text(text: Text, leaves: Mapping[int, Node], nowhere: Location) -> list[Optimizer]:
    """The optimizers that only the text of the module has."""
    found = (
        (one.name, {leaves[id(each)] for each in one.parameters if id(each) in leaves}) for one in text.optimizers()
    )
    return [Optimizer(name, taken, location=nowhere) for name, taken in found if taken]


def _events(entry: Entry, time: int, of: Mapping[int, Optimizer], leaves: Mapping[int, Node]) -> list[Event]:
    touched = tuple(leaves[id(one)] for one in entry.tensors if id(one) in leaves and entry.kind != BACKWARD)
    sources = tuple(leaves[id(one)] for one in entry.sources if id(one) in leaves)
    optimizer = of.get(id(entry.optimizer))
    if entry.kind == GRADIENT or (entry.kind != BACKWARD and not touched):
        return []
    if entry.sources and not sources:
        return []
    weight = entry.weight
    return [
        Event(entry.kind, time, entry.location, optimizer=optimizer, leaves=touched, sources=sources, weight=weight)
    ]


def _together(events: Sequence[Event]) -> Iterator[Event]:
    """The events, but for the writes of one statement from one network into another one, which are one event."""
    known: dict[tuple[object, ...], Event] = {}
    for event in events:
        if not event.sources:
            known.clear()
            yield event
            continue
        key = (event.kind, event.location, _outermost(event.leaves), _outermost(event.sources))
        first = known.get(key)
        if first is None:
            known[key] = event
            yield event
        else:
            first.leaves = (*first.leaves, *(leaf for leaf in event.leaves if leaf not in first.leaves))
            first.sources = (*first.sources, *(leaf for leaf in event.sources if leaf not in first.sources))


def _outermost(leaves: Sequence[Node]) -> frozenset[object]:
    owners = [leaf.leaf.owner for leaf in leaves if leaf.leaf is not None and leaf.leaf.owner is not None]
    return frozenset(owner.outermost() for owner in owners)


def _own(records: list[Optimizer], sink: Sink, step: Step | None) -> Optimizer | None:
    """The optimizer that steps with this loss: the only one, the one whose step follows it in the text, or the only
    one whose name has a word of the loss's."""
    if len(records) == 1:
        return records[0]
    following = [record for record in records if step is not None and record.name.rpartition(".")[2] == step.name]
    if len(following) == 1:
        return following[0]
    words = _words(sink.function.rpartition(":")[2])
    named = [record for record in records if words & _words(record.name)]
    return named[0] if len(named) == 1 else None


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _PLAIN}


def copies(reach: Reach, held: set[Node], leaves: Mapping[int, Node]) -> Iterator[tuple[_Pair, _Pair]]:
    """(copy, original): networks that equal another one tensor by tensor."""
    seen: dict[tuple[object, ...], list[tuple[torch.nn.Module, Network]]] = {}
    for module, _ in list(reach.modules.values()):
        network = reach.networks[id(module)]
        if not _telling(module) or any(one.copied_from is not None for one in network.chain()):
            continue
        form = tuple((name, tuple(one.shape)) for name, one in module.named_parameters())
        for other, known in seen.get(form, []):
            if _equal(module, other) and known not in network.chain() and network not in known.chain():
                yield _direction((module, network), (other, known), held, leaves)
                break
        seen.setdefault(form, []).append((module, network))


def _mark(copy: _Pair, origin: _Pair, leaves: Mapping[int, Node]) -> None:
    copy[1].copied_from = origin[1]
    for one, other in zip(copy[0].parameters(), origin[0].parameters(), strict=True):
        node, source = leaves.get(id(one)), leaves.get(id(other))
        if node is not None and source is not None and node.leaf is not None:
            node.leaf.copied_from = source.leaf


def _direction(later: _Pair, earlier: _Pair, held: set[Node], leaves: Mapping[int, Node]) -> tuple[_Pair, _Pair]:
    """(copy, original): the copy is held by no optimizer, has a lagging name, or comes later."""
    stepped = [any(leaves.get(id(one)) in held for one in module.parameters()) for module, _ in (later, earlier)]
    lagging = [bool(_LAGGING.search(network.path.lower())) for _, network in (later, earlier)]
    first_is_copy = stepped[1] and not stepped[0] or (stepped[0] == stepped[1] and lagging[0] >= lagging[1])
    return (later, earlier) if first_is_copy else (earlier, later)


def _telling(module: torch.nn.Module) -> bool:
    """Whether two such modules are not equal by chance: a tensor with many different values."""
    return any(one.numel() > 3 and _varied(one) for one in _floats(module))


def _varied(tensor: torch.Tensor) -> bool:
    flat = local(tensor.detach()).reshape(-1)
    return flat.device.type != "meta" and flat.numel() > 3 and bool((flat[1:4] != flat[0]).all())


def _floats(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return (one for one in module.parameters() if one.is_floating_point())


def _equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = [(local(left), local(right)) for left, right in zip(one.parameters(), other.parameters(), strict=True)]
    return all(left is not right and _same(left.detach(), right.detach()) for left, right in pairs)


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    alike = (left.device, left.dtype, left.shape) == (right.device, right.dtype, right.shape)
    return alike and torch.equal(left, right)


def _time(node: Node) -> int:
    return node.time
