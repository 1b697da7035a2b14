"""Roles that the user states: globs over the dotted names of parameters.

A pattern names a group and all below it: `target_params`, `agent.shadow_body`, `critics.0.*`, or as Python writes it,
`critics[0]`, `nets["actor"]`. Where two patterns
speak of one name the one that comes nearer to it holds (`--trained agent --frozen agent.target`), then the one with
fewer wildcards.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from gradaudit.errors import CheckError

FROZEN = "frozen"
TRAINED = "trained"
Networks = Mapping[str, Collection[int]]
"""The ids of the modules that a dotted name stands for: a wrapper (compiled, distributed) and what it wraps."""

_SUBSCRIPT = re.compile(r"""\[(?:'([^']*)'|"([^"]*)"|(\d+))\]""")
_NO_NETWORKS: Networks = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Roles:
    """The patterns of `--frozen` and `--trained` (or of a case)."""

    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role, patterns in ((FROZEN, self.frozen), (TRAINED, self.trained)):
            object.__setattr__(self, role, tuple(_SUBSCRIPT.sub(r".\1\2\3", pattern) for pattern in patterns))

    def __bool__(self) -> bool:
        return bool(self.frozen or self.trained)

    def assign(
        self, names: Mapping[str, Iterable[str]] | Iterable[str], networks: Networks = _NO_NETWORKS
    ) -> dict[str, str]:
        """Name -> "frozen" or "trained", for the names that a pattern speaks of.

        `names` are the dotted names of all parameters; a mapping gives each its other spellings too. `networks` are the
        modules (their ids) by name: what a frozen one shares with another (`shared`) is not frozen. Raises
        `CheckError` for a pattern that matches nothing (it lists the names there are) and for a name of which a frozen
        and a trained pattern speak with equal right.
        """
        spellings = _spellings(names)
        claims: dict[str, dict[str, tuple[int, ...]]] = {}
        for role, patterns in ((FROZEN, self.frozen), (TRAINED, self.trained)):
            for pattern in patterns:
                rights = {name: right for name, others in spellings.items() if (right := _right(pattern, others))}
                if not rights:
                    raise CheckError(_no_match(role, pattern, list(spellings)))
                for name, right in rights.items():
                    claim = claims.setdefault(name, {})
                    claim[role] = max(claim.get(role, ()), right)
        for name in self.shared(spellings, networks):
            claims[name].pop(FROZEN)
        return {name: _decide(name, claim, spellings[name], self) for name, claim in claims.items() if claim}

    def without_state(self, names: Iterable[str], state: Iterable[str]) -> tuple[Roles, list[str]]:
        """These roles without the frozen patterns that name state alone, which takes no gradient anyway; what to tell.

        `names` are those of parameters, `state` those of buffers and of what else is no parameter. Raises `CheckError`
        for a trained pattern that names state alone.
        """
        known, resting = list(names), list(state)
        idle = [
            pattern
            for pattern in (*self.frozen, *self.trained)
            if any(matches(pattern, name) for name in resting) and not any(matches(pattern, name) for name in known)
        ]
        for pattern in self.trained:
            if pattern in idle:
                raise CheckError(f"--{TRAINED} {pattern!r} is state and no parameter: no gradient is ever taken for it")
        told = [f"`{pattern}` is state and no parameter: no gradient is taken for it anyway" for pattern in idle]
        return Roles(tuple(one for one in self.frozen if one not in idle), self.trained), told

    def shared(self, names: Mapping[str, Iterable[str]], networks: Networks) -> dict[str, tuple[str, str]]:
        """Names of what belongs to a network that is stated as frozen and as much to one that is not: (as the part of
        the one, as the part of the other). An encoder under an actor and a critic is trained with either; whoever
        means the encoder itself names it."""
        found = {}
        for name, others in _spellings(names).items():
            frozen = [one for one in others if any(matches(pattern, one) for pattern in self.frozen)]
            free = [one for one in others if one not in frozen]
            pair = next((pair for one in frozen for other in free if (pair := self._parts(one, other, networks))), None)
            if pair is not None:
                found[name] = pair
        return found

    def _parts(self, frozen: str, other: str, networks: Networks) -> tuple[str, str] | None:
        """The shared part under both names, if both are parts of networks and the frozen one is named as a whole."""
        first, second = frozen.split("."), other.split(".")
        same = next((i for i, (a, b) in enumerate(zip(first[::-1], second[::-1], strict=False)) if a != b), 0)
        if not same:
            return None
        whole, beside = ".".join(first[:-same]), ".".join(second[:-same])
        if not networks.get(whole) or not networks.get(beside) or set(networks[whole]) & set(networks[beside]):
            return None
        if not any(matches(pattern, whole) for pattern in self.frozen):
            return None
        return ".".join(first[: 1 - same or None]), ".".join(second[: 1 - same or None])

    def wholes(self, names: Mapping[str, Iterable[str]]) -> list[set[str]]:
        """For each trained pattern the names that it speaks of."""
        spellings = _spellings(names)
        return [
            {name for name, others in spellings.items() if any(matches(pattern, one) for one in others)}
            for pattern in self.trained
        ]

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
    return max(_right(pattern, [name]) for pattern in patterns)


def _right(pattern: str, spellings: Iterable[str]) -> tuple[int, ...]:
    """How closely a pattern names a thing: the fewer parts it leaves unsaid the closer, then the fewer wildcards; ()
    where it does not name it."""
    parts = pattern.split(".")
    literal = sum(not any(sign in part for sign in "*?[") for part in parts)
    unsaid = [len(_below(pattern, name)) for name in spellings if matches(pattern, name)]
    return (-min(unsaid), literal, len(parts)) if unsaid else ()


def _below(pattern: str, name: str) -> list[str]:
    """The parts of a name below what a pattern names; all of them where it does not name it."""
    parts = name.split(".")
    ends = (end for end in range(1, len(parts) + 1) if fnmatchcase(".".join(parts[:end]), pattern))
    return parts[next(ends, 0) :]


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names this dotted name or something above it."""
    return len(_below(pattern, name)) < len(name.split("."))


def _spellings(names: Mapping[str, Iterable[str]] | Iterable[str]) -> dict[str, tuple[str, ...]]:
    if isinstance(names, Mapping):
        return {name: (name, *others) for name, others in names.items()}
    return {name: (name,) for name in names}


def _decide(name: str, claim: Mapping[str, tuple[int, ...]], spellings: tuple[str, ...], roles: Roles) -> str:
    if len(claim) == 1:
        return next(iter(claim))
    frozen, trained = claim[FROZEN], claim[TRAINED]
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
