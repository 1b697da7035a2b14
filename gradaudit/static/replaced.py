"""equinox: a module like another one but for some of its parts: `eqx.tree_at(lambda m: m.target, model, new)`.

Modules do not change. Outside of a loss the text goes on with the new one as it did with the old one, so it stays one
module, and what is put in its place is an update of the part; inside of one, gradient goes where the new part leads.
"""

from __future__ import annotations

import copy
from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import Const, Instance, Mapping, Sequence, Unknown
from gradaudit.tape import Node

DEPTH = 8


class Replaced(Machine):
    def tree_at(self, args: Args, keywords: Keywords) -> Any:
        """`eqx.tree_at(where, tree, replace)`, `eqx.tree_at(where, tree, replace_fn=f)`."""
        given = dict(zip(("where", "pytree", "replace", "replace_fn"), args, strict=False)) | keywords
        where, tree = given.get("where"), given.get("pytree")
        if where is None or not isinstance(tree, Instance):
            return tree if tree is not None else Unknown("tree")
        old = self.call(where, [tree], {})
        new = given.get("replace")
        if new is None or isinstance(new, Const) and new.value is None:
            function = given.get("replace_fn")
            if function is None:
                return tree
            new = self._changed(function, old)
        pairs = _pairs(old, new)
        if self.differentiated_groups:
            return _with(tree, [(before, after) for before, after in pairs if before is not after], 0)
        for before, after in pairs:
            self.replaced_entry(before, after)
            if isinstance(before, Instance) and isinstance(after, Instance):
                self._copied_part(tree, before, after)
        return tree

    differentiated_groups: list[set[Node]]
    differentiated_trees: dict[Node, None]

    def _changed(self, function: Any, old: Any) -> Any:
        if isinstance(old, Sequence) and old.rest is None:
            return Sequence([self.call(function, [part], {}) for part in old.items], None, old.kind)
        return self.call(function, [old], {})

    def _copied_part(self, tree: Instance, old: Instance, new: Instance) -> None:
        """A part is another one's copy from here on: of the same module, or of one that is trained."""
        leaves, sources = self.parameters_of(old), self.parameters_of(new)
        trained = any(one in self.differentiated_trees for one in self.trees_of(new))
        if (
            leaves
            and sources
            and set(leaves).isdisjoint(sources)
            and (trained or _with(tree, [(new, old)], 0) is not tree)
        ):
            self.event("copy", leaves=tuple(leaves), sources=tuple(sources))


def _pairs(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """What is replaced, and by what: one part, or several."""
    if isinstance(old, Sequence) and isinstance(new, Sequence) and len(old.items) == len(new.items):
        return list(zip(old.items, new.items, strict=True))
    return [(old, new)]


def _with(value: Any, pairs: list[tuple[Any, Any]], depth: int) -> Any:
    """The same with these parts in the places of those; what holds none of them is the same object."""
    for before, after in pairs:
        if value is before:
            return after
    if depth > DEPTH:
        return value
    if isinstance(value, Sequence):
        items = [_with(part, pairs, depth + 1) for part in value.items]
        if all(new is old for new, old in zip(items, value.items, strict=True)):
            return value
        made = Sequence(items, value.rest, value.kind)
        made.names = value.names
        return made
    if isinstance(value, Mapping):
        entries = {key: _with(part, pairs, depth + 1) for key, part in value.entries.items()}
        return value if all(entries[key] is part for key, part in value.entries.items()) else Mapping(entries)
    if isinstance(value, Instance):
        attrs = {key: _with(part, pairs, depth + 1) for key, part in value.attrs.items()}
        children = _with(value.children, pairs, depth + 1) if value.children is not None else None
        if children is value.children and all(attrs[key] is part for key, part in value.attrs.items()):
            return value
        made_instance = copy.copy(value)
        made_instance.attrs, made_instance.children = attrs, children
        return made_instance
    return value
