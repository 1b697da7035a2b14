"""What might update a network that nothing on the tape updates: a method that the program offers and does not call, or
something outside that was given the network. Each is an `offer` event: whoever asks for what never happens is told.
"""

from __future__ import annotations

import ast
import functools
import re
from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.state import OutOfBudget
from gradaudit.static.syntax import walk
from gradaudit.static.values import ClassValue, Function, Instance, Parameters, StateDict
from gradaudit.tape import Node

WRITES = re.compile(r"mul_|lerp|copy|assign|weights|load|update|sync|soft|polyak|ema|data|average")
UPDATES = ("copy", "soft_update")
MOST = 60
TRIED = 5_000  # expressions of one method


class Offers(Machine):
    made: list[Instance]
    exposed: list[Any]

    def expose(self, *values: Any) -> None:
        """Something that is not understood gets these: it may write the parameters in them."""
        if len(self.exposed) < 4 * MOST:
            self.exposed += [value for value in values if isinstance(value, (Instance, Parameters, StateDict))]

    def offer(self, called: set[ast.AST], entry: str) -> None:
        """Events of kind `offer` at the end of an entry, where a copy was made that nothing updated.

        entry   a class: whoever makes one can do with its networks what he likes; a function: the networks that it was
                given, and their copies, live on outside of it; a script: it is the whole program
        """
        waiting = self._waiting()
        if not waiting:
            return
        leaves = dict.fromkeys(sorted(waiting, key=lambda leaf: leaf.time) if entry == "class" else ())
        for value in self.exposed:
            leaves.update(dict.fromkeys(self.parameters_of(value)))
        if entry == "function":
            leaves.update(dict.fromkeys(_from_outside(self.events)))
        if leaves.keys() & waiting:
            self.event("offer", leaves=tuple(leaf for leaf in leaves if leaf in waiting))
        waiting -= leaves.keys()
        if waiting and (len(self.sinks) > 1 or any(sink.loops for sink in self.sinks)):
            self._try_methods(called, waiting)

    def _waiting(self) -> set[Node]:
        """The copies that are written once, at most."""
        written: dict[Node, int] = {}
        for event in self.events:
            if event.kind in UPDATES:
                for leaf in event.leaves:
                    written[leaf] = written.get(leaf, 0) + 1
        return {leaf for leaf, times in written.items() if times == 1}

    def _try_methods(self, called: set[ast.AST], waiting: set[Node]) -> None:
        """Run the methods that nobody called, to see what they would write."""
        kept = self.events, list(self.sinks), list(self.optimizers), set(self.called)
        self.events = []
        tried: list[tuple[Any, Function | None]] = []
        try:
            for method, owner, instance in self._candidates(called, waiting)[:MOST]:
                self.allow(TRIED, TRIED)
                self.call_function(method.bind(instance, owner), [], {}, entry=True)
                tried += [(event, method) for event in self.events]
                self.events = []
        except (OutOfBudget, RecursionError):
            tried = [(event, None) for event in kept[0]]  # not known: nothing is missed
        self.events, self.sinks, self.optimizers, self.called = kept
        for event, by in tried:
            if event.kind in UPDATES:
                self._offer_by(by, event)

    def _offer_by(self, method: Function | None, event: Any) -> None:
        """An offer stands where its method is defined; with no method, nobody knows of what."""
        if method is None:
            self.event("offer", leaves=event.leaves)
            return
        kept = self.file, self.line_node, self.function
        self.file, self.line_node, self.function = method.module.display, method.node, method.name
        self.event("offer", leaves=event.leaves, sources=event.sources)
        self.file, self.line_node, self.function = kept

    def _candidates(self, called: set[ast.AST], waiting: set[Node]) -> list[Any]:
        """The methods that nobody called, of the objects that have one of these parameters."""
        return [
            (method, owner, instance)
            for instance in self.made[: 4 * MOST]
            if waiting & set(self.parameters_of(instance))
            for method, owner in self._uncalled(instance, called)
        ]

    def _uncalled(self, instance: Instance, called: set[ast.AST]) -> list[tuple[Function, ClassValue | None]]:
        found: dict[str, tuple[Function, ClassValue | None]] = {}
        for base in self.mro(instance.cls) if instance.cls is not None else ():
            for statement in base.node.body if isinstance(base, ClassValue) else ():
                if not isinstance(statement, ast.FunctionDef) or statement.name in found:
                    continue
                if statement in called or not _may_write(statement) or not self._is_offered(statement.name, base):
                    continue
                method, owner = self.member(instance.cls, statement.name)  # type: ignore[arg-type]
                if isinstance(method, Function) and method.node is statement:
                    found[statement.name] = (method, owner)
        return list(found.values())

    def _is_offered(self, name: str, cls: ClassValue) -> bool:
        """A public method, or a private one that is mentioned somewhere."""
        if name.startswith("__"):
            return False
        text = self.files.text(cls.module.file) or ""
        return not name.startswith("_") or bool(re.search(rf"\.{name}\b", text))


@functools.lru_cache(maxsize=4096)
def _may_write(function: ast.FunctionDef) -> bool:
    return any(
        WRITES.search(node.attr if isinstance(node, ast.Attribute) else node.id)
        for node in walk(function)
        if isinstance(node, (ast.Attribute, ast.Name))
    )


def _from_outside(events: list[Any]) -> list[Node]:
    """The copies of networks that are not made here: of arguments."""
    return [
        leaf
        for event in events
        if event.kind in UPDATES and any(_is_given(source) for source in event.sources)
        for leaf in event.leaves
    ]


def _is_given(leaf: Node) -> bool:
    owner = leaf.leaf.owner if leaf.leaf is not None else None
    return owner is None or not owner.class_name
