"""What an expression can be while the text is executed: tensors are tape nodes, the rest is here.

Values are immutable but for the containers of the heap (attributes, entries, items), which are plain dicts so that one
journal can undo and merge them (see `state.State.put`).
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gradaudit.tape import ALWAYS, Guard, Network, Node, Optimizer

if TYPE_CHECKING:
    from gradaudit.static.files import Module
    from gradaudit.static.state import Scope


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
DISTRIBUTION = "distribution()"  # in an object whose class derives from a library's distribution: that distribution
OPTIONAL = "optional"  # the detail of a join with None
UNNAMED = "[*]"  # the attribute that stands for those whose names are computed


class Value:
    __slots__ = ()


class Const(Value):
    """A python constant."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Const({self.value!r})"


NONE = Const(None)
TRUE = Const(True)
FALSE = Const(False)


_keys = itertools.count(1)


class Unknown(Value):
    """Anything that the text does not tell: an argument of an entry, a configuration field, a foreign call's result.

    It has an identity: the same unknown asked twice is the same symbol, the same input, the same network.
    """

    __slots__ = (
        "annotation", "attrs", "call", "default", "flag_of", "instance", "key", "leaf", "marks", "name", "network",
        "node", "parent", "is_module", "parameter", "plain",
    )  # fmt: skip

    def __init__(self, name: str, parent: Value | None = None, annotation: Value | None = None) -> None:
        self.key = next(_keys)  # a count on the class would be a new version of the class, and slow all that reads it
        self.name = name
        self.parent = parent
        self.annotation = annotation  # a ClassValue, or External("torch.nn.Module")
        self.attrs: dict[Any, Any] = {}
        self.call = False  # the result of a call that is not understood
        self.default: object = MISSING
        self.flag_of: object = None
        self.instance: Instance | None = None
        self.leaf: Node | None = None  # its parameters, once it turned out to be a network
        self.network: Network | None = None
        self.marks: frozenset[str] = frozenset()
        self.node: Node | None = None  # itself as an input
        self.is_module: bool | None = None
        self.parameter = False
        self.plain = False  # a number, a text, a shape: no tensor

    def __repr__(self) -> str:
        return f"Unknown({self.name})"


def plain(name: str) -> Unknown:
    """Something unknown that is certainly no tensor: a size, a text, a condition."""
    made = Unknown(name)
    made.plain = made.call = True
    return made


COUNTER = ("counter",)


def counter() -> Unknown:
    """What counts the iterations of a loop, from 0."""
    made = plain("i")
    made.flag_of = COUNTER
    return made


def foreign(name: str) -> Unknown:
    """The result of a call that is not understood."""
    made = Unknown(name)
    made.call = True
    return made


def foreign_network(name: str) -> Unknown:
    """A network that something not understood makes."""
    made = foreign(name)
    made.is_module = True
    return made


NOWHERE = plain("nowhere")


class Elements(Value):
    """In an annotation: a list, tuple or dict of instances of a class."""

    __slots__ = ("cls",)

    def __init__(self, cls: Value) -> None:
        self.cls = cls


class Sequence(Value):
    """A list, tuple or set: the items that are known one by one, and one value that stands for any others.

    Of these, the one that was written last is known too, as long as it is asked for by the index it was written at.
    """

    __slots__ = ("cell", "kind", "names", "time", "yielded")

    def __init__(self, items: Iterable[Any] = (), rest: Any = None, kind: str = "tuple") -> None:
        self.cell: dict[str, Any] = {"items": tuple(items), "rest": rest, "at": NOWHERE}
        self.kind = kind
        self.names: tuple[str, ...] | None = None
        self.time = 0
        self.yielded: tuple[Any, ...] = ()  # of a generator: its values in the order of the text

    @property
    def items(self) -> tuple[Any, ...]:
        items: tuple[Any, ...] = self.cell["items"]
        return items

    @property
    def rest(self) -> Any:
        rest = self.cell.get("rest")
        return rest

    def __repr__(self) -> str:
        return f"Sequence({list(self.items)}, {self.rest})"


