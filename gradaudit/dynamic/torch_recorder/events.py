"""What happens to parameters beside the graph: the optimizers in reach and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from gradaudit.dynamic.torch_recorder.reach import Reach, living
from gradaudit.tape import Event, Location, Node, Optimizer, Tape


def add_events(
    tape: Tape, reach: Reach, leaves: Mapping[int, Node], tick: Callable[[], int], nowhere: Location
) -> None:
    """A hold event for every living optimizer that takes a parameter in reach."""
    for index, optimizer in enumerate(_optimizers(reach)):
        taken = {leaves[id(one)] for group in optimizer.param_groups for one in group["params"] if id(one) in leaves}
        if not taken:
            continue
        record = Optimizer(f"{type(optimizer).__name__}#{index}", set(taken), location=nowhere)
        tape.optimizers.append(record)
        tape.events.append(Event("hold", tick(), nowhere, optimizer=record, leaves=tuple(sorted(taken, key=_time))))


def _optimizers(reach: Reach) -> list[torch.optim.Optimizer]:
    return living(torch.optim.Optimizer)


def _time(node: Node) -> int:
    return node.time
