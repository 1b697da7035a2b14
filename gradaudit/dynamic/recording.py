"""What a recorder takes and gives: the contract between `gradaudit.check` and the torch and jax recorders.

    LossCall   one call of a loss, ready to be made, and the named objects in reach of it
    Recorder   accepts(call), record(call, roles) -> Recording, counterfactual(recording, cut) -> Proof
    Recording  the tape of the run, the loss's value, the parameter groups and what became of each of them
    Cut        where a stop is tried: results of nodes, single operands of nodes, or leaves that are frozen
    Proof      what the loss does with that stop: its value, the leak, the gradients that changed

Nothing here imports a framework. A recorder leaves everything as it found it after each call (random state, buffers,
`.grad`, `requires_grad`), so that `counterfactual` may be called any number of times, in any order.

What the judgement (`dynamic.judge`) reads off the tape, whatever the framework:

- `tape.sinks[0].loss` is the loss; `tape.sinks[0].differentiated` the leaf nodes it is differentiated for (None in
  torch: all that require gradient). A loss of several outputs that is a dict or tuple is their first scalar or sum;
  the recorder says which in `Recording.notes`.
- every parameter in reach is a leaf node, also one that the loss never touches; arguments and batch entries are leaf
  nodes of kind "input" (in jax the differentiated ones are "param"), named as the user names them: `batch.next_obs`.
- edges tell the truth of this run: `passes` is False where autodiff carries nothing, whatever the operation is called.
- `node.location` is the innermost line of the user's own code (never a library's, never ours); `node.call` is the chain
  of user calls around it: `call.location` is where the user's caller stands, up to the loss function itself.
- `Recording.shapes[node]` is the shape of a node's value, where it has one (for broadcasting).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gradaudit.tape import Location, Node, Tape

if TYPE_CHECKING:
    from gradaudit.dynamic.roles import Roles

NONE = "none"
ZERO = "zero"
NONZERO = "nonzero"
STATES = (NONE, ZERO, NONZERO)


@dataclass(frozen=True, slots=True)
class Update:
    """Arrays among a loss's arguments, or beside it, by name, that are moved towards `sources`, one by one; a step
    where there are none. An average keeps `weight` of the old (None: not known)."""

    leaves: tuple[str, ...]
    sources: tuple[str, ...]
    weight: float | None
    location: Location


@dataclass(slots=True)
class LossCall:
    """One call of a loss.

    target      as the user wrote it (`package.module:function`), for reports
    function    what is called: a function, a bound method, a callable object
    args        the positional arguments, `names` the parameter name of each
    kwargs      the keyword arguments
    scope       named objects in reach beside the arguments, nearest first: closure variables, the attributes' owner
                (`self` of a bound method under the name the user wrote), module-level objects of the loss's module.
                A recorder looks for parameters in them and names them after these keys, then attributes, keys, indices
    aliases     other spellings of a key of `scope` in patterns: `self` for the owner of a method, "" for no prefix
    roots       directories whose files are the user's code (lines are reported there, and only there)
    argnums     positional arguments that are differentiated (jax); None: not said (jax: 0; torch: everything)
    filters     which parameters of such an argument are differentiated, where nnx is told by a filter
    framework   "torch", "jax" or "" (not said)
    updates     what the run does to the arrays among the arguments after the loss (jax)
    """

    target: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    scope: dict[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    argnums: tuple[int, ...] | None = None
    filters: Mapping[int, Any] = field(default_factory=dict)
    framework: str = ""
    seed: int = 0
    updates: tuple[Update, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Every argument under its name."""
        return dict(zip(self.names, self.args, strict=False)) | self.kwargs


@dataclass(slots=True)
class Group:
    """A parameter group, named as the user names it.

    role     "frozen", "trained" (stated by the user), "target" or "optimized" (guessed), or ""
    state    none: no path; zero: a path whose gradient is zero on these inputs; nonzero. Never merged
    norm     of the gradient, 0.0 without one
    tensors  how many tensors are in it
    leaves   their leaf nodes on the tape
    """

    name: str
    role: str
    state: str
    norm: float
    tensors: int
    leaves: tuple[Node, ...] = ()
    stated: bool = False
    trainable: bool = True
    """False where the tensors are switched off (`requires_grad=False`)."""
    differentiated: bool = True
    """False for a jax argument that `argnums` leaves alone: its gradient is never taken."""


