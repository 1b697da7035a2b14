"""Roles that the user states: globs over the dotted names of parameters.

A pattern names a group and all below it: `target_params`, `agent.shadow_body`, `critics.0.*`. Where two patterns
speak of one name the more specific one holds (`--trained agent --frozen agent.target`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradaudit.errors import CheckError

FROZEN = "frozen"
TRAINED = "trained"


@dataclass(frozen=True, slots=True)
class Roles:
    """The patterns of `--frozen` and `--trained` (or of a case)."""

    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.frozen or self.trained)

    def assign(self, names: Mapping[str, Iterable[str]] | Iterable[str]) -> dict[str, str]:
        """Name -> "frozen" or "trained", for the names that a pattern speaks of.

        `names` are the dotted names of all parameters; a mapping gives each its other spellings too. Raises
        `CheckError` for a pattern that matches nothing (it lists the names there are) and for a name of which a frozen
        and a trained pattern speak with equal right.
        """
        spellings = _spellings(names)
        claims: dict[str, dict[str, tuple[int, ...]]] = {}
        for role, patterns in ((FROZEN, self.frozen), (TRAINED, self.trained)):
            for pattern in patterns:
                matched = [name for name, others in spellings.items() if any(matches(pattern, one) for one in others)]
                if not matched:
                    raise CheckError(_no_match(role, pattern, list(spellings)))
                for name in matched:
                    claim = claims.setdefault(name, {})
                    claim[role] = max(claim.get(role, ()), _specificity(pattern))
        return {name: _decide(name, claim, spellings[name], self) for name, claim in claims.items()}


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names this dotted name or something above it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _spellings(names: Mapping[str, Iterable[str]] | Iterable[str]) -> dict[str, tuple[str, ...]]:
    if isinstance(names, Mapping):
        return {name: (name, *others) for name, others in names.items()}
    return {name: (name,) for name in names}


def _specificity(pattern: str) -> tuple[int, ...]:
    parts = pattern.split(".")
    literal = sum(not any(sign in part for sign in "*?[") for part in parts)
    return (literal, len(parts), sum(character not in "*?[]" for character in pattern))


def _decide(name: str, claim: Mapping[str, tuple[int, ...]], spellings: tuple[str, ...], roles: Roles) -> str:
    if len(claim) == 1:
        return next(iter(claim))
    frozen, trained = claim[FROZEN][:2], claim[TRAINED][:2]
    if frozen == trained:
        held = [next((one for one in spellings if any(matches(p, one) for p in ps)), name) for ps in _both(roles)]
        if held[0] != held[1]:
            raise CheckError(
                f"`{held[0]}`, stated as frozen, and `{held[1]}`, stated as trained, are one and the same parameter: "
                "one network under two names (GA502); make a copy of it"
            )
        raise CheckError(
            f"ambiguous role: `{name}` is named by a --frozen and by a --trained pattern; make one more specific"
        )
    return FROZEN if frozen > trained else TRAINED


def _both(roles: Roles) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return roles.frozen, roles.trained


def _no_match(role: str, pattern: str, names: list[str]) -> str:
    groups = sorted({prefix for name in names for prefix in _prefixes(name)})
    if not groups:
        return f"--{role} {pattern!r} matches nothing: no parameters are in reach of this loss"
    near = difflib.get_close_matches(pattern, groups, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(groups[:40]) + (", ..." if len(groups) > 40 else "")
    return f"--{role} {pattern!r} matches nothing{hint}\nnames there are: {shown}"


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, min(len(parts), 3) + 1)]
