"""The counterfactual: the same loss with a stop where the finding says one belongs, compared with what it was."""

from __future__ import annotations

from dataclasses import replace

from gradaudit.dynamic.judgement import Judgement
from gradaudit.dynamic.recording import NONE, ZERO, Cut, Proof, Recorder, Recording


def prove(recorder: Recorder, recording: Recording, judgement: Judgement) -> tuple[Judgement, Proof | None]:
    """The judgement with its proof (None where there is nothing to try)."""
    if judgement.cut is None:
        return judgement, None
    proof = recorder.counterfactual(recording, judgement.cut)
    if not proof.identical and not proof.note and not recorder.counterfactual(recording, Cut()).identical:
        proof = replace(proof, note="the loss is not the same twice (it draws from outside), so there is no proof")
    return judgement, proof


def gone(proof: Proof, leaks: tuple[str, ...]) -> bool:
    """Whether none of the groups that leaked gets gradient any more."""
    return all(proof.states.get(name, NONE) == NONE for name in leaks)


def sentences(judgement: Judgement, proof: Proof) -> list[str]:
    """The proof in words."""
    if proof.note:
        return [proof.note]
    what = "these parameters frozen" if judgement.freeze else "a stop here"
    same = "bit for bit the same" if proof.identical else "NOT the same"
    lines = [f"with {what} the loss is {same} ({proof.value:.9g})"]
    if judgement.leaks:
        left = [name for name in judgement.leaks if proof.states.get(name, NONE) != NONE]
        named = ", ".join(left or judgement.leaks)
        lines.append(f"the leak is gone: {named} gets no gradient" if not left else f"gradient is left in {named}")
    others = [one for one in proof.changes if one.group not in judgement.leaks]
    for one in others:
        lines.append(
            f"the gradient of {one.group} changes by {_percent(one.relative)}"
            f" (norm {_norm(one.before, one.norm_before)} -> {_norm(one.after, one.norm_after)})"
        )
    if not proof.changes:
        lines.append("on these inputs what it stops is zero: no gradient changes")
    elif not others and judgement.leaks:
        lines.append("every other gradient stays as it is")
    return lines


def _percent(relative: float) -> str:
    return f"{100 * relative:.3g} %"


def _norm(state: str, norm: float) -> str:
    return "none" if state == NONE else "0" if state == ZERO else f"{norm:.4g}"
