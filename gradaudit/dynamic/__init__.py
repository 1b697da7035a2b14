"""The dynamic half: a run of a loss on a tape, judged and proved. One recorder a framework, chosen by what is there."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gradaudit.dynamic.module_text import module_of
from gradaudit.errors import CheckError, UsageError

if TYPE_CHECKING:
    from gradaudit.dynamic.recording import LossCall, Recorder

RECORDERS = {"torch": "gradaudit.dynamic.torch_recorder", "jax": "gradaudit.dynamic.jax_recorder"}


def recorder(framework: str) -> Recorder:
    """The recorder of a framework. Raises UsageError for one that we do not know or that is not installed."""
    if framework not in RECORDERS:
        raise UsageError(f"--framework {framework}: check knows {' and '.join(RECORDERS)}")
    try:
        module = importlib.import_module(RECORDERS[framework])
    except ModuleNotFoundError as error:
        raise CheckError(f"{framework} cannot be imported ({error}); install it where the loss runs") from error
    found: Recorder = module.RECORDER
    return found


def choose(call: LossCall) -> Recorder:
    """The recorder for a call: what the user said, else the framework whose values the loss works with.

    A framework that nobody has imported is not the loss's, and is not imported to find out.
    """
    if call.framework:
        return recorder(call.framework)
    loaded = [name for name in RECORDERS if name in sys.modules]
    if not loaded:
        raise CheckError("the loss uses neither torch nor jax; say --framework if it does so later")
    if len(loaded) == 1:
        return recorder(loaded[0])
    likely = sorted(loaded, key=lambda name: -_mentions(call, name))
    for name in likely:
        one = recorder(name)
        if one.accepts(call):
            return one
    return recorder(likely[0])


def _mentions(call: LossCall, framework: str) -> int:
    """How many arguments, then module-level names, are this framework's."""
    arguments = sum(_origin(value) == framework for value in call.arguments().values())
    module = module_of(call.function)
    values = list(vars(module).values()) if module is not None else []
    return 1000 * arguments + sum(_origin(value) == framework for value in values)


def _origin(value: Any) -> str:
    if isinstance(value, ModuleType):
        name = value.__name__
    else:
        name = getattr(value if isinstance(value, type) else type(value), "__module__", "") or ""
    top = name.partition(".")[0]
    return {"jaxlib": "jax", "flax": "jax", "haiku": "jax", "equinox": "jax", "optax": "jax"}.get(top, top)
