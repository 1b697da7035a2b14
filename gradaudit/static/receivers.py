"""Objects that the text does not make, recognised by what is asked of them.

`self.net.train_step(loss, self.optimizer)`, `algo.policy.value(obs)`: where few of the project's classes have all that
is asked of such an object, it is one of those. An entry runs without that, and once more with what it asked in vain.
"""

from __future__ import annotations

import re
from typing import Any

from gradaudit.static.attributes import MODULE_METHODS
from gradaudit.static.machine import Machine
from gradaudit.static.values import ClassValue, Instance, Unknown

MOST_DEFINING = 12  # classes that have a method of a name: more of them say nothing
MOST_FITTING = 3  # unrelated classes that have all that is asked
MOST_ASKED = 40  # objects of one entry
ENVIRONMENT = frozenset({"step", "reset"})

Place = tuple[str, ClassValue | None]
"""What an unknown object is called, and the class that keeps it."""


class Receivers(Machine):
    in_vain: dict[Unknown, set[str]]
    """What was asked of objects that are not understood, in this entry."""
    recognised: dict[Place, ClassValue]

    def ask_in_vain(self, receiver: Any, method: str) -> None:
        known = method in MODULE_METHODS or not isinstance(receiver, Unknown) or receiver.plain
        if not known and (not receiver.call or _is_kept(receiver)):
            if receiver in self.in_vain or len(self.in_vain) < MOST_ASKED:
                self.in_vain.setdefault(receiver, set()).add(method)

    def recognise(self, unknown: Unknown) -> None:
        """Say of an unknown object what it is, if an entry before this one found it out."""
        if unknown.leaf is None and unknown.node is None:
            cls = self.recognised.get(_place(unknown))
            if cls is not None and cls.node not in self.stack:
                unknown.annotation = cls

    def fitting(self) -> dict[Place, ClassValue]:
        """The classes of the objects that were asked something in vain, where they can be told."""
        found = {}
        for unknown, methods in self.in_vain.items():
            cls = self._fits(unknown, methods)
            if cls is not None:
                found[_place(unknown)] = cls
        return found

    def _fits(self, unknown: Unknown, methods: set[str]) -> ClassValue | None:
        asked = {key for key in unknown.attrs if isinstance(key, str) and key.isidentifier()} | methods
        if asked >= ENVIRONMENT:
            return None
        defining = [self.hints.defining(method, self.main_file) for method in sorted(methods)]
        rarest = min((places for places in defining if places), key=len, default=None)
        if rarest is None or len(rarest) > MOST_DEFINING:
            return None
        classes = [cls for cls in self._with_heirs(rarest) if self._has_all(cls, asked, methods)]
        roots = [cls for cls in classes if not any(other is not cls and other in self.mro(cls) for other in classes)]
        return self._as_network(roots[0], classes) if 0 < len(roots) <= MOST_FITTING else None

    def _as_network(self, cls: ClassValue, classes: list[ClassValue]) -> ClassValue:
        """Of a base that networks have in common beside what makes them networks, the first network."""
        heirs = [heir for heir in classes if self.is_module_class(heir) and cls in self.mro(heir)]
        return heirs[0] if heirs and not self.is_module_class(cls) else cls

    def _with_heirs(self, places: list[tuple[str, str]]) -> list[ClassValue]:
        """The classes at these places and what derives from them."""
        found: list[ClassValue] = []
        waiting = list(places)
        while waiting and len(found) < 2 * MOST_DEFINING:
            cls = self._class_at(waiting.pop(0))
            if cls is not None and not any(other is cls for other in found):
                found.append(cls)
                waiting += self.hints.subclasses(cls.name, cls.module.file)
        return found

    def _class_at(self, place: tuple[str, str]) -> ClassValue | None:
        name, file = place
        module = self.files.module(file)
        if module is None or module.framework != self.current_framework:
            return None
        cls = self.module_name(module, name)
        return cls if isinstance(cls, ClassValue) and cls.module is module else None

    def _has_all(self, cls: ClassValue, asked: set[str], methods: set[str]) -> bool:
        files = {base.module.file for base in self.mro(cls) if isinstance(base, ClassValue)}
        files.update(file for _, file in self.hints.subclasses(cls.name, cls.module.file))
        texts = [self.files.peek(file) or "" for file in sorted(files)]
        for name in sorted(asked):
            how = rf"\bself\.{name}\b" if name in methods else rf"\b{name}\b"
            if self.member(cls, name)[1] is None and not any(re.search(how, text) for text in texts):
                return False
        return True


def _is_kept(value: Unknown) -> bool:
    """`self.net = make_net()`: a result that has a name of its own since it was kept."""
    return isinstance(value.parent, Instance)


def _place(unknown: Unknown) -> Place:
    parent = unknown.parent
    return unknown.name, parent.cls if isinstance(parent, Instance) else None
