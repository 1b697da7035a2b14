"""From `package.module:function` to something that can be called, with the objects in its reach."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from gradaudit.dynamic.absent import advice
from gradaudit.dynamic.lines import user_roots
from gradaudit.dynamic.state import seed_python, seeded
from gradaudit.errors import UsageError, UserCodeError


@dataclass(slots=True)
class Target:
    """A loss: what to call, what it was named, and what its names lead to."""

    text: str
    function: Callable[..., Any]
    module: ModuleType | None
    scope: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()

    @property
    def signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):
            return None


def load(text: str, app_dir: str = "", factory: str = "", seed: int = 0) -> Target:
    """Import and resolve a target. Raises UsageError for what is not there, UserCodeError for what raises."""
    place, colon, path = text.partition(":")
    if not path and not colon and (place.endswith(".py") or os.sep in place):
        raise UsageError(f"{place}: there is no such file or folder")
    if not path:
        raise UsageError(f"{text!r} names no function: write {_example(place)}")
    if not place:
        raise UsageError(f"{text!r} names no module: write package.module{text} or path/file.py{text}")
    return from_module(text, load_module(place, app_dir, seed), path, factory, seed, app_dir)


def from_module(
    text: str, module: ModuleType, path: str, factory: str = "", seed: int = 0, app_dir: str = ""
) -> Target:
    """The loss at `path` in a module that is there already."""
    if factory:
        return _from_factory(text, module, path, factory, app_dir, seed)
    value, owner, owner_name = resolve(module, path)
    if inspect.isclass(owner) and _is_method(owner, path.rpartition(".")[2]):
        value, owner = _on_instance(text, owner, path.rpartition(".")[2], seed)
        owner_name = owner_name.rpartition(".")[2].lower()
    return describe(text, value, module, owner, owner_name)


def describe(
    text: str, value: Any, module: ModuleType | None = None, owner: Any = None, owner_name: str = ""
) -> Target:
    """A target from an object: a function, a bound method, a transformed pair with `apply`."""
    function = _callable(text, value)
    inner = _innermost(function)
    if module is None:
        module = sys.modules.get(getattr(inner, "__module__", "") or "")
    scope: dict[str, Any] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    bound = getattr(function, "__self__", None)
    if bound is not None and not isinstance(bound, ModuleType | type):
        kind = type(bound).__name__.lower()
        name = owner_name if owner is bound and owner_name else _name_in(module, bound) or kind
        scope[name] = bound
        aliases[name] = ("self", "", kind)
    elif not isinstance(function, FunctionType | functools.partial) and not inspect.isroutine(function):
        name = path if (path := text.partition(":")[2]) else "loss"
        scope[name] = function
        aliases[name] = ("self", "")
    scope |= {name: one for name, one in _closure(function, set()).items() if name not in scope}
    for one in {id(one): one for one in (module, _module_of(inner)) if one is not None}.values():
        scope |= {name: item for name, item in _globals(one).items() if name not in scope}
    return Target(text, function, module, scope, aliases, _roots(inner, module))


def _name_in(module: ModuleType | None, value: Any) -> str:
    """What a module calls an object: `loss_fn = agent.loss` is a method of `agent`."""
    return next((name for name, one in vars(module).items() if one is value), "") if module is not None else ""


def load_module(place: str, app_dir: str = "", seed: int = 0) -> ModuleType:
    """Import `package.module` or `path/file.py` with `app_dir` (default: the working directory) on the path."""
    root = os.path.abspath(app_dir or os.getcwd())
    if app_dir and not os.path.isdir(root):
        raise UsageError(f"--app-dir {app_dir}: there is no such folder")
    if root not in sys.path:
        sys.path.insert(0, root)
    if place.endswith(".py") or os.sep in place:
        return _load_file(place, root, seed)
    return _load_name(place, seed)


def _load_file(place: str, root: str, seed: int) -> ModuleType:
    file = Path(place) if os.path.isabs(place) or os.path.exists(place) else Path(root) / place
    if not file.is_file():
        raise UsageError(f"{place}: there is no such file")
    file = file.resolve()
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    name = ".".join(parts) if parts[-1] != "__init__" else ".".join(parts[:-1])
    known = sys.modules.get(name)
    for loaded in (known, sys.modules.get(_unique(file))):
        if loaded is not None and os.path.realpath(getattr(loaded, "__file__", None) or "") == str(file):
            return loaded
    if known is None and len(parts) > 1:
        return _load_name(name, seed)
    unique = name if known is None and importlib.util.find_spec(name) is None else _unique(file)
    if known is None and unique != name and _finds(name, file):
        unique = name
    spec = importlib.util.spec_from_file_location(unique, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    _prepare(str(file), seed)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(unique, None)
        raise UserCodeError(f"{place} cannot be imported: {_brief(error)}", error) from error
    return module


def _unique(file: Path) -> str:
    """A name for a file whose own another module has."""
    return f"gradaudit_target_{file.stem}_{zlib.crc32(str(file).encode()):08x}"


def _finds(name: str, file: Path) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and os.path.realpath(spec.origin or "") == str(file)


def _load_name(name: str, seed: int) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module {error.name!r}{_where()}") from error
    except (ImportError, ValueError) as error:
        raise UsageError(f"{name!r} is no module name") from error
    except Exception as error:
        raise UserCodeError(f"a package above {name} cannot be imported: {_brief(error)}", error) from error
    if spec is None:
        raise UsageError(f"there is no module {name!r}{_where()}")
    if name not in sys.modules:
        _prepare(spec.origin or "", seed)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UserCodeError(f"{name} cannot be imported: {_brief(error)}", error) from error


def _where() -> str:
    return f" in {os.path.relpath(sys.path[0])!r}; name its folder with --app-dir" if sys.path else ""


def _brief(error: BaseException) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _prepare(file: str, seed: int) -> None:
    """Seed what the module will use while it is imported: networks at module level are drawn there."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for name in ("numpy", "torch"):
        if name in text and name not in sys.modules and importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    seed_python(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def resolve(module: ModuleType, path: str) -> tuple[Any, Any, str]:
    """The object at a dotted path (attributes, or indices and keys of containers), its owner and the owner's path."""
    value: Any = module
    owner: Any = None
    done: list[str] = []
    for part in path.split("."):
        owner = value
        value = _step(module, owner, part, done)
        done.append(part)
    return value, (owner if len(done) > 1 else None), ".".join(done[:-1])


def _step(module: ModuleType, owner: Any, part: str, done: list[str]) -> Any:
    if hasattr(owner, part):
        return getattr(owner, part)
    if isinstance(owner, dict) and part in owner:
        return owner[part]
    if isinstance(owner, list | tuple) and part.isdigit() and int(part) < len(owner):
        return owner[int(part)]
    what = f"`{'.'.join(done)}` ({type(owner).__name__})" if done else f"module `{module.__name__}`"
    names = sorted(name for name in dir(owner) if not name.startswith("_"))
    near = difflib.get_close_matches(part, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    inside = "" if done else advice(module, part)
    if inside:
        hint = f"; {inside}"
    elif not hint and not done:
        functions = [name for name in names if inspect.isfunction(getattr(owner, name, None))]
        hint = f"; its functions are {', '.join(functions[:12])}" if functions else ""
    raise UsageError(f"{what} has no {part!r}{hint}")


def _is_method(owner: type, name: str) -> bool:
    found = inspect.getattr_static(owner, name, None)
    return isinstance(found, FunctionType)


def _on_instance(text: str, owner: type, name: str, seed: int) -> tuple[Any, Any]:
    try:
        inspect.signature(owner).bind()
    except (TypeError, ValueError):
        raise UsageError(
            f"{text} is a method and {owner.__name__} needs arguments: "
            f"write a function that builds one and name it with --factory"
        ) from None
    instance = _make(owner, f"{owner.__name__}()", seed)
    return getattr(instance, name), instance


def _make(function: Callable[[], Any], what: str, seed: int) -> Any:
    try:
        with seeded(seed):
            return function()
    except Exception as error:
        raise UserCodeError(f"{what} raised {_brief(error)}", error) from error


def _from_factory(text: str, module: ModuleType, path: str, factory: str, app_dir: str, seed: int) -> Target:
    place, _, name = factory.rpartition(":")
    home = load_module(place, app_dir, seed) if place else module
    build, _, _ = resolve(home, name)
    if not callable(build):
        raise UsageError(f"--factory {factory} is {a_kind(build)}, not something that can be called")
    instance = _make(build, f"--factory {factory}", seed)
    parts = path.split(".")
    kinds = {kind.__name__ for kind in type(instance).__mro__}
    owner_name = type(instance).__name__.lower()
    if len(parts) > 1 and (parts[0] in kinds or not hasattr(instance, parts[0])):
        owner_name, parts = (owner_name if parts[0] in kinds else parts[0]), parts[1:]
    value: Any = instance
    for index, part in enumerate(parts):
        value = _step(module, value, part, [type(instance).__name__, *parts[:index]])
    target = describe(text, value, module, instance, owner_name)
    if instance not in target.scope.values():
        target.scope = {owner_name: instance, **target.scope}
        target.aliases[owner_name] = ("self", "")
    return target


def _callable(text: str, value: Any) -> Callable[..., Any]:
    if callable(value) and not inspect.isclass(value):
        return value  # type: ignore[no-any-return]
    apply = getattr(value, "apply", None)
    if callable(apply) and not inspect.isclass(value):
        return apply  # type: ignore[no-any-return]
    raise UsageError(f"{text} is {a_kind(value)}, not a function that returns a loss")


def a_kind(value: Any) -> str:
    """What a value is, in words: `a class`, `an int`, `nothing`."""
    if value is None:
        return "nothing"
    name = "class" if inspect.isclass(value) else type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def _innermost(function: Any) -> Any:
    """The plain function inside wrappers, partials and bound methods."""
    for _ in range(16):
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif not inspect.isroutine(function) and not inspect.isclass(function):
            call = getattr(type(function), "forward", None) or type(function).__call__
            return call if isinstance(call, FunctionType) else function
        else:
            return function
    return function


def _closure(function: Any, seen: set[int]) -> dict[str, Any]:
    """Free variables of a function and of the functions among them; a partial's arguments under their names."""
    found: dict[str, Any] = {}
    if id(function) in seen:
        return found
    seen.add(id(function))
    if isinstance(function, functools.partial):
        names = list(inspect.signature(function.func).parameters)
        found |= dict(zip(names, function.args, strict=False)) | function.keywords
    inner = _innermost(function)
    cells = getattr(inner, "__closure__", None) or ()
    for name, cell in zip(getattr(getattr(inner, "__code__", None), "co_freevars", ()), cells, strict=False):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        if isinstance(value, FunctionType | functools.partial):
            found |= {key: one for key, one in _closure(value, seen).items() if key not in found}
        elif name not in found:
            found[name] = value
    bound = getattr(function, "__wrapped__", None)
    if bound is not None:
        found |= {key: one for key, one in _closure(bound, seen).items() if key not in found}
    return found


def closure_of(function: Any) -> dict[str, Any]:
    """What a function captures, by name."""
    return _closure(function, set())


def _globals(module: ModuleType) -> dict[str, Any]:
    skip = (ModuleType, FunctionType, type)
    return {
        name: value for name, value in vars(module).items() if not name.startswith("__") and not isinstance(value, skip)
    }


def _module_of(inner: Any) -> ModuleType | None:
    return sys.modules.get(getattr(inner, "__module__", "") or "")


def _roots(inner: Any, module: ModuleType | None) -> tuple[str, ...]:
    file = getattr(getattr(inner, "__code__", None), "co_filename", None) or getattr(module, "__file__", None)
    package = getattr(module, "__name__", "") if module is not None else ""
    package = package if package in sys.modules and "." in package else ""
    roots = user_roots(file, package) if file else (os.getcwd(),)
    home = getattr(module, "__file__", None)
    return (*roots, *(user_roots(home) if home else ()))


def _example(text: str) -> str:
    return f"{text}:loss_fn" if text else "package.module:loss_fn"
