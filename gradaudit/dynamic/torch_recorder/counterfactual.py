"""The same loss once more, with a stop at the cut."""

from __future__ import annotations

import math

from gradaudit.dynamic.recording import Cut, Proof, Recording
from gradaudit.dynamic.torch_recorder.composites import composites
from gradaudit.dynamic.torch_recorder.gradients import Gradients, compare, exact_bytes
from gradaudit.dynamic.torch_recorder.losses import loss_of
from gradaudit.dynamic.torch_recorder.replay import Replay
from gradaudit.dynamic.torch_recorder.run import Run
from gradaudit.errors import UserCodeError


def counterfactual(run: Run, recording: Recording, cut: Cut) -> Proof:
    values, operands, missing = _places(run, cut)
    if missing:
        return Proof(False, math.nan, note=missing)
    replay = Replay(values, operands, run.tracer.sites, run.new_updates(), _uses_of_made(run))
    with run.undisturbed():
        _freeze(run, cut)
        with replay.updates.watch(run.call.function), composites(replay), replay:
            try:
                result = run.result()
            except UserCodeError as error:
                return Proof(False, math.nan, note=f"with a stop here there is no loss to compare: {error}")
        if replay.strayed or replay.count != len(replay.sites):
            return Proof(False, math.nan, note="the loss does not do the same twice, so there is no proof")
        if replay.failed:
            return Proof(False, math.nan, note=f"no stop can be put there: {replay.failed}")
        loss, _ = loss_of(result)
        after = Gradients(exact_bytes(loss), float(loss.detach()), {})
        if loss.requires_grad:
            after = run.differentiate(loss, replay.made)
    assert run.gradients is not None
    keys = {run.leaf_nodes[key]: key for key in run.reach.owned}
    return compare(recording.groups, keys, run.gradients, after)


def _uses_of_made(run: Run) -> dict[int, dict[int, int]]:
    """Where each parameter that the run makes itself is first an operand: call number -> operand -> parameter."""
    keys = {node: key for key, node in run.leaf_nodes.items() if key in run.reach.owned and key not in run.lasting}
    found: dict[int, dict[int, int]] = {}
    for node, positions in run.tracer.operands.items() if keys else ():
        for edge, position in zip(node.inputs, positions, strict=False):
            if position >= 0 and edge.source in keys:
                found.setdefault(run.tracer.place[node][0], {})[position] = keys.pop(edge.source)
    return found


def _freeze(run: Run, cut: Cut) -> None:
    tensors = {run.leaf_nodes[key]: owned.tensor for key, owned in run.reach.owned.items()}
    for leaf in cut.freeze:
        if leaf in tensors:
            tensors[leaf].requires_grad_(False)


def _places(run: Run, cut: Cut) -> tuple[dict[int, set[int]], dict[int, set[int]], str]:
    """The cut in the terms of a replay: call numbers, outputs, operands."""
    tracer = run.tracer
    values: dict[int, set[int]] = {}
    operands: dict[int, set[int]] = {}
    for node in cut.values:
        if node not in tracer.place:
            return values, operands, "no stop can be put at a value that no call of the loss makes"
        number, output = tracer.place[node]
        values.setdefault(number, set()).add(output)
    for node, index in cut.operands:
        place = tracer.operands.get(node, [])
        if node not in tracer.place or index >= len(place) or place[index] < 0:
            return values, operands, "no stop can be put at an operand that no call of the loss takes"
        operands.setdefault(tracer.place[node][0], set()).add(place[index])
    return values, operands, ""
