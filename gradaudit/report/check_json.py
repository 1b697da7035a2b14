"""`gradaudit check --output-format json`: one object, findings as lint's with their proof."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gradaudit.check import CheckReport
from gradaudit.dynamic.proof import gone
from gradaudit.dynamic.recording import Proof
from gradaudit.report.json import as_dict


def render(reports: CheckReport | Sequence[CheckReport]) -> str:
    """One object for one loss, an array for several cases."""
    value: Any = one(reports) if isinstance(reports, CheckReport) else [one(report) for report in reports]
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def one(report: CheckReport) -> dict[str, Any]:
    ranks = report.recording.ranks if report.recording is not None else {}
    return {
        "target": report.target,
        "framework": report.framework,
        "loss": _number(report.loss),
        "groups": [
            {
                "name": group.name,
                "role": group.role,
                "state": group.state,
                "norm": _number(group.norm),
                "tensors": group.tensors,
                **({"ranks": list(ranks.get(group.name, ()))} if ranks else {}),
            }
            for group in report.groups
        ],
        "findings": [
            as_dict(finding) | {"proof": _proof(proof, judgement.leaks)}
            for finding, proof, judgement in zip(report.findings, report.proofs, report.judgements, strict=True)
        ],
        "notes": report.notes,
    }


def _proof(proof: Proof | None, leaks: tuple[str, ...]) -> dict[str, Any] | None:
    if proof is None:
        return None
    if proof.note:
        return {"note": proof.note}
    return {
        "identical": proof.identical,
        "loss": _number(proof.value),
        "leak": list(leaks),
        "gone": gone(proof, leaks),
        "changed": [
            {
                "group": change.group,
                "before": change.before,
                "after": change.after,
                "norm_before": _number(change.norm_before),
                "norm_after": _number(change.norm_after),
                "relative": _number(change.relative),
            }
            for change in proof.changes
        ],
    }


def _number(value: float) -> float | None:
    """JSON knows no infinity and no NaN."""
    return value if math.isfinite(value) else None
