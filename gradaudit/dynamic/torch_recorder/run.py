"""One audited loss: run, recorded and differentiated."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch

from gradaudit.dynamic import groups
from gradaudit.dynamic.lines import Lines, Names
from gradaudit.dynamic.recording import LossCall, Recording
from gradaudit.dynamic.roles import TRAINED, Roles
from gradaudit.dynamic.torch_recorder import lightning, opaque, ranks
from gradaudit.dynamic.torch_recorder.composites import composites
from gradaudit.dynamic.torch_recorder.events import add_events
from gradaudit.dynamic.torch_recorder.gradients import Gradients, exact_bytes, norm_of
from gradaudit.dynamic.torch_recorder.losses import loss_of
from gradaudit.dynamic.torch_recorder.reach import Owned, Reach, living
from gradaudit.dynamic.torch_recorder.saved import Copies, seed_everything, untouched
from gradaudit.dynamic.torch_recorder.storages import one_storage
from gradaudit.dynamic.torch_recorder.tracer import Tracer, tensors_in
from gradaudit.dynamic.torch_recorder.updates import (
    BACKWARD,
    GRADIENT,
    Differentiated,
    Entry,
    Reached,
    Updates,
    held_by,
    lines_of,
    taken_by,
)
from gradaudit.dynamic.torch_recorder.written import writes
from gradaudit.errors import INPUTS, CheckError, UsageError, UserCodeError
from gradaudit.tape import Edge, Event, Network, Node, Sink, Tape

_TORCH = os.path.dirname(os.path.abspath(torch.__file__))

_NONE_MADE: Mapping[int, torch.Tensor] = MappingProxyType({})


class Run:
    """The recorder's own record of one loss: what its operations are called, so that a stop can be put at one."""

    def __init__(
        self, call: LossCall, roles: Roles, part: int | None = None, seen: Differentiated | None = None
    ) -> None:
        self.call = call
        self.part = part
        self.seen = seen
        self.roles = roles
        self.reach = Reach(call)
        self.lasting = frozenset(self.reach.owned)
        self.lines = Lines(call.roots, (_TORCH,), self._network)
        self.tape = Tape(framework="torch", entry=call.target)
        self.notes: list[str] = []
        reach = self.reach
        self.tracer = Tracer(
            self.tape,
            self.lines,
            reach.leaf_of,
            reach.network_of,
            reach.original_of,
            _invoke.__code__,
            self.new_updates(),
        )
        self.gradients: Gradients | None = None
        self.copies: Copies = {}
        self.stated: dict[str, str] = {}
        self.leaf_nodes: dict[int, Node] = {}
        self.evaluating: frozenset[Node] = frozenset()
        self.outside: list[torch.Tensor] = []
        self.takers: list[torch.optim.Optimizer] = []  # they live on when the function that made them is left

    # -- recording -----------------------------------------------------------------------------------------------

    def record(self) -> Recording:
        reach = self.reach
        if self.call.argnums is not None:
            raise UsageError(
                "--argnums is jax's: torch differentiates all that requires gradient; use --trained, --frozen"
            )
        if reach.owned or not self.roles:
            self.stated = self._assign()
        tracer = self.tracer
        with self.undisturbed():
            updates = tracer.updates
            updates.reached = self._name_made
            with updates.watch(self.call.function), composites(tracer), tracer:
                result = self.result()
            self.outside = [tensor for _, tensor in tracer.unseen_leaves]
            if self.part is None and updates.taken(BACKWARD):
                raise self._differentiated(BACKWARD)
            loss, note = self._loss(result)
            if note:
                self.notes.append(note)
            _check_number(loss)
            if not loss.requires_grad:
                node = tracer.node_of(loss)
                grads = Gradients(exact_bytes(loss), float(loss), {})
            else:
                node = tracer.node_of(loss)
                watched = opaque.watch(self.tracer)
                self._add_leaves()
                grads = self.differentiate(loss)
                opaque.settle(self.tracer, watched, grads)
            self._add_leaves()
            self.evaluating = self._evaluating()
        self.gradients = grads
        if not self.stated and self.roles:
            self.stated = self._assign()
        return self._recording(node, grads)

    def _name_made(self) -> None:
        variables = self.lines.variables(2, _invoke.__code__)
        self.reach.name_by(variables)
        self.takers = living(torch.optim.Optimizer)
        for one in [one for taker in self.takers for one in held_by(taker)]:
            if id(one) in self.tracer.known and self.reach.is_made(one):
                node = self.tracer.known[id(one)][0]
                node.op, node.inputs, node.leaf = "leaf", [], self.reach.adopt_held(one, variables)

    def _network(self, value: Any) -> Network | None:
        return self.reach.networks.get(id(value)) if isinstance(value, torch.nn.Module) else None

    def new_updates(self) -> Updates:
        return Updates(self.part, self.lines, BACKWARD if self.seen is None else self.seen.kind)

    def _loss(self, result: Any) -> tuple[torch.Tensor, str]:
        """The loss that is returned; Differentiated where none is and gradients were taken without it."""
        taken = self.part is None and self.tracer.updates.taken(GRADIENT)
        try:
            found = loss_of(result)
        except CheckError:
            if taken:
                raise self._differentiated(GRADIENT) from None
            raise
        if taken and not found[0].requires_grad:
            raise self._differentiated(GRADIENT)
        return found

    def result(self) -> Any:
        """What the function returns, or the loss that it is about to differentiate where that is asked for."""
        try:
            result = _call_user(self.call)
        except Reached as reached:
            return reached.loss
        except UserCodeError as error:
            if self.part is not None or not self.tracer.updates.taken(BACKWARD):
                raise
            # Perhaps what it does with gradient is why it raises: its losses are audited all the same.
            raise self._differentiated(BACKWARD) from error
        if self.part is not None:
            raise CheckError("the function does not take its gradients as often as before; it cannot be audited")
        return result

    def _assign(self) -> dict[str, str]:
        """The stated role of every parameter by name."""
        stated = self._matched()
        for owned in self.reach.owned.values():
            if stated.get(owned.name) == TRAINED and not owned.tensor.is_floating_point():
                raise CheckError(
                    f"`{owned.name}` is stated as trained and holds {str(owned.tensor.dtype).removeprefix('torch.')}: "
                    "only floating-point parameters take gradient"
                )
        return stated

    def _matched(self) -> dict[str, str]:
        names, networks = self._names(), self.reach.named_modules()
        for part, other in dict.fromkeys(self.roles.shared(names, networks).values()):
            note = f"`{part}` is `{other}` as well: it is not held to be frozen unless it is named itself"
            self.notes += [note] if note not in self.notes else []
        roles, told = self.roles.without_state(
            (one for name in names for one in (name, *names[name])), self.reach.buffers.values()
        )
        self.notes += [note for note in told if note not in self.notes]
        return roles.assign(names, networks)

    def _names(self) -> dict[str, list[str]]:
        return {owned.name: self._spellings(owned) for owned in self.reach.owned.values()}

    def _spellings(self, owned: Owned) -> list[str]:
        """Other names that patterns may use: an alias of the object a method belongs to, or none at all."""
        spellings = list(owned.others)
        for name in (owned.name, *owned.others):
            head, _, rest = name.partition(".")
            for alias in self.call.aliases.get(head, ()):
                spellings.append(f"{alias}.{rest}" if alias else rest)
        return spellings

    def _recording(self, loss: Node, grads: Gradients) -> Recording:
        self._name_nodes()
        tape = self.tape
        tape.nodes.sort(key=lambda node: node.time)
        backward = self.tracer.updates.entries[-1] if self.part is not None else None
        location = backward.location if backward is not None else loss.location
        sink = Sink(loss, "backward", location, self.tracer.tick(), function=self.call.target)
        tape.sinks.append(sink)
        if backward is not None and backward.kind == GRADIENT:
            sink.kind = "grad"
        if backward is not None and (backward.kind == GRADIENT or backward.tensors):
            sink.differentiated = self._asked(backward)
        if backward is not None:
            how = "calls backward()" if backward.kind == BACKWARD else "takes its gradient"
            self.notes.append(f"the loss of {location.path}:{location.line}, where the function {how}")
        tape.path = next((node.location.path for node in tape.nodes if node.location.line), "")
        rows = [self._row(owned, grads) for owned in self.reach.owned.values()]
        tape.roles.update((row.node, row.role) for row in rows if row.stated)
        before, after = self._log()
        tape.others += [*self._earlier(before), *self._later(after)] if backward is not None else []
        add_events(tape, self.reach, self.leaf_nodes, self.tracer.tick, self.lines.nowhere, before, after)
        if self.evaluating:
            still = tuple(sorted(self.evaluating, key=lambda leaf: leaf.time))
            tape.events.append(Event("eval", 0, self.lines.nowhere, leaves=still))
        rows_of = groups.build(rows)
        same = one_storage(self.reach.owned.values())
        return Recording(
            framework="torch",
            call=self.call,
            tape=tape,
            value=grads.value,
            groups=rows_of,
            ranks=ranks.merge(rows_of) if ranks.several() else {},
            rank=ranks.rank(),
            shapes=self.tracer.shapes,
            notes=self.notes,
            escapes=self.tracer.escapes,
            carried=self._carried(),
            evaluating=self.evaluating,
            spellings={
                self.leaf_nodes[key]: (owned.name, *owned.others, *same.get(owned.name, ()))
                for key, owned in self.reach.owned.items()
            },
            one_storage=frozenset(self.leaf_nodes[key] for key, one in self.reach.owned.items() if one.name in same),
            claimed=self._claimed(),
            wholes=self._wholes(),
            beside=self._beside(),
            handle=self,
        )

    def _row(self, owned: Owned, grads: Gradients) -> groups.LeafGradient:
        gradient = grads.of.get(id(owned.tensor))
        role = self.stated.get(owned.name, "")
        return groups.LeafGradient(
            name=owned.name,
            stem=self._stem(owned.name),
            node=self.leaf_nodes[id(owned.tensor)],
            role=role,
            norm=None if gradient is None else norm_of(gradient),
            stated=bool(role),
            trainable=owned.tensor.requires_grad,
            differentiated=self._is_differentiated(owned.tensor),
        )

    def _asked(self, entry: Entry) -> frozenset[Node]:
        """The leaves for which `torch.autograd.grad` or `backward(inputs=...)` is asked, and what has a stated role."""
        asked = {self.leaf_nodes[id(one)] for one in entry.tensors if id(one) in self.leaf_nodes}
        return frozenset(asked | {self.leaf_nodes[key] for key in self._with_role()})

    def _with_role(self) -> set[int]:
        return {key for key, owned in self.reach.owned.items() if owned.name in self.stated}

    def _is_differentiated(self, tensor: torch.Tensor) -> bool:
        entry = self.tracer.updates.entries[-1] if self.part is not None else None
        if entry is None or not (entry.kind == GRADIENT or entry.tensors) or id(tensor) in self._with_role():
            return True
        return any(one is tensor for one in entry.tensors)

    def _stem(self, name: str) -> str:
        """The network a parameter belongs to: what the loss calls, else the outermost module, else the tensor."""
        called = {self.reach.modules[one][1] for one in self.tracer.outer_modules if one in self.reach.modules}
        parts = name.split(".")
        prefixes = [".".join(parts[:end]) for end in range(1, len(parts))]
        for prefix in prefixes:
            if prefix in called:
                return prefix
        modules = {name for _, name in self.reach.modules.values()}
        inside = [prefix for prefix in prefixes if prefix in modules]
        if not inside:
            return name
        for prefix in inside:
            below = [one for one in called if one.startswith(prefix + ".")]
            if not below:
                return prefix
        return name

    def _claimed(self) -> dict[Node, tuple[str, str]]:
        nodes = {owned.name: self.leaf_nodes[key] for key, owned in self.reach.owned.items()}
        names = self._names()
        shared = self.roles.shared(names, self.reach.named_modules())
        return {nodes[name]: pair for name, pair in self.roles.twins(names).items() if name not in shared}

    def _wholes(self) -> list[frozenset[Node]]:
        nodes = {owned.name: self.leaf_nodes[key] for key, owned in self.reach.owned.items()}
        return [frozenset(nodes[name] for name in names) for names in self.roles.wholes(self._names())]

    def _evaluating(self) -> frozenset[Node]:
        """The parameters whose every module is in evaluation mode, if another one that is used here is not."""
        holders = {id(one): module for module, _ in self.reach.modules.values() for one in module._parameters.values()}
        modes = {self.leaf_nodes[key]: module.training for key, module in holders.items() if key in self.leaf_nodes}
        if True not in modes.values():
            return frozenset()
        return frozenset(leaf for leaf, training in modes.items() if not training)

    def _beside(self) -> frozenset[Node]:
        """What other losses of an update take gradient into."""
        trained = self.seen.trained() if self.seen is not None else frozenset()
        return frozenset(node for key, node in self.leaf_nodes.items() if key in trained)

    def _carried(self) -> list[tuple[Node, str]]:
        """Values with a history from before the loss that no argument brought."""
        passed = set(self.call.arguments())
        named = [(node, self.reach.inputs.get(id(tensor), "")) for node, tensor in self.tracer.adopted]
        return [(node, name) for node, name in named if name and name.partition(".")[0] not in passed]

    def _log(self) -> tuple[list[Entry], list[Entry]]:
        """What the function does beside its losses, before this loss is differentiated and after."""
        if self.part is None:
            return [], []
        before = self._entries()
        before.remove(self.tracer.updates.entries[-1])
        after = [] if self.seen is None else self.seen.after(self.part, self.outside)
        return before, after

    def _differentiated(self, kind: str) -> Differentiated:
        outside = [tensor for _, tensor in self.tracer.unseen_leaves]
        return Differentiated(self._entries(), kind, self.tracer.place, outside)

    def _again(self, entry: Entry) -> bool:
        return lines_of(entry) == lines_of(self.tracer.updates.entries[-1])

    def _entries(self) -> list[Entry]:
        """The log of this run so far, in order."""
        return sorted([*self.tracer.updates.entries, *writes(self.tracer)], key=lambda entry: entry.time)

    def _earlier(self, entries: Sequence[Entry]) -> Iterator[Sink]:
        """The losses that were differentiated before this one; an earlier round of itself says nothing new."""
        for one in entries:
            if one.loss is not None and not self._again(one):
                yield Sink(one.loss, "backward", one.location, one.time, function=self.call.target)

    def _later(self, entries: Sequence[Entry]) -> Iterator[Sink]:
        """The losses after this one, as far as they take gradient from values that are there already."""
        made = {place: node for node, place in self.tracer.place.items()}
        for one in entries:
            if one.loss is None or self.seen is None or self._again(one):
                continue
            taken = taken_by(one.loss, self.seen.place, self.tracer.count)
            edges = [Edge(made[place], True) for place in sorted(taken) if place in made]
            if edges:
                loss = Node("call", edges, one.location, self.tracer.tick(), detail="backward")
                self.tape.nodes.append(loss)
                yield Sink(loss, "backward", one.location, loss.time, function=self.call.target)

    def _add_leaves(self) -> None:
        for owned in list(self.reach.owned.values()):
            self.leaf_nodes[id(owned.tensor)] = self.tracer.leaf_node(owned.tensor)

    def _name_nodes(self) -> None:
        names = Names()
        for node in self.tape.nodes:
            if node.leaf is None:
                node.name = names.of(node.location)
        for node, tensor in self.tracer.adopted:
            node.name = self.reach.inputs.get(id(tensor), "") or node.name

    # -- gradients -----------------------------------------------------------------------------------------------

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        tensors = {id(one): one for one in tensors_in((self.call.args, self.call.kwargs))}
        tensors.update(self.reach.tensors)
        tensors.update((id(one), one) for one in self.reach.optimizer_state())
        objects = [*self.call.args, *self.call.kwargs.values(), *self.call.scope.values()]
        objects += [one for one, _ in self.reach.modules.values()]
        objects += [one for one, _ in self.reach.optimizers.values()]
        with ExitStack() as stack:
            stack.enter_context(untouched(tensors.values(), self.reach.generators, objects, self._writes, self.copies))
            if hasattr(torch.compiler, "set_stance"):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self.reach.made.watching())
            if self.part:
                # Gradient through a graph from before a step, as it was then: torch would refuse.
                stack.enter_context(torch.autograd.graph.allow_mutation_on_saved_tensors())
            stack.enter_context(ranks.local_gradients(one for one, _ in self.reach.modules.values()))
            lightning.attach(self.call)
            seed_everything(self.call.seed)
            yield

    def _writes(self) -> bool:
        """Whether the run took a `.data` or wrote anywhere: then versions alone do not tell what changed."""
        return any(kind is not None and (kind.inplace or kind.name == "data") for kind in self.tracer.kinds.values())

    def differentiate(self, loss: torch.Tensor, instead: Mapping[int, torch.Tensor] = _NONE_MADE) -> Gradients:
        """The gradients; `instead` are the tensors that stand for those of the first run."""
        exact, value = exact_bytes(loss), float(loss.detach())
        leaves = {id(owned.tensor): owned.tensor for owned in self.reach.owned.values()}
        leaves.update((id(tensor), tensor) for _, tensor in self.tracer.unseen_leaves if tensor.is_leaf)
        leaves.update(instead)
        for key in (*self.reach.owned, *instead):
            if leaves[key].is_leaf:
                leaves[key].grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                loss.backward(retain_graph=bool(self.tracer.adopted))  # what inputs bring along is used again
            except RuntimeError as error:
                raise CheckError(f"the loss cannot be differentiated: {_sentence(error)}") from error
        of = {}
        for key, tensor in leaves.items():
            gradient = tensor.grad if tensor.requires_grad else None
            of[key] = None if gradient is None else gradient.detach()
            if gradient is not None:
                tensor.grad = None
        return Gradients(exact, value, of)


def _invoke(call: LossCall) -> Any:
    """The frame above the user's: the walk over the stack ends here."""
    return call.function(*call.args, **call.kwargs)


def _call_user(call: LossCall) -> Any:
    try:
        return _invoke(call)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise UserCodeError(
            f"`{call.target}` raised {type(error).__name__}: {_sentence(error)}; {INPUTS}", error
        ) from error


def _sentence(error: BaseException) -> str:
    """The first sentence of a message."""
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else "no message"


def _check_number(loss: torch.Tensor) -> None:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise CheckError(
            f"the loss is {value} on these inputs, so its gradient says nothing; give others (--inputs, --seed), or "
            "find out why"
        )
