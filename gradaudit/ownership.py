"""Who steps what: the own set of every sink, and what becomes of a gradient that is left in someone else's leaf.

Events are read as a cycle: a training step repeats, so what follows the last event is the first one (of the sink's
innermost loop first, then of the whole program).
"""

from __future__ import annotations

from collections.abc import Iterator

from gradaudit.tape import Event, Node, Optimizer, Sink, Tape, join_guards

USED = "used"
CLEARED = "cleared"
UNHELD = "unheld"
UNKNOWN = "unknown"


def own_sets(tape: Tape) -> None:
    """Fills `Sink.own` from the events where the recorder left it open."""
    events = sorted(tape.events, key=lambda event: event.time)
    for sink in (*tape.sinks, *tape.others):
        if sink.own is None:
            sink.own = _own(tape, sink, events)


def _own(tape: Tape, sink: Sink, events: list[Event]) -> frozenset[Node] | None:
    if sink.kind == "library":
        return None
    if sink.differentiated is not None and (tape.framework != "torch" or sink.kind == "grad"):
        return sink.differentiated
    if sink.kind == "minimize" and tape.framework == "tensorflow":
        return frozenset(node for node in tape.nodes if node.leaf is not None and node.leaf.kind == "param")
    stepped = _stepped(following(sink, events))
    if stepped is None or not stepped:
        return None
    return frozenset(stepped) if sink.differentiated is None else frozenset(stepped) & sink.differentiated


def _stepped(events: Iterator[Event]) -> set[Node] | None:
    """What the first group of steps after a backward steps; None where an optimizer in it is not known."""
    stepped: set[Node] = set()
    cleared: set[Node] = set()
    found = False
    for event in events:
        if event.kind == "backward" and found:
            break
        if event.kind == "clear" and not found:
            cleared |= _touched(event)
        elif event.kind == "step":
            if event.optimizer is not None and not event.optimizer.complete:
                return None
            leaves = _touched(event)
            if not leaves:
                return None
            found = True
            stepped |= leaves - cleared
    return stepped


def _touched(event: Event) -> set[Node]:
    if event.leaves:
        return set(event.leaves)
    return set(event.optimizer.leaves) if event.optimizer is not None else set()


def following(sink: Sink, events: list[Event]) -> Iterator[Event]:
    """The events after a backward, as a cycle: the rest of its innermost loop, that loop again, then what remains."""
    fitting = [event for event in events if join_guards(event.guard, sink.guard) is not None and event.sink is not sink]
    after = [event for event in fitting if event.time > sink.time]
    before = [event for event in fitting if event.time <= sink.time]
    if sink.loops:
        inner = sink.loops[-1]
        yield from (event for event in after if inner in event.loops)
        yield from (event for event in before if inner in event.loops)
        yield from (event for event in after if inner not in event.loops)
        yield from (event for event in before if inner not in event.loops)
    else:
        yield from after
        yield from before


def step_group(tape: Tape, sink: Sink) -> list[Event]:
    """The steps that take this sink's gradient: the first ones after it, up to the next backward."""
    found: list[Event] = []
    for event in following(sink, sorted(tape.events, key=lambda event: event.time)):
        if event.kind == "backward" and found:
            break
        if event.kind == "step":
            found.append(event)
    return found


def holders(tape: Tape, leaf: Node) -> list[Optimizer]:
    return [optimizer for optimizer in tape.optimizers if leaf in optimizer.leaves]


def deposit(tape: Tape, sink: Sink, leaf: Node) -> str:
    """What becomes of the gradient that `sink` leaves in `leaf`: used by a step, cleared before it, unheld, unknown."""
    if not holders(tape, leaf):
        return UNHELD if all(optimizer.complete for optimizer in tape.optimizers) else UNKNOWN
    event = taken_by(tape, sink, leaf)
    return UNKNOWN if event is None else USED if event.kind == "step" else CLEARED


def taken_by(tape: Tape, sink: Sink, leaf: Node) -> Event | None:
    """The step that takes what `sink` leaves in `leaf`, or what clears it before."""
    for event in following(sink, sorted(tape.events, key=lambda event: event.time)):
        if event.kind in ("step", "clear") and leaf in _touched(event):
            return event
    return None


def steps_of(tape: Tape, leaf: Node) -> list[Event]:
    """The step events that write `leaf`, in order of time."""
    return sorted(
        (event for event in tape.events if event.kind == "step" and leaf in _touched(event)),
        key=lambda event: event.time,
    )
