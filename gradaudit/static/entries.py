"""Where execution starts: scripts, classes with training methods, functions that differentiate, library functions."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from typing import Any

from gradaudit.static.builders import build
from gradaudit.static.collecting import collectors, given_later, returned
from gradaudit.static.files import Module
from gradaudit.static.forward import constructed, entry_methods, follow, is_distribution
from gradaudit.static.interpreter import Interpreter
from gradaudit.static.library_functions import LibraryFunctions
from gradaudit.static.loss_methods import loss_methods, losses_in
from gradaudit.static.losses import (
    applied_argument,
    called_argument,
    holds_parameters,
    is_reached,
    is_reduced,
    unapplied_before,
)
from gradaudit.static.reach import Reach
from gradaudit.static.standins import drivers
from gradaudit.static.state import QUIET, UNHEARD, OutOfBudget, Scope
from gradaudit.static.syntax import walk
from gradaudit.static.values import (
    MISSING,
    TRUE,
    ClassValue,
    Const,
    External,
    Function,
    Gradient,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Partial,
    Sequence,
    Unknown,
)
from gradaudit.tape import Event, Node, Tape

UPDATES = frozenset({"backward", "step", "clear", "copy", "soft_update"})
BEFORE = ("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start")
TURN = "optimizer_idx"
AFTER = ("on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end")
"""Hooks that the framework calls around its step: where copies follow and networks are put into evaluation mode."""
LIBRARY_SIZE = 5_000  # statements and expressions


class Entries(Reach, LibraryFunctions):
    """The entries of one file, one after the other, each a tape."""

    def __init__(self, run: Interpreter, module: Module, script: bool = True) -> None:
        super().__init__(run, module)
        self.script = script
        self.scope: Scope = run.module_scope(module)
        self.tapes: list[Tape] = []
        self.problems: list[str] = []

    def record(self) -> list[Tape]:
        run, module = self.run, self.module
        run.main_file = module.file
        run.called = set()
        run.begin_file()
        try:
            self._all()
        except OutOfBudget:  # between two entries: the file has had its share
            pass
        return self.tapes

    def _all(self) -> None:
        body, run = self.module.tree.body, self.run
        if self.script:
            self._entry("<script>", self._script, "script")
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                run.allow()
                self._class_entry(statement)
        functions = [each for each in body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
        # what differentiates comes first: the losses that it calls are then judged by that, and not by their arguments
        for statement in sorted(functions, key=lambda each: not self.reaches_sink(each)):
            if statement not in run.called:
                run.allow()
                self._function_entry(statement)
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                run.allow()
                self._module_entry(statement)

    # -- one entry ---------------------------------------------------------------------------------------------------
    def _entry(self, name: str, execute: Any, kind: str = "function", quiet: int = QUIET) -> None:
        run = self.run
        run.start(self.module.framework)
        run.allow(quiet)
        run.file, run.function = self.module.display, ""
        called = set(run.called)
        try:
            execute()
            run.reset_control()
            run.file = self.module.display
            self._leftovers()
            run.reset_control()
            run.offer(run.called - called, kind)
        except OutOfBudget:
            pass
        except RecursionError:
            self.problems.append(f"{self.module.display}: {name} is nested too deeply to be followed")
        except Exception as error:  # noqa: BLE001 - lint never fails on a file that it cannot understand
            import os

            if os.environ.get("GRADAUDIT_DEBUG"):
                raise
            self.problems.append(
                f"{self.module.display}: {name} could not be followed ({type(error).__name__}: {error})"
            )
        run.reset_control()
        if kind == "script":
            run.frozen_globals.update(run.frozen)
        run.finish_sinks()
        run.second_names()
        if run.sinks or run.events:
            self.tapes.append(run.tape(self.module.framework, name, self.module.display))
        if not run.sinks:
            run.called = called  # an example that only shows how it is called says nothing of its gradient

    def _leftovers(self) -> None:
        """Gradients and closures that were made and not called: an update function that the caller gets."""
        run = self.run
        for _ in range(3):
            waiting = [gradient for gradient in run.gradients if not gradient.called]
            for gradient in waiting:
                gradient.called = True
                run.call_gradient(gradient, run.unknown_arguments(gradient.function), {})
            closures = [made for node, made in run.uncalled.items() if self.reaches_sink(node)]
            for closure in closures:
                if closure.node not in run.called:
                    run.file = closure.module.display
                    run.call_function(closure, [], {}, entry=True)
            losses = [made for made in run.uncalled.values() if self._is_waiting_loss(made)]
            for loss in losses:
                self._differentiate(loss)
            if not waiting and not closures and not losses:
                return

    def _script(self) -> None:
        self.run.block(self.module.tree.body, self.scope)

    # -- classes -----------------------------------------------------------------------------------------------------
    def _class_entry(self, statement: ast.ClassDef) -> None:
        run, cls = self.run, self._class_of(statement)
        try:
            roots = self.roots(cls) if self.may_differentiate(cls) else []
            returned = self.returned_losses(cls)
        except (OutOfBudget, RecursionError):
            return
        if roots or returned or self._constructor_reaches_sink(cls):
            alone = functools.partial(self._alone, cls, roots, returned)
            self._entry(cls.name, alone, "class")
            known = self._recognised(cls.name)
            self._as_built(cls, roots, returned)
            self._as_recognised(known, cls.name, alone, "class")
            self._collected(cls, roots)
        elif self.module.framework == "jax":
            self._loss_methods(cls)
        losses = loss_methods(run, cls) if self.module.framework != "jax" else []
        if losses:
            called = set(run.called)
            self._entry(cls.name, lambda: self._losses(cls, losses))
            run.called = called  # what else may be judged of them is judged all the same

    def _alone(self, cls: ClassValue, roots: list[str], returned: list[str]) -> None:
        instance = self.run.instantiate(cls, [], {}, entry=True)
        if isinstance(instance, Instance):
            for name, (setter, declared) in given_later(self.methods(cls), [*roots, *returned]).items():
                value = instance.attrs.get(name)
                if isinstance(value, Const) and value.value is None:
                    method, _ = self.run.member(cls, setter)
                    scope = method.scope if isinstance(method, Function) else cls.scope
                    instance.attrs[name] = Unknown(name, instance, self.run.class_from_annotation(declared, scope))
        self._drive(cls, roots, returned, instance)

    def _losses(self, cls: ClassValue, names: list[str]) -> None:
        """Losses that somebody else differentiates: what is called to get each of them is all that is known."""
        run = self.run
        instance = run.instantiate(cls, [], {}, entry=True)
        if not isinstance(instance, Instance):
            return
        instance.network.name = instance.network.name or ""
        for name in names:
            run.allow()
            result = run.settle(self._call_member(instance, cls, name))
            run.line_node, run.file, run.function = run.member(cls, name)[0].node, self.module.display, name
            for loss in losses_in(result):
                run.backward(loss, "return")

    def _class_of(self, statement: ast.ClassDef) -> ClassValue:
        cls = self.run.module_name(self.module, statement.name)
        if isinstance(cls, ClassValue) and cls.node is statement:
            return cls
        return ClassValue(statement, self.module, self.scope)

    def _module_entry(self, statement: ast.ClassDef) -> None:
        """A module that nobody in this file trains is judged by its forward pass and what else it computes."""
        cls = self._class_of(statement)
        try:
            names = entry_methods(self.run, cls)
        except (OutOfBudget, RecursionError):
            return
        if names and not self._is_followed(cls, names[0]):
            self._entry(cls.name, lambda: self._module(cls, names))
        if self.module.framework == "jax" and self.run.is_module_class(cls):
            for function, argument in drivers(self.run, cls):
                self._entry(cls.name, functools.partial(self._stand_in, cls, function, argument))

    def _is_followed(self, cls: ClassValue, name: str) -> bool:
        """Was the method called already? One of a base's leaves something to the class's own, which then tell."""
        method, owner = self.run.member(cls, name)
        if not isinstance(method, Function):
            return False
        inherited = owner is not None and owner.node is not cls.node
        own = cls.node.body if inherited else [method.node]
        return any(part in self.run.called for part in own)

    def _module(self, cls: ClassValue, names: list[str]) -> None:
        run = self.run
        if is_distribution(run, cls):
            instance = constructed(run, cls, self._library_argument)
        else:
            instance = run.instantiate(cls, [], {}, entry=True)
        if isinstance(instance, Instance):
            self._set_mode(instance, cls)
            for name in names:
                run.allow(UNHEARD)
                parts = follow(run, instance, name, self._library_argument)
                self.library_sinks(parts, f"{cls.name}.{name}", cls.name, cls.node)

    def _set_mode(self, instance: Instance, cls: ClassValue) -> None:
        """`train()` of the class's own: which parts stay in evaluation mode while the rest learns."""
        method, owner = self.run.member(cls, "train")
        if isinstance(method, Function):
            self.run.file = method.module.display
            self.run.call_function(method.bind(instance, owner), [TRUE], {})

    def _stand_in(self, cls: ClassValue, function: Function, argument: str) -> None:
        """The class as the argument of a training function that asks for what it has."""
        run = self.run
        network = run.instantiate(cls, [], {}, entry=True)
        run.file = function.module.display
        run.call_function(function, [], {argument: network}, entry=True)

    def _as_built(self, cls: ClassValue, roots: list[str], returned: list[str]) -> None:
        """Where a class does not tell who steps and with what: once more, with the object that the project makes."""
        alone = self._last(cls.name)
        known = known_optimizers(alone) if alone is not None else 0
        if alone is not None and alone.optimizers and known == len(alone.optimizers):
            return
        execute = functools.partial(self._built, cls, roots, returned)
        self._again(cls.name, execute, "class", lambda made, _: known_optimizers(made) > known)

    def _built(self, cls: ClassValue, roots: list[str], returned: list[str]) -> None:
        self._drive(cls, roots, returned, build(self.run, cls))

    def _last(self, name: str) -> Tape | None:
        """The tape of this entry, if it has just left one."""
        return self.tapes[-1] if self.tapes and self.tapes[-1].entry == name else None

    def _again(self, name: str, execute: Any, kind: str, better: Callable[[Tape, Tape | None], bool]) -> None:
        """The entry once more: its tape takes the place of the one before it, if there is one, where it is better."""
        before, count = self._last(name), len(self.tapes)
        self._entry(name, execute, kind)
        made = self.tapes.pop() if len(self.tapes) > count else None
        if made is not None and better(made, before):
            self.tapes[count - (before is not None) :] = [made]

    def _recognised(self, name: str) -> dict[Any, ClassValue]:
        """What the objects are that were asked in vain, where the entry may have lost a loss or a step with them."""
        run = self.run
        tape = self._last(name)
        asked = {method for methods in run.in_vain.values() for method in methods}
        if not asked:
            return {}
        lost = tape is None or not tape.sinks or known_optimizers(tape) < len(tape.optimizers)
        return run.fitting() if lost or asked & self.helpers() else {}

    def _as_recognised(self, known: dict[Any, ClassValue], name: str, execute: Any, kind: str = "function") -> None:
        """Once more, where objects were asked for what only a few classes of the project have."""
        run = self.run
        if not known:
            return
        run.recognised = known
        try:
            self._again(name, execute, kind, _tells_more)
        finally:
            run.recognised = {}

    def _collected(self, cls: ClassValue, roots: list[str]) -> None:
        """Once more, after what gathers experience for the update, where nobody in sight calls the two in turn."""
        if self.module.framework != "torch" or not roots:
            return
        methods = self.methods(cls)
        first = collectors(methods, roots, self.run.callers, self.module.file)
        if first:
            made = {name: returned(methods.nodes[name][0]) for name in first}
            self._entry(cls.name, lambda: self._collect(cls, made, roots), "class")

    def _collect(self, cls: ClassValue, made: dict[str, tuple[str, ...]], roots: list[str]) -> None:
        run = self.run
        instance = run.instantiate(cls, [], {}, entry=True)
        if not isinstance(instance, Instance):
            return
        instance.network.name = instance.network.name or ""
        handed: dict[str, Any] = {}
        for name, parts in made.items():
            run.allow()
            result = self._call_member(instance, cls, name)
            values = result.items if isinstance(result, Sequence) and len(parts) > 1 else [result]
            handed.update((part, value) for part, value in zip(parts, values, strict=False) if part)
        for name in roots:
            run.allow()
            self._call_member(instance, cls, name, handed)

    def _drive(self, cls: ClassValue, roots: list[str], returned: list[str], instance: Any) -> None:
        """Call the roots of an object, twice: what one stored, another may read the next time.

        Once, where the training loop is the object's own: what an iteration leaves to the next is then on the tape.
        """
        run = self.run
        if not isinstance(instance, Instance):
            return
        instance.network.name = instance.network.name or ""
        made = len(run.events)
        self._round(instance, cls, roots, returned)
        first = len(run.sinks)
        happened = run.events[made:]
        toggled = any(event.kind == "freeze" for event in happened)
        if len(roots) == 1 and not returned and not toggled and _in_one_loop(happened):
            return
        self._round(instance, cls, roots, returned)
        if toggled and len(run.sinks) >= 2 * first:
            del run.sinks[:first]  # which parameters are frozen is settled when everything has run once

    def _round(self, instance: Instance, cls: ClassValue, roots: list[str], returned: list[str]) -> None:
        run = self.run
        for name in roots:
            run.allow()
            self._call_member(instance, cls, name)
        for name in returned:
            run.allow()
            self._training_step(instance, cls, name)

    def _loss_methods(self, cls: ClassValue) -> None:
        """A class that differentiates nothing itself: its methods may still be somebody's losses."""
        for name in [] if self.run.is_module_class(cls) else cls.members or ():
            method = self.run.member(cls, name)[0]
            if not isinstance(method, Function) or not _computes(method.node):
                continue
            if self._is_waiting_loss(method):
                self._entry(f"{cls.name}.{name}", functools.partial(self._loss_method, cls, method))
            elif name in loss_methods(self.run, cls):
                judge = functools.partial(self._judged_by_arguments, cls, method)
                self._entry(f"{cls.name}.{name}", judge, quiet=UNHEARD)

    def _bound(self, cls: ClassValue, method: Function) -> Function:
        return method if _is_static(method) else method.bind(self.run.instantiate(cls, [], {}, entry=True), cls)

    def _loss_method(self, cls: ClassValue, method: Function) -> None:
        self._differentiate(self._bound(cls, method))

    def _judged_by_arguments(self, cls: ClassValue, method: Function) -> None:
        self.library_function(self._bound(cls, method))

    def _constructor_reaches_sink(self, cls: ClassValue) -> bool:
        """A graph that is built once (TensorFlow 1), an update function that is made and kept (`jax.jit(update)`)."""
        constructor, _ = self.run.member(cls, "__init__")
        return isinstance(constructor, Function) and self.reaches_sink(constructor.node)

    def _call_member(self, instance: Instance, cls: ClassValue, name: str, values: dict[str, Any] | None = None) -> Any:
        """Calls a method; `values` are for those of its arguments that have their names."""
        method, owner = self.run.member(cls, name)
        if isinstance(method, Function):
            bound = method if _is_static(method) else method.bind(instance, owner)
            self.run.file = method.module.display
            names = {argument.arg for argument in method.node.args.args}
            given = {key: value for key, value in (values or {}).items() if key in names}
            return self.run.call_function(bound, [], given, entry=True)
        if isinstance(method, (Gradient, Partial)):
            return None
        return None

    def _training_step(self, instance: Instance, cls: ClassValue, name: str) -> None:
        """A framework differentiates what this returns and steps the optimizers that were configured."""
        if name == "compute_loss":
            self._trained_by_trainer(instance, cls, name)
            return
        self._hooks(instance, cls, BEFORE)
        turns = self._turns(instance, cls) if name == "training_step" else []
        for number, optimizer in enumerate(turns):
            self._turn(instance, cls, number, optimizer)
        if not turns:
            self._only_turn(instance, cls, name)
        self._hooks(instance, cls, AFTER)

    def _only_turn(self, instance: Instance, cls: ClassValue, name: str) -> None:
        run = self.run
        loss = _returned_loss(self._call_member(instance, cls, name))
        if isinstance(loss, Node):
            optimizers = run.lightning_optimizers(instance) if name == "training_step" else None
            run.backward(loss, "return")
            for part in optimizers.items if isinstance(optimizers, Sequence) else [optimizers]:
                if part is not None and hasattr(part, "optimizer"):
                    self._stepped(part)

    def _turns(self, instance: Instance, cls: ClassValue) -> list[Any]:
        """The optimizers that Lightning (before 2.0) calls `training_step(batch, batch_idx, optimizer_idx)` for."""
        method = self.run.member(cls, "training_step")[0]
        if not isinstance(method, Function) or TURN not in {argument.arg for argument in method.node.args.args}:
            return []
        optimizers = self.run.lightning_optimizers(instance)
        parts = optimizers.items if isinstance(optimizers, Sequence) else ()
        return [part.entries.get("optimizer") if isinstance(part, Mapping) else part for part in parts]

    def _turn(self, instance: Instance, cls: ClassValue, number: int, optimizer: Any) -> None:
        """The parameters of all other optimizers require no gradient meanwhile (`toggle_optimizer`)."""
        run = self.run
        run.turn = number
        loss = _returned_loss(self._call_member(instance, cls, "training_step", {TURN: Const(number)}))
        run.turn = None
        if isinstance(loss, Node) and isinstance(optimizer, OptimizerValue):
            run.backward(loss, "return", Parameters(tuple(optimizer.optimizer.leaves)))
            self._stepped(optimizer)

    def _stepped(self, optimizer: Any) -> None:
        self.run.call_method(optimizer, "step", [], {})
        self.run.call_method(optimizer, "zero_grad", [], {})

    def _hooks(self, instance: Instance, cls: ClassValue, names: tuple[str, ...]) -> None:
        for name in names:
            self._call_member(instance, cls, name)

    def _trained_by_trainer(self, instance: Instance, cls: ClassValue, name: str) -> None:
        """`compute_loss(self, model, inputs)` of a trainer: the model is what the framework steps, and nothing else."""
        run = self.run
        method, owner = run.member(cls, name)
        if not isinstance(method, Function):
            return
        model = Unknown("model", annotation=External("torch.nn.Module"))
        run.file = method.module.display
        optimizer = run.make_optimizer(model, "optimizer")
        spec = method.node.args
        names = [parameter.arg for parameter in (*spec.posonlyargs, *spec.args)][1:]
        result = run.call_function(method.bind(instance, owner), [], {names[0]: model} if names else {}, entry=True)
        if isinstance(result, Sequence) and result.items:
            result = result.items[0]
        if isinstance(result, Node):
            run.backward(result, "return")
            self._stepped(optimizer)

    # -- functions ---------------------------------------------------------------------------------------------------
    def _function_entry(self, statement: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        value = self.run.module_name(self.module, statement.name)
        while isinstance(value, Partial):
            value = value.function
        if isinstance(value, Gradient):
            gradient = value
            self._entry(
                statement.name,
                lambda: self.run.call_gradient(gradient, self.run.unknown_arguments(gradient.function), {}),
            )
            return
        if not isinstance(value, Function) or value.node is not statement:
            value = Function(statement, self.module, self.scope)
        function = value
        if self.reaches_sink(statement):
            execute = functools.partial(self.run.call_function, function, [], {}, entry=True)
            self._entry(statement.name, execute)
            self._as_recognised(self._recognised(statement.name), statement.name, execute)
        elif not statement.name.startswith("__") and _computes(statement):
            judge = self._differentiate if self._is_waiting_loss(function) else self.library_function
            self._entry(statement.name, lambda: judge(function), quiet=UNHEARD)

    def _is_waiting_loss(self, function: Function) -> bool:
        if self.module.framework != "jax" or function.node in self.run.called:
            return False
        return self._differentiated_argument(function) is not None

    def _differentiated_argument(self, function: Function) -> int | None:
        """Which argument of a loss holds the parameters."""
        index = applied_argument(function.node)
        if index is None and holds_parameters(function.module.tree):
            index = called_argument(function.node)
        return index

    def _differentiate(self, function: Function) -> None:
        """A loss that nobody differentiates in sight, by the parameters that it applies its network with."""
        run = self.run
        index = self._differentiated_argument(function)
        bound = int(function.self_value is not None and index is not None)
        index = index - bound if index is not None else None
        run.file = function.module.display
        before = len(run.sinks), len(run.events)
        self._differentiate_by(function, index)
        if index and not any(map(is_reached, run.sinks[before[0] :])):
            made = run.sinks[before[0] :], run.events[before[1] :]
            for other in unapplied_before(function.node, index + bound):
                if other < bound:
                    continue
                del run.sinks[before[0] :], run.events[before[1] :]
                self._differentiate_by(function, other - bound)
                if any(map(is_reached, run.sinks[before[0] :])):
                    return  # `alpha * stop(gap of the policy)`: the policy's parameters are only what it looks at
            run.sinks[before[0] :], run.events[before[1] :] = made

    def _differentiate_by(self, function: Function, index: int | None) -> None:
        run = self.run
        before = len(run.sinks), len(run.events)
        run.call_gradient(Gradient(function, (index,), False, True), run.unknown_arguments(function), {})
        made = run.sinks[before[0] :]
        if any(not is_reduced(sink.loss) for sink in made):
            del run.sinks[before[0] :], run.events[before[1] :]


def _tells_more(tape: Tape, other: Tape | None) -> bool:
    if other is None:
        return bool(tape.sinks)
    return len(tape.sinks) >= len(other.sinks) and known_optimizers(tape) >= known_optimizers(other)


def _returned_loss(result: Any) -> Any:
    """What a training step returns: the loss, a dict that has it, or a tuple that begins with it."""
    if isinstance(result, Sequence) and result.items:
        result = result.items[0]
    return result.entries.get("loss", MISSING) if isinstance(result, Mapping) else result


def known_optimizers(tape: Tape) -> int:
    """How many of a tape's optimizers are known to hold something."""
    return sum(optimizer.complete and bool(optimizer.leaves) for optimizer in tape.optimizers)


def _computes(statement: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> bool:
    """Has arguments and arithmetic or calls: worth being judged as a library function."""
    arguments = statement.args
    if not (arguments.args or arguments.posonlyargs or arguments.kwonlyargs):
        return False
    size = 0
    works = False
    for node in walk(statement):
        size += 1
        works = works or isinstance(node, ast.BinOp)
        if size > LIBRARY_SIZE:
            return False
    return works


def _in_one_loop(events: list[Event]) -> bool:
    """Whether every update of parameters is in one and the same outermost loop."""
    updates = [event for event in events if event.kind in UPDATES]
    return bool(updates) and len({event.loops[:1] for event in updates}) == 1 and bool(updates[0].loops)


def _is_static(function: Function) -> bool:
    return any(
        getattr(decorator, "id", "") == "staticmethod" for decorator in getattr(function.node, "decorator_list", ())
    )
