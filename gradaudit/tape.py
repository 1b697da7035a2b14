"""The tape: the record of a computation, as far as gradient is concerned.

A recorder (static, torch or jax) turns a program into a `Tape`; rules read it. Nothing here knows a framework or a
syntax tree. Nodes and events share one clock (`time`), so "created before this step" is a comparison.

Nodes refer to their inputs directly; a node may gain inputs while it is being recorded (the back edge of a loop, a
deposit into a container) and none afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

Literal = tuple[str, bool]
"""A symbolic boolean (its key in `Tape.symbols`) and the value that it must have."""

Guard = frozenset[Literal]
"""A conjunction of literals under which an edge or event exists. Empty: always."""

ALWAYS: Guard = frozenset()

OWN, SHARED = "own", "shared"

DATA = "data"
INDEX = "index"
PARAMETER = "parameter"

Shape = tuple[int | str | None, ...]
"""Sizes, None where one is not known; `REST` in front: further axes, however many, the same ones wherever it stands."""

REST = "rest"


def join_guards(first: Guard, second: Guard) -> Guard | None:
    """Both guards at once, or None where they contradict each other."""
    if not first:
        return second
    if not second:
        return first
    return _both(first, second)


@lru_cache(maxsize=1 << 14)  # the same few meet again and again
def _both(first: Guard, second: Guard) -> Guard | None:
    both = first | second
    if len(both) > 1 and any((symbol, not value) in both for symbol, value in both):
        return None
    return both


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A span of source text: 1-based, `end_column` exclusive; `path` is as the user gave it."""

    path: str
    line: int
    column: int = 1
    end_line: int = 0
    end_column: int = 0
    function: str = ""


@dataclass(eq=False, slots=True)
class Network:
    """A module instance (or parameter tree): the owner of parameter leaves. Identity is the object itself."""

    name: str
    class_name: str = ""
    parent: Network | None = None
    copied_from: Network | None = None

    def chain(self) -> Iterable[Network]:
        """This network and its owners, innermost first."""
        network: Network | None = self
        for _ in range(32):
            if network is None:
                return
            yield network
            network = network.parent

    def outermost(self) -> Network:
        """The last of the owners."""
        return list(self.chain())[-1]

    @property
    def path(self) -> str:
        return ".".join(reversed([network.name for network in self.chain() if network.name]))


@dataclass(eq=False, slots=True)
class Leaf:
    """Where gradient ends or data begins. `kind`:

    param   trainable state (a layer's weights, a Parameter, a tf.Variable); `owner` is the module instance it is in
    arg     a differentiated argument (of jax.grad, or of a library function that is judged without a caller)
    input   data from outside: a batch, an observation, an unknown
    const   a constant
    """

    kind: str
    name: str = ""
    owner: Network | None = None
    scalar: bool = False
    copied_from: Leaf | None = None

    @property
    def path(self) -> str:
        owner = self.owner.path if self.owner is not None else ""
        return ".".join(part for part in (owner, self.name) if part)