class Mapping(Value):
    """A dict: known entries, and one value for the keys that are not. `batch`: its entries are arrays of the same rows,
    and an index that is no key picks some of them.
    """

    __slots__ = ("batch", "entries")

    def __init__(self, entries: dict[Any, Any] | None = None, rest: Any = None, batch: bool = False) -> None:
        self.entries: dict[Any, Any] = entries if entries is not None else {}
        self.batch = batch
        if rest is not None:
            self.entries[MISSING] = rest

    @property
    def rest(self) -> Any:
        return self.entries.get(MISSING)

    def known(self) -> dict[Any, Any]:
        return {key: value for key, value in self.entries.items() if key is not MISSING}

    def __repr__(self) -> str:
        return f"Mapping({self.entries})"


class ClassValue(Value):
    """A class of the project."""

    __slots__ = (
        "attrs", "members", "module", "mro", "name", "node", "record", "scope", "setters", "is_module", "fields",
    )  # fmt: skip

    def __init__(self, node: ast.ClassDef, module: Module, scope: Scope) -> None:
        self.node = node
        self.module = module
        self.scope = scope
        self.name = node.name
        self.mro: list[Value] | None = None
        self.members: dict[str, ast.stmt] | None = None
        self.attrs: dict[Any, Any] = {}
        self.record: bool | None = None
        self.setters: dict[str, tuple[ast.FunctionDef, ClassValue]] | None = None
        self.is_module: bool | None = None
        self.fields: list[tuple[str, ast.AnnAssign, ClassValue]] | None = None

    def __repr__(self) -> str:
        return f"ClassValue({self.name})"


class Function(Value):
    """A function or lambda of the project with the scope it closes over."""

    __slots__ = ("grad", "module", "name", "node", "owner", "scope", "self_value", "generator")

    def __init__(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        module: Module,
        scope: Scope,
        self_value: Value | None = None,
        owner: ClassValue | None = None,
    ) -> None:
        self.node = node
        self.module = module
        self.scope = scope
        self.self_value = self_value
        self.owner = owner
        self.grad: str = ""  # "", "off" (decorated with no_grad) or "on" (enable_grad)
        self.name: str = getattr(node, "name", "<lambda>")

    def bind(self, self_value: Value, owner: ClassValue | None) -> Function:
        bound = Function(self.node, self.module, self.scope, self_value, owner)
        bound.grad = self.grad
        return bound

    def __repr__(self) -> str:
        return f"Function({self.name})"


class Bound(Value):
    """A method that the text of the project does not define: of a tensor, a container, a library object."""

    __slots__ = ("name", "receiver")

    def __init__(self, receiver: Any, name: str) -> None:
        self.receiver = receiver
        self.name = name

    def __repr__(self) -> str:
        return f"Bound({self.receiver}.{self.name})"


