"""Inputs for a loss: from the user's function, from the module, from `--input` specs, from shapes in annotations.

The batch size where none is said is a prime, so that it equals no other dimension and a wrong broadcast shows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradaudit.dynamic.recording import InputSpec
from gradaudit.dynamic.state import seeded
from gradaudit.dynamic.target import Target, load_module, resolve
from gradaudit.errors import CheckError, UsageError, UserCodeError

BATCH = 13
PRIMES = (13, 7, 11, 5, 17, 19, 23, 3)
PROVIDERS = ("make_inputs", "example_inputs", "make_batch", "example_batch")
_DTYPES = frozenset("float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 bool".split())
_SPEC = re.compile(r"(?P<name>[\w.]+)=(?P<dtype>\w+)(:(?P<shape>[\w]*))?(:(?P<low>-?[\d.]+?)\.\.(?P<high>-?[\d.]+))?")

Make = Callable[[InputSpec, int], Any]


@dataclass(slots=True)
class Arguments:
    """How a loss is called: positional values with the names of their parameters, and keywords."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]


def parse_spec(text: str) -> InputSpec:
    """`name=float32:32x4` or `name=int64:32:0..5`; a letter in the shape is a dimension of our choice (a prime)."""
    match = _SPEC.fullmatch(text)
    if match is None or match["dtype"] not in _DTYPES:
        raise UsageError(f"--input {text!r}: write name=float32:32x4 or name=int64:32:0..5 ({_dtypes()})")
    letters: dict[str, int] = {}
    shape = []
    for part in (match["shape"] or "").split("x") if match["shape"] else []:
        if not part.isdigit() and not part.isidentifier():
            raise UsageError(f"--input {text!r}: {part!r} is no dimension")
        shape.append(int(part) if part.isdigit() else letters.setdefault(part, PRIMES[len(letters) % len(PRIMES)]))
    low, high = match["low"], match["high"]
    return InputSpec(
        match["name"], match["dtype"], tuple(shape), float(low) if low else None, float(high) if high else None
    )


def _dtypes() -> str:
    return "dtypes: " + ", ".join(sorted(_DTYPES))


def gather(
    target: Target,
    provider: str = "",
    specs: Sequence[str] = (),
    given: Any = None,
    make: Make | None = None,
    seed: int = 0,
    app_dir: str = "",
) -> Arguments:
    """The arguments of a call, from the first source that speaks. Raises CheckError with the line to add."""
    if provider:
        return bind(target, _call(_provider(target, provider, app_dir, seed), f"--inputs {provider}", seed))
    if given is not None:
        return bind(target, _call(given, "the inputs of the case", seed) if callable(given) else given)
    if not specs:
        for name in PROVIDERS:
            found = vars(target.module).get(name) if target.module is not None else None
            if found is not None:
                return bind(target, _call(found, name, seed) if callable(found) else found)
    parsed = [parse_spec(text) for text in specs]
    return _generate(target, parsed, make, seed)


def _provider(target: Target, provider: str, app_dir: str, seed: int) -> Any:
    place, _, path = provider.rpartition(":")
    module = load_module(place, app_dir, seed) if place else target.module
    if module is None:
        raise UsageError(f"--inputs {provider}: write module:function")
    return resolve(module, path)[0]


def _call(function: Any, what: str, seed: int) -> Any:
    """What a function gives for inputs: the same whenever it is asked, whatever was drawn before."""
    if not callable(function):
        return function
    try:
        with seeded(seed):
            return function()
    except Exception as error:
        raise UserCodeError(f"{what} raised {type(error).__name__}: {error}", error) from error


def bind(target: Target, inputs: Any) -> Arguments:
    """Inputs as a call: a tuple is positional, a dict of parameter names is keywords, anything else is one argument."""
    signature = target.signature
    names = [name for name, one in signature.parameters.items() if one.kind in _POSITIONAL] if signature else []
    if _is_arguments(inputs):
        args, kwargs = tuple(inputs[0]), dict(inputs[1])
    elif isinstance(inputs, list) or type(inputs) is tuple:
        args, kwargs = tuple(inputs), {}
    elif isinstance(inputs, dict) and signature is not None and _fits(signature, inputs):
        args, kwargs = (), dict(inputs)
    elif inputs is None:
        args, kwargs = (), {}
    else:
        args, kwargs = (inputs,), {}
    if signature is not None:
        kwargs |= _defaults(signature, args, kwargs)
        _must_fit(target, signature, args, kwargs)
    return Arguments(args, kwargs, tuple(names[: len(args)]) + tuple(f"arg{i}" for i in range(len(names), len(args))))


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_arguments(inputs: Any) -> bool:
    """The pair (args, kwargs) that says both."""
    return type(inputs) is tuple and len(inputs) == 2 and type(inputs[0]) is tuple and type(inputs[1]) is dict


