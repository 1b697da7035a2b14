"""`@gradaudit.case(...)`: what check must know of a loss, said beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
ATTRIBUTE = "__gradaudit_cases__"


@dataclass(frozen=True, slots=True)
class Case:
    """One audit of one loss. `inputs` is a tuple, a dict, a single value, or a function that gives one of these."""

    inputs: Any = None
    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    argnums: tuple[int, ...] | None = None
    framework: str = ""
    factory: str = ""
    seed: int = 0
    name: str = ""


def case(
    inputs: Any = None,
    *,
    frozen: str | Iterable[str] = (),
    trained: str | Iterable[str] = (),
    argnums: int | Iterable[int] | None = None,
    framework: str = "",
    factory: str = "",
    seed: int = 0,
    name: str = "",
) -> Callable[[Function], Function]:
    """Beside a loss: how to call it and which parameter groups it must and must not train. The loss stays as it is.

    `gradaudit check module:loss` uses it, `gradaudit check path/` and the pytest plugin find it. Several may stand on
    one loss.
    """

    def decorate(function: Function) -> Function:
        one = Case(inputs, words(frozen), words(trained), numbers(argnums), framework, factory, seed, name)
        setattr(function, ATTRIBUTE, (one, *cases_of(function)))
        return function

    return decorate


def cases_of(function: Any) -> tuple[Case, ...]:
    found = getattr(function, ATTRIBUTE, ())
    return found if isinstance(found, tuple) else ()


def cases_in(module: ModuleType) -> list[tuple[str, Any, Case]]:
    """Every case of a module in order of definition: the attribute path of the loss, the loss, the case."""
    found: list[tuple[str, Any, Case]] = []
    seen: set[int] = set()
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = [(name, value)]
        if isinstance(value, type):
            members = [(f"{name}.{key}", one) for key, one in vars(value).items()]
        for path, one in members:
            if id(one) not in seen:
                seen.add(id(one))
                found += [(path, one, each) for each in cases_of(one)]
    return found


def words(patterns: str | Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def numbers(argnums: int | Iterable[int] | None) -> tuple[int, ...] | None:
    if argnums is None:
        return None
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)