@dataclass(slots=True)
class Recording:
    """One recorded run. `handle` is the recorder's own (its record of operations), opaque to everyone else."""

    framework: str
    call: LossCall
    tape: Tape
    value: float
    groups: list[Group]
    shapes: Mapping[Node, tuple[int, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Group name -> the ranks on which its gradient was non-zero (empty when not distributed)."""
    rank: int = 0
    """Which process this is; only the first one reports."""
    escapes: list[Node] = field(default_factory=list)
    """Values with gradient that left the framework (`.item()`, `.numpy()`, a callback), where no tape can follow."""
    spellings: Mapping[Node, tuple[str, ...]] = field(default_factory=dict)
    """All names of the leaves, where they may have several: of what shares its storage with others also theirs."""
    one_storage: frozenset[Node] = frozenset()
    """Leaves that are parameters of their own and share their storage with another."""
    claimed: Mapping[Node, tuple[str, str]] = field(default_factory=dict)
    """Leaves that the user states as frozen by one name and as trained by another."""
    wholes: list[frozenset[Node]] = field(default_factory=list)
    """For each pattern of what is trained the leaves that it names."""
    evaluating: frozenset[Node] = frozenset()
    """Leaves of networks in evaluation mode, where others are in training."""
    applied: frozenset[Node] = frozenset()
    """Layers that the user's own text applies to arrays of parameters (jax), not a library's."""
    carried: list[tuple[Node, str]] = field(default_factory=list)
    """Values that an object of the scope brings with a graph from before the loss, and their names."""
    beside: frozenset[Node] = frozenset()
    """Leaves that some loss of the same update takes gradient into, recorded or not."""
    handle: Any = None

    def trains(self, group: Group) -> bool:
        """Whether some loss of the update trains all of this group."""
        return bool(group.leaves) and self.beside.issuperset(group.leaves)

    def escapes_of(self, group: Group) -> Node | None:
        """The last value of this group that left, if one did."""
        leaves = set(group.leaves)
        return next((node for node in reversed(self.escapes) if _behind(node, leaves)), None)


def _behind(node: Node, leaves: set[Node]) -> bool:
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        if one in leaves:
            return True
        for edge in one.inputs:
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


@dataclass(frozen=True, slots=True)
class Cut:
    """Where to try a stop.

    values    the results of these nodes are stopped, for every consumer
    operands  (consumer, i): `consumer.inputs[i]` is stopped for this consumer only
    freeze    these leaves are not differentiated (`requires_grad_(False)`, left out of the differentiated tree)
    """

    values: frozenset[Node] = frozenset()
    operands: frozenset[tuple[Node, int]] = frozenset()
    freeze: frozenset[Node] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """One group's gradient with and without the stop; `relative` is |after - before| / |before| (1.0 if that is 0)."""

    group: str
    before: str
    after: str
    norm_before: float
    norm_after: float
    relative: float


@dataclass(frozen=True, slots=True)
class Proof:
    """The loss again with a stop at the cut.

    identical  the value is bit for bit the same
    value      the loss with the stop
    changes    every group whose gradient differs (state or bits), in the order of the recording's groups
    states     group name -> state with the stop
    note       why there is no proof (the loss is not deterministic, the cut cannot be made), else ""
    """

    identical: bool
    value: float
    changes: tuple[Change, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class Recorder(Protocol):
    """One framework's recorder: a module-level object `RECORDER` of `gradaudit.dynamic.torch_recorder` and of
    `gradaudit.dynamic.jax_recorder`. Importing the module may import the framework; choosing the module may not."""

    framework: str

    def accepts(self, call: LossCall) -> bool:
        """Whether this call's arguments, scope or result are this framework's."""
        ...

    def record(self, call: LossCall, roles: Roles) -> Recording:
        """Run the loss once, differentiate it, and put both on a tape.

        Raises `errors.CheckError` (exit code 2) with one clear line where the loss cannot be audited: it raises, its
        result is not a scalar, it is not a number, it needs no gradient, a pattern matches nothing.
        """
        ...

    def counterfactual(self, recording: Recording, cut: Cut) -> Proof:
        """Run the loss again with a stop at `cut` and compare."""
        ...

    def everywhere(self, value: object) -> bool:
        """Whether all processes of a distributed run say the same (True where there is one). All of them must ask."""
        ...

    def make_input(self, spec: InputSpec, seed: int) -> Any:
        """An array or tensor of this dtype and shape: normal numbers, or uniform ones in [low, high)."""
        ...


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One generated input: `next_obs=float32:32x4`, `action=int64:32:0..5`."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None


def user_location(location: Location | None) -> bool:
    """Whether a location points at a line of a file (the recorders use line 0 where nothing of the user's is known)."""
    return location is not None and location.line > 0
