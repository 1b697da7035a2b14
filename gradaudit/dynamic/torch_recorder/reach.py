"""Which parameters and modules are in reach of a loss, and what the user calls them."""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch

from gradaudit.dynamic.recording import LossCall
from gradaudit.dynamic.torch_recorder.made import Made
from gradaudit.tape import Leaf, Network

_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, FunctionType, ModuleType)
T = TypeVar("T")
_WRAPPERS = frozenset(("DistributedDataParallel", "DataParallel", "OptimizedModule", "FullyShardedDataParallel"))
_INNER = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module"))
_FOREIGN = ("torch.", "numpy", "builtins", "jax", "gradaudit.", "_", "logging", "threading", "multiprocessing")
_DEPTH = 8
_NAMES = 24
"""How many names of one module are kept."""


@dataclass(slots=True)
class Owned:
    """A parameter in reach: its first name, other spellings, and the network that owns it."""

    tensor: torch.Tensor
    name: str
    owner: Network | None
    others: list[str] = field(default_factory=list)


class Reach:
    """Everything with parameters that the loss's arguments, closure, `self` and module-level objects lead to."""

    def __init__(self, call: LossCall) -> None:
        self.call = call
        self.owned: dict[int, Owned] = {}
        self.modules: dict[int, tuple[torch.nn.Module, str]] = {}
        self.networks: dict[int, Network] = {}
        self.inputs: dict[int, str] = {}
        self.buffers: dict[int, str] = {}
        self.tensors: dict[int, torch.Tensor] = {}
        self.generators: list[torch.Generator] = []
        self.optimizers: dict[int, tuple[torch.optim.Optimizer, str]] = {}
        self._names: dict[int, list[str]] = {}
        self._nameless: set[Network] = set()
        self.made = Made()
        self._visited: set[int] = set()
        self._imported = 0
        self._user_modules: list[tuple[str, ModuleType]] = []
        for name, value in call.arguments().items():
            self._walk(value, name, None, 0, argument=True)
        for name, value in call.scope.items():
            self._walk(value, name, None, 0)

    # -- walking -------------------------------------------------------------------------------------------------

    def _walk(self, value: Any, name: str, owner: Network | None, depth: int, argument: bool = False) -> None:
        if isinstance(value, _ATOMS) or depth > _DEPTH:
            return
        if isinstance(value, torch.Tensor):
            self._tensor(value, name, owner, argument)
        elif isinstance(value, torch.nn.Module):
            self._module(value, name, owner, depth)
        elif isinstance(value, torch.Generator):
            self.generators.append(value)
        elif isinstance(value, MethodType):
            self._walk(value.__self__, name, owner, depth + 1, argument)
        elif isinstance(value, torch.optim.Optimizer):
            self.optimizers.setdefault(id(value), (value, name))
        else:
            if id(value) in self._visited:
                return
            self._visited.add(id(value))
            self.keep_alive(value)
            for key, one in _children(value):
                self._walk(one, f"{name}.{key}", owner, depth + 1, argument)

    def keep_alive(self, value: Any) -> None:
        """Identity is only good as long as the object lives."""
        self._alive = getattr(self, "_alive", [])
        self._alive.append(value)

    def _tensor(self, tensor: torch.Tensor, name: str, owner: Network | None, argument: bool) -> None:
        self.tensors.setdefault(id(tensor), tensor)
        parameter = isinstance(tensor, torch.nn.Parameter) or (tensor.requires_grad and tensor.is_leaf)
        if not parameter:
            self.inputs.setdefault(id(tensor), name)
            return
        known = self.owned.get(id(tensor))
        if known is None:
            self.owned[id(tensor)] = Owned(tensor, name, owner)
        elif name != known.name and name not in known.others:
            known.others.append(name)

    def _module(self, module: torch.nn.Module, name: str, owner: Network | None, depth: int) -> None:
        names = self._names.setdefault(id(module), [])
        if name in names or len(names) >= _NAMES:
            return
        names.append(name)
        again = id(module) in self.modules
        self.modules.setdefault(id(module), (module, name))
        network = self.networks.get(id(module))
        if network is None:
            wrapped = owner is not None and owner.class_name in _WRAPPERS
            local = "" if wrapped else name.rpartition(".")[2] if owner is not None else name
            network = self.networks[id(module)] = Network(local, type(module).__name__, owner)
        wraps = type(module).__name__ in _WRAPPERS
        for key, parameter in module._parameters.items():
            if parameter is not None:
                self._tensor(parameter, f"{name}.{key}", network, False)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                self.tensors.setdefault(id(buffer), buffer)
                self.buffers.setdefault(id(buffer), f"{name}.{key}")
        for key, child in module._modules.items():
            if child is not None:
                self._walk(child, name if wraps and key in _INNER else f"{name}.{key}", network, depth + 1)
        if again:
            return
        for key, value in vars(module).items():
            if not key.startswith("_") and not isinstance(value, _ATOMS):
                self._walk(value, f"{name}.{key}", network, depth + 1)

    # -- what the tracer asks ------------------------------------------------------------------------------------

    def named_modules(self) -> dict[str, set[int]]:
        """The ids of the modules in reach by each of their dotted names."""
        found: dict[str, set[int]] = {}
        for key, names in self._names.items():
            for name in names:
                found.setdefault(name, set()).add(key)
        return found

    def network_of(self, module: torch.nn.Module) -> Network:
        known = self.networks.get(id(module))
        if known is None:
            self._find_module(module)
            known = self.networks.get(id(module))
        if known is None:
            known = self.networks[id(module)] = Network(type(module).__name__.lower(), type(module).__name__)
            self._nameless.add(known)
            self.modules[id(module)] = (module, known.name)
            self._adopt(module, known)
        return known

    def _adopt(self, module: torch.nn.Module, network: Network) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            self._tensor(parameter, f"{network.path}.{name}", network, False)
        for name, child in module.named_children():
            self._walk(child, f"{network.path}.{name}", network, 1)

    def leaf_of(self, tensor: torch.Tensor) -> Leaf:
        """What a tensor from outside is: a parameter in reach, one that nobody named, an input or a constant."""
        known = self.owned.get(id(tensor))
        if known is None and isinstance(tensor, torch.nn.Parameter):
            self._find_parameter(tensor)
            known = self.owned.get(id(tensor))
        if known is not None:
            name = known.name.rpartition(".")[2] if known.owner is not None else known.name
            return Leaf("param", name, known.owner, scalar=tensor.numel() == 1)
        if id(tensor) in self.buffers:
            return Leaf("const", self.buffers[id(tensor)])
        named = self.inputs.get(id(tensor))
        if named is not None:
            return Leaf("input", named)
        return Leaf("input" if tensor.requires_grad or tensor.dim() else "const")

    def optimizer_state(self) -> Iterator[torch.Tensor]:
        """Momentum and step counters of the optimizers in reach."""
        for optimizer, _ in self.optimizers.values():
            for state in optimizer.state.values():
                if isinstance(state, dict):
                    yield from (one for one in state.values() if isinstance(one, torch.Tensor))

    def original_of(self, tensor: torch.Tensor, modules: Iterable[torch.nn.Module]) -> torch.Tensor:
        """The parameter in reach that `tensor` stands in for during a call of one of `modules`, else itself.

        FSDP puts gathered parameters in the place of its shards while a module runs.
        """
        if id(tensor) in self.owned or not isinstance(tensor, torch.nn.Parameter):
            return tensor
        for module in modules:
            for key, one in module._parameters.items():
                if one is tensor and id(module) in self.modules:
                    name = f"{self.modules[id(module)][1]}.{key}"
                    return next((owned.tensor for owned in self.owned.values() if owned.name == name), tensor)
        return tensor

    def _find_module(self, module: torch.nn.Module) -> None:
        for name, value in self._elsewhere():
            if isinstance(value, torch.nn.Module) and any(one is module for one in value.modules()):
                self._walk(value, name, None, 0)
                return

    def _find_parameter(self, parameter: torch.nn.Parameter) -> None:
        """Names for a parameter that the scope does not lead to: user modules' globals, then any living module."""
        for name, value in self._elsewhere():
            if value is parameter or (isinstance(value, torch.nn.Module) and _holds(value, parameter)):
                self._walk(value, name, None, 0)
                return
        root = self.made.root_of(parameter) or self._living_root(parameter)
        if root is None:
            self.owned[id(parameter)] = Owned(parameter, _by_shape(parameter), None)
            return
        self._walk(root, type(root).__name__.lower(), None, 0)
        self._nameless.add(self.networks[id(root)])

    def _living_root(self, parameter: torch.nn.Parameter) -> torch.nn.Module | None:
        for module in living(torch.nn.Module):
            if id(module) not in self.modules and any(one is parameter for one in module._parameters.values()):
                return _root(module)
        return None

    def name_by(self, variables: Iterable[tuple[str, Any]]) -> None:
        """Name the networks that the run itself has made after the variables that hold them."""
        for name, value in variables:
            for path, module in _held_in(value, name, torch.nn.Module) if self._nameless else ():
                if self._is_nameless(module):
                    self._rename(module, path, None, path)
                    self._nameless.discard(self.networks[id(module)])

    def is_made(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor that takes gradient is not known to be a parameter, or by its shape alone."""
        known = self.owned.get(id(tensor))
        nameless = known is None or (known.owner is None and known.name.startswith("parameter("))
        return nameless and tensor.requires_grad and tensor.is_leaf

    def adopt_held(self, tensor: torch.Tensor, variables: Iterable[tuple[str, Any]]) -> Leaf:
        """The leaf of a tensor that the run has made and an optimizer holds: a parameter of no module."""
        names = (
            path for name, value in variables for path, one in _held_in(value, name, torch.Tensor) if one is tensor
        )
        name = next(names, _by_shape(tensor))
        self.owned[id(tensor)] = Owned(tensor, name, None)
        return Leaf("param", name, scalar=tensor.numel() == 1)

    def _is_nameless(self, module: torch.nn.Module) -> bool:
        """Whether the module is known by its kind alone; one that was never called itself, by its parts."""
        known = self.networks.get(id(module))
        if known is None:
            return any(map(self._is_nameless, module.children()))
        return known.outermost() in self._nameless

    def _rename(self, module: torch.nn.Module, name: str, parent: Network | None, path: str) -> None:
        network = self.networks.setdefault(id(module), Network(name, type(module).__name__))
        network.name, network.parent = name, parent
        self.modules[id(module)] = (module, path)
        self._names.setdefault(id(module), []).append(path)
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in self.owned:
                owned = self.owned[id(parameter)]
                owned.name, owned.owner, owned.others = f"{path}.{key}", network, []
        for key, child in module._modules.items():
            if child is not None:
                self._rename(child, key, network, f"{path}.{key}")

    def _elsewhere(self) -> Iterator[tuple[str, Any]]:
        if self._imported != len(sys.modules):
            self._imported, self._user_modules = len(sys.modules), list(self._users())
        for module_name, module in self._user_modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, torch.nn.Module | torch.nn.Parameter):
                    yield f"{module_name}.{name}", value

    def _users(self) -> Iterator[tuple[str, ModuleType]]:
        """The user's own modules."""
        roots = tuple(self.call.roots)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if file.startswith(roots) and "site-packages" not in file:
                yield name, module


def _held_in(value: Any, name: str, kind: type[T], depth: int = 0) -> Iterator[tuple[str, T]]:
    """The modules, or the tensors outside of modules, that a variable leads to, by their dotted names."""
    if isinstance(value, kind):
        yield name, value
    elif depth < 3 and not isinstance(value, (*_ATOMS, torch.Tensor, torch.nn.Module, torch.optim.Optimizer)):
        for key, one in _children(value):
            yield from _held_in(one, f"{name}.{key}", kind, depth + 1)


def _by_shape(parameter: torch.Tensor) -> str:
    """What a parameter is called that nothing holds."""
    return f"parameter{tuple(parameter.shape)}".replace(" ", "")


def _holds(module: torch.nn.Module, parameter: torch.nn.Parameter) -> bool:
    return any(one is parameter for one in module.parameters())


def _root(module: torch.nn.Module) -> torch.nn.Module:
    for candidate in living(torch.nn.Module):
        if candidate is not module and any(one is module for one in candidate.modules()):
            return candidate
    return module


def living(kind: type) -> list[Any]:
    """All living objects of a class. `type(o)`, not `isinstance`: weak proxies raise."""
    kinds = set(_kinds(kind))
    found = [value for value in gc.get_objects() if type(value) in kinds]
    return [one for one in found if kind is not torch.nn.Module or "_parameters" in vars(one)]  # one that is being made


def _kinds(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = type.__subclasses__(kind)
    for one in below:
        yield from _kinds(one)


def _children(value: Any) -> Iterable[tuple[str, Any]]:
    """The named parts of a container or of a user's object."""
    if isinstance(value, dict):
        return [(str(key), one) for key, one in value.items() if isinstance(key, str | int)]
    fields = getattr(value, "_fields", None)
    if isinstance(value, tuple) and fields:
        return list(zip(fields, value, strict=False))
    if isinstance(value, list | tuple | set | frozenset) or type(value).__name__ == "deque":
        return [(str(index), one) for index, one in enumerate(value)] if len(value) <= 1000 else []
    module = type(value).__module__ or ""
    if module.startswith(_FOREIGN) and module != "__main__":
        return []
    if hasattr(value, "batch_size") and hasattr(value, "items") and module.startswith("tensordict"):
        return [(str(key), one) for key, one in value.items()]
    if dataclasses.is_dataclass(value):
        return [(one.name, getattr(value, one.name, None)) for one in dataclasses.fields(value)]
    attributes = getattr(value, "__dict__", None)
    found = list(attributes.items()) if isinstance(attributes, dict) else []
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if isinstance(slot, str) and hasattr(value, slot):
                found.append((slot, getattr(value, slot)))
    return [(key, one) for key, one in found if not key.startswith("__")]