@dataclass(eq=False, slots=True)
class Frame:
    """One call of a module: which network, and the tensors that were passed to it (nested values included).

    `location` and `call` say where it is called, if that is known: a run has one `Call` for all rounds of a loop.
    """

    network: Network
    arguments: tuple[Node, ...] = ()
    parent: Frame | None = None
    location: Location | None = None
    call: Call | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One user function on the call stack: where it was called from. Line 0: the entry itself, called by no text.

    `receiver` is the object whose method it is, where that is known.
    """

    location: Location
    function: str = ""
    parent: Call | None = None
    receiver: Network | None = None


class Edge(NamedTuple):
    """An input of a node. Data always flows; gradient only where `passes`, and only under `guard`.

    `kind` is data, index (a position, a condition, a mask: value but never gradient) or parameter (of a module call).
    """

    source: Node
    passes: bool = True
    kind: str = DATA
    guard: Guard = ALWAYS


@dataclass(eq=False, slots=True)
class Node:
    """One operation.

    op        canonical name, as in rules/models (`sub`, `mse_loss`, `module_call`, `phi`, `stop`, `leaf` ...)
    detail    constants that tell two operations of one name apart (an index, an axis, an unknown callee's name)
    name      what the user calls the result (variable, attribute, key), or ""
    time      its place on the tape's clock
    loops     the loops it was recorded in, outermost first
    frame     the module call it was recorded in, or None
    call      the user function it was recorded in, or None
    marks     what is known of the value from structure: "reward", "done", "observation", "next-observation" ...
    grad_mode False where it was recorded with gradient switched off
    """

    op: str
    inputs: list[Edge]
    location: Location
    time: int
    detail: str = ""
    name: str = ""
    leaf: Leaf | None = None
    frame: Frame | None = None
    call: Call | None = None
    loops: tuple[int, ...] = ()
    marks: frozenset[str] = frozenset()
    grad_mode: bool = True

    def __repr__(self) -> str:
        label = self.leaf.path if self.leaf else self.name
        return f"<{self.op} {label} L{self.location.line} t{self.time}>"

    def arguments(self) -> list[Node]:
        """The inputs that carry values (no indices, no parameters), in order."""
        return [edge.source for edge in self.inputs if edge.kind == DATA]


@dataclass(eq=False, slots=True)
class Optimizer:
    """Whatever steps parameters. `complete` is False where some of what it holds is unknown; `whole`: it was given the
    parameters of one network or container as they are."""

    name: str
    leaves: set[Node] = field(default_factory=set)
    complete: bool = True
    location: Location | None = None
    whole: bool = False


@dataclass(eq=False, slots=True)
class Sink:
    """Where a loss is differentiated.

    kind            backward (torch), grad (jax, autograd.grad, tape.gradient), minimize (TF1/Keras), return (a training
                    step whose result a framework differentiates), library (a function without a caller, judged by its
                    arguments: nothing is known of how it is used)
    differentiated  the leaf nodes the gradient is taken for; None: every leaf that requires gradient
    own             the leaf nodes stepped with this gradient before it is cleared; None: unknown.
                    `ownership.own_sets` fills it from the events.
    applied         an optimizer gets this gradient as it is, alone or added to others (JAX): no entry of it is left out
    uses            of a library sink: says whether the project itself uses the function, and no package offers it to
                    others (`called`). It is asked when somebody wants to know: who uses what is found by reading.
    """

    loss: Node
    kind: str
    location: Location
    time: int
    differentiated: frozenset[Node] | None = None
    own: frozenset[Node] | None = None
    loops: tuple[int, ...] = ()
    guard: Guard = ALWAYS
    function: str = ""
    applied: bool = False
    uses: Callable[[], bool] | None = None

    @property
    def called(self) -> bool:
        """Whether what is live is for the project's own uses of a library function to say."""
        return self.uses is not None and self.uses()


@dataclass(eq=False, slots=True)
class Event:
    """What happens to parameters beside the graph. `kind`:

    hold         `optimizer` takes `leaves`
    backward     `sink` is differentiated (in JAX: `leaves`, its arguments, are versions of the trees `sources`)
    step, clear  `optimizer` (or, where it is unknown, whoever holds `leaves`) steps them / zeroes their gradient
    copy         `leaves` become a copy of `sources` (deepcopy, load_state_dict, assign, hard update)
    soft_update  `leaves` = weight * leaves + (1 - weight) * sources; `weight` is None where it is not known
                 (`tracked`: a copy or soft update whose write autograd records, into leaves that are frozen)
                 (`storage`: whose the leaves have, where the write replaced it: OWN, or SHARED with `sources`)
    average      `leaves`, or some rows of them, become a weighted sum of what they are and of data
    lost         an average of `leaves` and `sources`, as an update of `leaves` would write it, that nobody keeps
    offer        `leaves` may be updated by what is not on the tape: a method that nobody calls, a caller, a library
    alias        one network under two names; the location is where it got the second one
    second_name  as alias, of a name that no update writes: in one function its answers have no gradient, the other's do
    freeze, unfreeze   requires_grad of `leaves`
    train, eval  the mode that the network of `leaves` is put into

    `conditional`: in a branch whose condition the text leaves open (`if step % 100 == 0`).
    `branches`: these branches (where they begin, and which arm), if all that it is in are known.
    `call`: the user function it was recorded in, or None.
    """

    kind: str
    time: int
    location: Location
    optimizer: Optimizer | None = None
    leaves: tuple[Node, ...] = ()
    sources: tuple[Node, ...] = ()
    weight: float | None = None
    sink: Sink | None = None
    loops: tuple[int, ...] = ()
    guard: Guard = ALWAYS
    conditional: bool = False
    tracked: bool = False
    storage: str = ""
    call: Call | None = None
    branches: frozenset[tuple[Location, int]] = frozenset()


@dataclass(eq=False, slots=True)
class Symbol:
    """A symbolic boolean: a hyper-parameter, a flag, a condition that the program leaves open.

    `default` is the value it has unless someone asks otherwise (None: not known); `passed` are the constants that calls
    in the project pass for it; `parameter` is True for a public function's own argument.
    """

    key: str
    name: str
    default: object = None
    passed: tuple[object, ...] = ()
    parameter: bool = False
    location: Location | None = None


@dataclass(eq=False, slots=True)
class Tape:
    """A recorded program: everything one entry (script, class, function, run) did, in order."""

    framework: str = ""
    entry: str = ""
    path: str = ""
    nodes: list[Node] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    roles: dict[Node, str] = field(default_factory=dict)
    """Roles that the user states for leaves ("frozen", "trained"); they bind."""
    arms: dict[Node, tuple[Location, tuple[int, ...]]] = field(default_factory=dict)
    """Of joins of branches: where the branches begin, and the arm that each input comes from; -t for a way out of a
    loop's body (`continue`) at time t."""
    forbidden: tuple[Guard, ...] = ()
    """What the program refuses: a constructor raises where all of these literals hold."""
    shapes: dict[Node, Shape] = field(default_factory=dict)
    """The shapes of values, where they are known."""
    others: list[Sink] = field(default_factory=list)
    """Losses of the same run that are judged elsewhere; they tell what else rightly takes gradient from a value."""
