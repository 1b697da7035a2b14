"""equinox: a module like another one but for some of its parts: `eqx.tree_at(lambda m: m.target, model, new)`.

Modules do not change. Outside of a loss the text goes on with the new one as it did with the old one, so it stays one
module, and what is put in its place is an update of the part; inside of one, gradient goes where the new part leads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import NONE, Const, Instance, Mapping, Sequence, Transformed, Unknown
from gradaudit.tape import Node

DEPTH = 8


class Replaced(Machine):
    def tree_at(self, args: Args, keywords: Keywords) -> Any:
        """`eqx.tree_at(where, tree, replace)`, `eqx.tree_at(where, tree, replace_fn=f)`."""
        given = dict(zip(("where", "pytree", "replace", "replace_fn"), args, strict=False)) | keywords
        where, tree = given.get("where"), self.known_object(given.get("pytree"))
        if isinstance(tree, Transformed) and tree.how == "mask":
            return self._masked_at(tree, where, given.get("replace"), given.get("replace_fn"))
        if where is None or not isinstance(tree, Instance):
            return Unknown("tree") if tree is None or self.differentiated_groups else tree
        old = self.call(where, [tree], {})
        new = given.get("replace")
        if _is_left_out(new):
            function = given.get("replace_fn")
            if function is None:
                return tree
            new = self._changed(function, old)
        old, new = self._known_parts(old), self._known_parts(new)
        pairs = _pairs(old, new)
        if self.differentiated_groups:
            return _with(tree, [(before, after) for before, after in pairs if before is not after], 0)
        self.renews({2: new, "replace": new})
        for before, after in pairs:
            self.replaced_entry(before, after)
            if isinstance(before, Instance) and isinstance(after, Instance):
                self._copied_part(tree, before, after)
        return tree

    # -- which parts are trained -------------------------------------------------------------------------------------
    def trainable_part(self, model: Any, spec: Any) -> Any:
        """The half of a module that a tree of booleans takes: the module, of which the other parts are frozen."""
        known = isinstance(spec, Transformed) and spec.how == "mask" and spec.function is model
        chosen = spec.extra[1] if known else ()
        if not known or any(_with(model, [(part, NONE)], 0) is model for part, _ in chosen):
            return Transformed(model, "part")
        return self._masked(model, spec.extra[0], chosen, 0)

    def _masked_at(self, mask: Transformed, where: Any, new: Any, function: Any) -> Any:
        """`eqx.tree_at(lambda m: m.head, mask, True)`: these parts, or not these."""
        base, chosen = mask.extra
        old = self._known_parts(self.call(where, [mask.function], {})) if where is not None else NONE
        if function is not None and _is_left_out(new):
            new = self._changed(function, old)
        pairs = _pairs(old, new)
        taken = [(_layer_of(mask.function, part, 0) or part, _takes(one)) for part, one in pairs]
        if not pairs or any(takes is None for _, takes in taken):
            return Unknown("mask")
        parts = [part for part, _ in pairs]
        whole = [part for part, _ in taken]  # of a layer one of whose arrays is left out, the other one learns
        kept = [(part, takes) for part, takes in taken if takes or part in parts or whole.count(part) > 1]
        return Transformed(mask.function, "mask", (base, (*chosen, *kept)))

    def _masked(self, value: Any, taken: bool, chosen: Any, depth: int) -> Any:
        """A module, of which what is not taken is frozen; of parts in parts, the last that was chosen tells."""
        taken = next((takes for part, takes in reversed(chosen) if part is value), taken)
        inside = [(part, takes) for part, takes in chosen if part is not value and depth < DEPTH]
        inside = [one for one in inside if _with(value, [(one[0], NONE)], 0) is not value]
        if not inside:
            return value if taken else self._frozen_part(value)
        return _rebuilt(value, lambda part: self._masked(part, taken, inside, depth + 1))

    def _frozen_part(self, value: Any) -> Any:
        if isinstance(value, Instance):
            made = self.independent(value)
            for leaf in self.parameters_of(made):
                self.put(self.frozen, leaf, True)
            return made
        if isinstance(value, (Sequence, Mapping)):
            return _rebuilt(value, self._frozen_part)
        return self.stop_value(value)

    frozen: dict[Any, Any]
    differentiated_groups: list[set[Node]]
    differentiated_trees: dict[Node, None]

    def known_object(self, value: Any) -> Any:
        """The object that an argument is, where its annotation says of which class."""
        if isinstance(value, Unknown) and value.annotation is not None and value.instance is None:
            self.materialise(value)
        return value.instance if isinstance(value, Unknown) and value.instance is not None else value

    def _known_parts(self, value: Any) -> Any:
        if isinstance(value, Sequence) and value.rest is None:
            return Sequence([self.known_object(part) for part in value.items], None, value.kind)
        return self.known_object(value)

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


def _is_left_out(argument: Any) -> bool:
    return argument is None or isinstance(argument, Const) and argument.value is None


def _pairs(old: Any, new: Any) -> list[tuple[Any, Any]]:
    """What is replaced, and by what: one part, or several."""
    if isinstance(old, Sequence) and isinstance(new, Sequence) and len(old.items) == len(new.items):
        return list(zip(old.items, new.items, strict=True))
    return [(old, new)]


def _layer_of(value: Any, part: Any, depth: int) -> Instance | None:
    """The layer whose own array a part is: `m.head.weight`."""
    owner = part.leaf.owner if isinstance(part, Node) and part.leaf is not None else None
    if owner is None or depth > DEPTH:
        return None
    if isinstance(value, Instance) and value.row is not None and value.network is owner:
        return value
    inside: list[Any] = []
    if isinstance(value, Instance):
        inside = [*value.attrs.values(), value.children]
    elif isinstance(value, (Sequence, Mapping)):
        inside = list(value.items if isinstance(value, Sequence) else value.entries.values())
    return next((found for one in inside if (found := _layer_of(one, part, depth + 1)) is not None), None)


def _takes(new: Any) -> bool | None:
    if isinstance(new, Const) and isinstance(new.value, bool):
        return new.value
    return new.extra[0] if isinstance(new, Transformed) and new.how == "mask" and not new.extra[1] else None


def _with(value: Any, pairs: list[tuple[Any, Any]], depth: int) -> Any:
    """The same with these parts in the places of those; what holds none of them is the same object."""
    for before, after in pairs:
        if value is before:
            return after
    return value if depth > DEPTH else _rebuilt(value, lambda part: _with(part, pairs, depth + 1))


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container or module of changed parts; the same object where none of them is another one."""
    if isinstance(value, Sequence):
        items = [change(part) for part in value.items]
        if all(new is old for new, old in zip(items, value.items, strict=True)):
            return value
        made = Sequence(items, value.rest, value.kind)
        made.names = value.names
        return made
    if isinstance(value, Mapping):
        entries = {key: change(part) for key, part in value.entries.items()}
        return value if all(entries[key] is part for key, part in value.entries.items()) else Mapping(entries)
    if isinstance(value, Instance):
        attrs = {key: change(part) for key, part in value.attrs.items()}
        children = change(value.children) if value.children is not None else None
        if children is value.children and all(attrs[key] is part for key, part in value.attrs.items()):
            return value
        made_instance = copy.copy(value)
        made_instance.attrs, made_instance.children = attrs, children
        return made_instance
    return value