class External(Value):
    """A name of a library, by its dotted path."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def tail(self) -> str:
        return self.path.rsplit(".", 1)[-1]

    @property
    def root(self) -> str:
        return self.path.split(".", 1)[0]

    def __repr__(self) -> str:
        return f"External({self.path})"


class ModuleValue(Value):
    """A module of the project."""

    __slots__ = ("module",)

    def __init__(self, module: Module) -> None:
        self.module = module


class Instance(Value):
    """An object: of a class of the project, or of a library class that matters (a layer, a container of layers)."""

    __slots__ = ("attrs", "children", "cls", "draw", "external", "leaf", "network", "row", "applied", "width")

    def __init__(self, cls: ClassValue | None = None, external: str = "", name: str = "") -> None:
        self.cls = cls
        self.external = external
        self.attrs: dict[Any, Any] = {}
        self.leaf: Node | None = None
        self.network = Network(name, cls.name if cls is not None else external.rsplit(".", 1)[-1])
        self.children: Sequence | Mapping | None = None  # of a Sequential, ModuleList, ModuleDict
        self.row: Any = None
        self.applied: Node | None = None
        self.draw: Node | None = None  # that chose it among several
        self.width: int | None = None  # how many features a layer gives

    def __repr__(self) -> str:
        return f"Instance({self.network.class_name} {self.network.name})"


class OptimizerValue(Value):
    __slots__ = ("attrs", "optimizer")

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.attrs: dict[Any, Any] = {}


class Parameters(Value):
    """What `parameters()` gives: leaves, whether they are all of them, whose `named_parameters()` they are; `whole`:
    one network or container was asked, and nothing was added or left out by hand."""

    __slots__ = ("complete", "leaves", "named", "whole")

    def __init__(
        self, leaves: tuple[Node, ...], complete: bool = True, named: str | None = None, whole: bool = False
    ) -> None:
        self.whole = whole
        self.leaves = leaves
        self.complete = complete
        self.named = named


class StateDict(Value):
    """A snapshot of a network's parameters, and what was written into its entries since.

    `shares`: it is known to be their storage itself (`p.data`), no copy of it. `live`: its entries are the parameters
    themselves, as in `dict(net.named_parameters())`.
    """

    __slots__ = ("cell", "leaves", "live", "shares")

    def __init__(self, leaves: tuple[Node, ...], shares: bool = False, live: bool = False) -> None:
        self.leaves = leaves
        self.shares = shares
        self.live = live
        self.cell: dict[str, Any] = {}

    def copied(self) -> StateDict:
        """The same entries, which may be in storage of their own."""
        made = StateDict(self.leaves)
        made.cell = self.cell
        return made

    @property
    def written(self) -> Any:
        return self.cell.get("written")

    @property
    def entry(self) -> Parameters | StateDict:
        """What stands for any of its entries."""
        return Parameters(self.leaves) if self.live else self


class Union(Value):
    """One of several values that cannot be joined (two classes, two functions)."""

    __slots__ = ("alternatives", "guards")

    def __init__(self, alternatives: tuple[Any, ...], guards: tuple[Guard, ...] = ()) -> None:
        self.alternatives = alternatives
        self.guards = guards or (ALWAYS,) * len(alternatives)

    def guard_of(self, alternative: Any) -> Guard:
        """The literals under which this is the one."""
        if not any(self.guards):
            return ALWAYS
        for value, guard in zip(self.alternatives, self.guards, strict=True):
            if value is alternative:
                return guard
        return ALWAYS


class Partial(Value):
    __slots__ = ("args", "function", "keywords")

    def __init__(self, function: Any, args: list[Any], keywords: dict[str, Any]) -> None:
        self.function = function
        self.args = args
        self.keywords = keywords


class Gradient(Value):
    """`jax.grad(f)` and its kin: differentiates when called."""

    __slots__ = ("argnums", "called", "filters", "function", "has_aux", "style", "with_value")

    def __init__(
        self, function: Any, argnums: tuple[Any, ...] | None, has_aux: bool, with_value: bool, style: str = "grad"
    ) -> None:
        self.function = function
        self.argnums = argnums
        self.has_aux = has_aux
        self.with_value = with_value
        self.style = style
        self.called = False
        self.filters: dict[Any, Any] = {}  # nnx: what is differentiated of an argument, by its position


class Transformed(Value):
    """A function behind a transformation that changes how it is called: functional apply, haiku's transform ..."""

    __slots__ = ("function", "how", "extra")

    def __init__(self, function: Any, how: str, extra: Any = None) -> None:
        self.function = function
        self.how = how
        self.extra = extra


class Super(Value):
    __slots__ = ("cls", "self_value")

    def __init__(self, cls: ClassValue, self_value: Value) -> None:
        self.cls = cls
        self.self_value = self_value


class Managed(Value):
    """The call of a generator that is to run around a block, its arguments bound in `scope`."""

    __slots__ = ("function", "scope")

    def __init__(self, function: Function, scope: Any) -> None:
        self.function = function
        self.scope = scope


class GradMode(Value):
    """A context manager or decorator that switches gradient: "off", "on", or a symbol's literal."""

    __slots__ = ("condition", "mode")

    def __init__(self, mode: str, condition: Any = None) -> None:
        self.mode = mode
        self.condition = condition
