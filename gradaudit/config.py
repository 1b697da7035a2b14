"""Configuration: `[tool.gradaudit]` in a pyproject.toml, or a gradaudit.toml, nearest to the working directory."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gradaudit.errors import ConfigError

FORMATS = ("text", "concise", "json", "json-lines", "sarif", "github", "gitlab", "junit")
FAIL_ON = ("info", "warning", "error", "never")


@dataclass(frozen=True, slots=True)
class Config:
    """What the user asked for. Patterns in `exclude` are relative to `root`, as in a .gitignore there."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fail_on: str = "warning"
    output_format: str = "text"
    respect_gitignore: bool = True
    force_exclude: bool = False
    suppressions: bool = True
    root: Path = Path(".")
    source: Path | None = None

    def wants(self, code: str, name: str) -> bool:
        """Whether a rule is selected: by its code, a prefix of it, its name or ALL; `ignore` wins on a tie."""
        chosen = _longest(self.select or ("ALL",), code, name)
        refused = _longest(self.ignore, code, name)
        return chosen >= 0 and chosen > refused

    def with_options(self, **options: Any) -> Config:
        """The same with what the command line says; None leaves a value as it is."""
        return replace(self, **{key: value for key, value in options.items() if value is not None})


_HIDDEN = {"root", "source", "suppressions"}
KEYS = {item.name.replace("_", "-"): item.name for item in fields(Config) if item.name not in _HIDDEN}


def _longest(patterns: tuple[str, ...], code: str, name: str) -> int:
    """How exactly the best of `patterns` names the rule (a length), or -1 where none does."""
    return max(
        (len(pattern) if pattern != "ALL" else 0 for pattern in patterns if names_rule(pattern, code, name)), default=-1
    )


def names_rule(pattern: str, code: str, name: str) -> bool:
    """Whether `GA101`, `GA1`, `bootstrap-target` or `ALL` names this rule."""
    return pattern == "ALL" or pattern == name or (pattern != "" and code.startswith(pattern.upper()))


def load(path: Path | None, start: Path) -> Config:
    """The configuration in `path`, or the nearest one above `start`, or the defaults.

    Raises ConfigError with one line that says which file, which key and what would be right.
    """
    if path is not None:
        table = _table(path, required=True)
        return _parse(table or {}, path)
    for folder in (start, *start.parents):
        for name in ("gradaudit.toml", "pyproject.toml"):
            candidate = folder / name
            if candidate.is_file() and (table := _table(candidate, required=False)) is not None:
                return _parse(table, candidate)
    return Config(root=start)


def _table(path: Path, required: bool) -> dict[str, Any] | None:
    """The file's table for us, or None where a pyproject.toml has none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if path.name != "pyproject.toml":
        return document
    tool = document.get("tool")
    table = tool.get("gradaudit") if isinstance(tool, dict) else None
    if table is None:
        return {} if required else None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.gradaudit must be a table")
    return table


def _parse(table: dict[str, Any], path: Path) -> Config:
    options: dict[str, Any] = {}
    for key, value in table.items():
        if key not in KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}{nearest(key, KEYS)}")
        options[KEYS[key]] = _check(key, value, path)
    return Config(**options, root=path.resolve().parent, source=path)


def _check(key: str, value: Any, path: Path) -> Any:
    """The value as Config wants it."""
    if key in ("select", "ignore", "exclude"):
        return _strings(key, value, path)
    if key == "per-file-ignores":
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {key} must be a table of patterns, each with a list of codes")
        return {pattern: _strings(f"{key}.{pattern!r}", codes, path) for pattern, codes in value.items()}
    if key in ("fail-on", "output-format"):
        choices = FAIL_ON if key == "fail-on" else FORMATS
        if value not in choices:
            raise ConfigError(f"{path}: {key} is {value!r}; choose from {', '.join(choices)}{nearest(value, choices)}")
        return value
    if not isinstance(value, bool):
        raise ConfigError(f"{path}: {key} must be true or false, not {value!r}")
    return value


def _strings(key: str, value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path}: {key} must be a list of strings, not {value!r}")
    return tuple(value)


def nearest(word: object, known: Any) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is near."""
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known are {', '.join(sorted(known))}"
