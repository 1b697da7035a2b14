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

    def twins(self, names: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, str]]:
        """Names of what is stated as frozen by one spelling and as trained by another, with equal right: one thing
        under two names."""
        found = {}
        for name, others in _spellings(names).items():
            pair = _twins(others, self)
            if pair is not None and _rank(pair[0], self.frozen) == _rank(pair[1], self.trained):
                found[name] = pair
        return found


def _rank(name: str, patterns: Iterable[str]) -> tuple[int, ...]:
    return max(_specificity(pattern) for pattern in patterns if matches(pattern, name))[:2]


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
        if _twins(spellings, roles) is not None:
            return TRAINED
        raise CheckError(
            f"ambiguous role: `{name}` is named by a --frozen and by a --trained pattern; make one more specific"
        )
    return FROZEN if frozen > trained else TRAINED


def _twins(spellings: Iterable[str], roles: Roles) -> tuple[str, str] | None:
    """The spelling that a frozen pattern names and the one that a trained pattern names, where they are two."""
    names = list(spellings)
    frozen = next((one for one in names if any(matches(pattern, one) for pattern in roles.frozen)), "")
    trained = next((one for one in names if any(matches(pattern, one) for pattern in roles.trained)), "")
    return (frozen, trained) if frozen and trained and frozen != trained else None


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