def _fits(signature: inspect.Signature, inputs: Mapping[Any, Any]) -> bool:
    if not all(isinstance(key, str) for key in inputs):
        return False
    try:
        signature.bind(**inputs)
    except TypeError:
        return False
    required = [one for one in signature.parameters.values() if one.kind in _POSITIONAL and one.default is one.empty]
    return bool(required) or bool(inputs)


def _defaults(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's `batch_idx`, which says nothing about gradient."""
    missing = list(signature.parameters.values())[len(args) :]
    return {
        one.name: 0
        for one in missing
        if one.name in ("batch_idx", "batch_index") and one.default is one.empty and one.name not in kwargs
    }


def _must_fit(target: Target, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CheckError(f"the inputs do not fit `{target.text}{signature}`: {error}") from error


def _generate(target: Target, specs: list[InputSpec], make: Make | None, seed: int) -> Arguments:
    signature = target.signature
    parameters = list(signature.parameters.values()) if signature is not None else []
    annotated = {one.name: spec for one in parameters if (spec := _annotation(one)) is not None}
    chosen = annotated | {spec.name: spec for spec in specs}
    known = {one.name for one in parameters}
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters)
    nested: dict[str, dict[str, InputSpec]] = {}
    for name in list(chosen):
        head, _, rest = name.partition(".")
        if rest and head in known:
            nested.setdefault(head, {})[rest] = chosen.pop(name)
    unknown = [name for name in chosen if name not in known]
    if unknown and not anything:
        names = ", ".join(one.name for one in parameters)
        raise UsageError(f"--input {unknown[0]}: `{target.text}` has no such parameter; it has {names}")
    required = [one for one in parameters if one.kind in _POSITIONAL and one.default is one.empty]
    missing = [one.name for one in required if one.name not in chosen and one.name not in nested]
    missing = [name for name in missing if name not in ("batch_idx", "batch_index")]
    if missing:
        raise CheckError(_missing(target, missing, specs))
    if (chosen or nested) and make is None:
        raise CheckError("inputs can be generated for torch and jax only; give --inputs module:function")
    values = {name: make(spec, seed + index) for index, (name, spec) in enumerate(chosen.items()) if make}
    for offset, (head, fields) in enumerate(nested.items(), start=len(chosen)):
        start = seed + offset * 100
        values[head] = {key: make(spec, start + i) for i, (key, spec) in enumerate(fields.items()) if make}
    return bind(target, values or None)


def _missing(target: Target, missing: list[str], said: list[InputSpec]) -> str:
    """The error that shows the line to add."""
    rows = next((str(spec.shape[0]) for spec in said if spec.shape), str(BATCH))
    specs = " ".join([*map(_text, said), *(f"--input {name}=float32:{rows}x4" for name in missing)])
    names = ", ".join(f"`{name}`" for name in missing)
    return (
        f"no inputs for {names}. Either generate them:\n    gradaudit check {target.text} {specs}\n"
        f"or add a function to the module (or name one with --inputs module:function):\n"
        f"    def make_inputs():\n        return {', '.join(missing)}{',' if len(missing) == 1 else ''}"
    )


def _text(spec: InputSpec) -> str:
    """A spec as it is written."""
    shape = "x".join(map(str, spec.shape))
    span = f":{spec.low:g}..{spec.high:g}" if spec.low is not None and spec.high is not None else ""
    return f"--input {spec.name}={spec.dtype}{':' + shape if shape or span else ''}{span}"


def _annotation(parameter: inspect.Parameter) -> InputSpec | None:
    """A jaxtyping annotation such as `Float[Tensor, "batch 4"]`, read off its attributes."""
    annotation = parameter.annotation
    dims, dtypes = getattr(annotation, "dim_str", None), getattr(annotation, "dtypes", None)
    if not isinstance(dims, str) or not dtypes:
        return None
    shape = []
    for part in dims.split():
        part = part.lstrip("#").split("=")[-1]
        if part in ("...", "_") or part.startswith("*"):
            continue
        if not part.isdigit() and not part.isidentifier():
            return None
        shape.append(int(part) if part.isdigit() else _dimension(part))
    first = next(iter(dtypes)) if not isinstance(dtypes, str) else dtypes
    names = [str(one) for one in dtypes] if not isinstance(dtypes, str) else [first]
    dtype = next((one for one in ("float32", "int64", "int32", "bool") if one in names), "float32")
    return InputSpec(parameter.name, dtype, tuple(shape), *((0.0, 2.0) if dtype.startswith("int") else ()))


def _dimension(name: str) -> int:
    """The same name is the same number in every annotation: chosen by the name alone."""
    order = ("batch", "b", "B", "n", "N")
    if name in order:
        return BATCH
    return PRIMES[1 + sum(map(ord, name)) % (len(PRIMES) - 1)]
