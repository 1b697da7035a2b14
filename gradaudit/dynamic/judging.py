"""All judgements of a recording, sorted, one for one thing."""

from __future__ import annotations

from gradaudit.dynamic.judge import by_roles
from gradaudit.dynamic.judgement import Case, Judgement
from gradaudit.dynamic.recording import Recording


def judge(recording: Recording) -> list[Judgement]:
    case = Case(recording)
    found = list(by_roles(case))
    return sorted(found, key=lambda judgement: judgement.finding.sort_key)
