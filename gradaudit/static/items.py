"""Indexing and iteration, of containers and of tensors."""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.values import (
    MISSING,
    NOWHERE,
    Bound,
    ClassValue,
    Const,
    Elements,
    External,
    Function,
    Instance,
    Mapping,
    Parameters,
    Sequence,
    StateDict,
    Union,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Edge, Node

ONE_BY_ONE = 6  # items of a known sequence are gone through one by one up to this many


NAMED_ONE_BY_ONE = 24


def parameter_name(leaf: Node, network: str) -> str:
    """What the network's `named_parameters` calls it: copies have their originals' names."""
    path = leaf.leaf.path if leaf.leaf is not None else leaf.name
    return "weight" if path == network else path.removeprefix(f"{network}.")


def _stopped_argument(node: Node) -> Node | None:
    """The argument that is a struct, of which `stop_gradient` stopped everything at once."""
    source = node.inputs[0].source if node.op == "stop" and node.inputs else None
    return source if source is not None and source.leaf is not None and source.leaf.kind == "arg" else None


def _is_node(value: Any) -> bool:
    return isinstance(value, Node)


def _is_place(index: Any) -> bool:
    """An index that is one entry, the same one as long as it is the same object (or number)."""
    return isinstance(index, Unknown) and index.plain or isinstance(index, Const) and type(index.value) is int


def _is_same_place(one: Any, other: Any) -> bool:
    return one is other or isinstance(one, Const) and isinstance(other, Const) and one.value == other.value


def _is_head(part: slice, known: int) -> bool:
    """Does the slice take none but the first items, which are known one by one?"""
    return isinstance(part.stop, int) and 0 <= part.stop <= known and (part.start is None or part.start >= 0)


class Items(Machine):
    def get_item(self, value: Any, index: Any, text: str = "") -> Any:
        if isinstance(value, Node):
            return self._of_tensor_item(value, index, text)
        if isinstance(value, Sequence):
            return self._of_sequence(value, index)
        if isinstance(value, Mapping):
            return self._of_mapping(value, index)
        if isinstance(value, Unknown):
            return self._of_unknown_item(value, index)
        if isinstance(value, Instance):
            return self._of_instance_item(value, index)
        if isinstance(value, Union):
            joined = self.join([(self.get_item(part, index, text), ALWAYS) for part in value.alternatives])
            return Unknown("item") if joined is MISSING else joined
        if isinstance(value, StateDict):  # any of them stands for all
            return value.entry
        if isinstance(value, Parameters):
            return value
        if isinstance(value, (External, ClassValue)):  # a generic class with its parameters
            return value
        if isinstance(value, Const) and isinstance(index, Const):
            try:
                return Const(value.value[index.value])  # type: ignore[index]
            except Exception:  # noqa: BLE001 - any failure of the user's own indexing: not known
                return Unknown("item")
        return Unknown("item")

    def _of_tensor_item(self, node: Node, index: Any, text: str) -> Any:
        storage = self.aliases.get(node, node)
        node = self.current(node)
        if (
            node.leaf is not None
            and node.leaf.kind == "arg"
            and isinstance(index, Const)
            and isinstance(index.value, str)
        ):
            return self.part_of_leaf(node, index.value)
        stopped = _stopped_argument(node)
        if stopped is not None and isinstance(index, Const) and isinstance(index.value, str):
            return self.stop(self.part_of_leaf(stopped, index.value), node.detail)
        edges = [Edge(node)]
        edges += [self.index_edge(part) for part in self.nodes_of(index)[:4] if part is not node]
        detail = f"[{index.value!r}]" if isinstance(index, Const) else text or "[?]"
        name = index.value if isinstance(index, Const) and isinstance(index.value, str) else ""
        made = self.node("getitem", edges, detail=detail, name=name)
        self.bases[made] = self.bases.get(storage, self.bases.get(node, storage))
        return made

    def _of_sequence(self, value: Sequence, index: Any) -> Any:
        if isinstance(index, Const):
            if isinstance(index.value, int) and not isinstance(index.value, bool):
                if -len(value.items) <= index.value < len(value.items) and (value.rest is None or index.value >= 0):
                    return value.items[index.value]
            elif isinstance(index.value, slice) and (value.rest is None or _is_head(index.value, len(value.items))):
                return Sequence(value.items[index.value], None, value.kind)
        if isinstance(index, Unknown) and index.name == "slice" or isinstance(index, Const):
            if isinstance(index, Unknown) or isinstance(index.value, slice):
                return value
        draw = self.draw_behind(index)
        if draw is None and _is_place(index):
            if _is_same_place(value.cell["at"], index):
                return self.fetch(value.cell, "last")
            if not value.items and isinstance(value.rest, Node):
                return self.one_of_any(self.fetch(value.cell, "rest"), index)
        found = self.element(value)
        return self.one_of_any(found, index) if draw is None else self.drawn(found, draw)

    def one_of_any(self, any_of_them: Any, index: Any) -> Any:
        """What stands for all items, asked for by a constant: another one is another value."""
        if not isinstance(index, Const):
            return any_of_them
        if isinstance(any_of_them, Sequence):
            items = [self.one_of_any(part, index) for part in any_of_them.items]
            return Sequence(items, self.one_of_any(any_of_them.rest, index), any_of_them.kind)
        if isinstance(any_of_them, Union) and any(isinstance(part, Node) for part in any_of_them.alternatives):
            parts = tuple(self.one_of_any(part, index) for part in any_of_them.alternatives)
            return Union(parts, any_of_them.guards)
        if not isinstance(any_of_them, Node):
            return any_of_them
        return self.node("getitem", [Edge(any_of_them)], detail=f"[{index.value!r}]")

    def _of_mapping(self, value: Mapping, index: Any) -> Any:
        if isinstance(index, Const):
            try:
                found = self.fetch(value.entries, index.value)
            except TypeError:
                found = MISSING
            if found is not MISSING:
                return found
            rest = value.rest
            if isinstance(rest, Unknown) and isinstance(index.value, str):
                return self.get_attribute(rest, index.value)
            if rest is not None:
                return self.one_of_any(rest, index)
            return Unknown(str(index.value))
        if value.batch or isinstance(index, Node) and value.entries and all(map(_is_node, value.entries.values())):
            return Mapping(dict(value.entries), batch=True)  # no dictionary is asked for an array
        found = [value.entries[key] for key in value.known()]
        if not self.is_blank(value.entries, MISSING):
            found.append(self.fetch(value.entries, MISSING))
        joined = self.join([(part, ALWAYS) for part in found])
        return Unknown("item") if joined is MISSING else joined

    def is_bag(self, value: Unknown) -> bool:
        """Were tensors stored in it under names? Then its rows have them too."""
        return any(isinstance(v, Node) and isinstance(k, str) and k[:1] != "[" for k, v in value.attrs.items())

    def _of_unknown_item(self, value: Unknown, index: Any) -> Any:
        if value.annotation is not None and value.instance is None:
            self.materialise(value)
        if value.instance is not None:
            return self.get_item(value.instance, index)
        if isinstance(value.annotation, Elements) and not isinstance(index, Const):
            index = Const(0)  # any of them
        text_key = isinstance(index, Const) and isinstance(index.value, str)
        if not text_key and self.is_bag(value):
            return value  # some rows of a batch, with what was stored in it
        if value.node is not None and value.node in self.versions and not text_key:
            return self._of_tensor_item(value.node, index, "")  # it was written to by index: a buffer
        key: Any = "[]"
        name = value.name
        if isinstance(index, Const) and isinstance(index.value, (str, int)):
            key = index.value if isinstance(index.value, str) else f"[{index.value}]"
            name = key if isinstance(index.value, str) else value.name
        elif isinstance(index, Const) and isinstance(index.value, slice) and self.is_blank(value.attrs, key):
            key = f"[{index.value}]"  # `x[:10]` and `x[10:]` are two
        found = self.fetch(value.attrs, key)
        if found is MISSING:
            found = Unknown(name, value)
            found.plain = value.plain
            if isinstance(value.annotation, Elements):
                found.annotation = value.annotation.cls
            found.marks = value.marks if not isinstance(index, Const) or isinstance(index.value, int) else frozenset()
            value.attrs[key] = found
        return found

    def _of_instance_item(self, value: Instance, index: Any) -> Any:
        if value.children is not None:
            return self.get_item(value.children, index)
        if value.cls is None:
            return Unknown("item")
        if self.is_record(value.cls):
            if isinstance(index, Const) and isinstance(index.value, str):
                return self.get_attribute(value, index.value)
            return value
        method, owner = self.member(value.cls, "__getitem__")
        if isinstance(method, Function):
            return self.call_function(method.bind(value, owner), [index], {})
        if isinstance(index, Const):
            if isinstance(index.value, str):
                return self.get_attribute(value, index.value)
            if isinstance(index.value, int) and not self.is_module(value) and value.attrs:
                parts = list(value.attrs.values())
                if -len(parts) <= index.value < len(parts):
                    return parts[index.value]
        found = value.attrs.get("[]")
        if found is None:
            found = value.attrs["[]"] = Unknown("item", value)
        return found

    # -- writing -----------------------------------------------------------------------------------------------------
    def set_item(self, value: Any, index: Any, new: Any, text: str = "") -> None:
        if isinstance(value, Node):
            leaves = self.storage_of(value)
            if isinstance(new, Node) and leaves:
                self.entry_write(leaves, new)
                self.statistic_write(leaves, new)
            if not leaves or self.grad_on:  # without gradient a parameter some rows of which are written stays one
                self.write_in_place(value, "store", self.nodes_of(new))
        elif isinstance(value, Mapping):
            if isinstance(index, Const) and not isinstance(index.value, slice):
                if isinstance(index.value, str):
                    self.adopt(value, index.value, new)
                if index.value in value.entries:
                    self.took_place(value.entries[index.value], new)
                    if self.current_framework == "jax":
                        self.replaced_entry(value.entries[index.value], new)
                self.put(value.entries, index.value, new)
            else:
                old = value.rest
                self.put(value.entries, MISSING, new if old is None else self.join([(old, ALWAYS), (new, ALWAYS)]))
        elif isinstance(value, Sequence):
            self._set_in_sequence(value, index, new)
        elif isinstance(value, Unknown):
            self._set_in_unknown(value, index, new)
        elif isinstance(value, Union):
            for part in value.alternatives:
                self.set_item(part, index, new)
        elif isinstance(value, Instance):
            self._set_in_instance(value, index, new)
        elif isinstance(value, StateDict):
            self.put(value.cell, "written", new)

    def _set_in_sequence(self, value: Sequence, index: Any, new: Any) -> None:
        items = value.items
        if isinstance(index, Const) and isinstance(index.value, int) and -len(items) <= index.value < len(items):
            changed = list(items)
            changed[index.value] = new
            self.put(value.cell, "items", tuple(changed))
            return
        if isinstance(new, Sequence) and isinstance(index, (Const, Unknown)) and getattr(index, "name", "") == "slice":
            new = self.element(new)
        others = value.cell["others"] if _is_same_place(value.cell["at"], index) else value.rest
        self.put(value.cell, "rest", new if others is None else self.join([(others, ALWAYS), (new, ALWAYS)]))
        if _is_place(index):
            self.put(value.cell, "others", others)
            self.put(value.cell, "last", new)
        self.put(value.cell, "at", index if _is_place(index) else NOWHERE)

    def _set_in_unknown(self, value: Unknown, index: Any, new: Any) -> None:
        if value.instance is not None:
            self.set_item(value.instance, index, new)
        elif isinstance(index, Const) and isinstance(index.value, str):
            self.put(value.attrs, index.value, new)
        elif self.nodes_of(new):
            self.write_in_place(self.input_node(value), "store", self.nodes_of(new))
            old = value.attrs.get("[]")
            if old is not None and isinstance(new, Node):
                self.put(value.attrs, "[]", self.join([(old, ALWAYS), (new, ALWAYS)]))

    def _set_in_instance(self, value: Instance, index: Any, new: Any) -> None:
        if value.children is not None:
            self.set_item(value.children, index, new)
        elif value.cls is not None:
            if self.is_record(value.cls):
                if isinstance(index, Const) and isinstance(index.value, str):
                    self.put(value.attrs, index.value, new)
                return
            method, owner = self.member(value.cls, "__setitem__")
            if isinstance(method, Function):
                self.call_function(method.bind(value, owner), [index, new], {})
            elif isinstance(index, Const) and isinstance(index.value, str):
                self.put(value.attrs, index.value, new)

    # -- iteration ---------------------------------------------------------------------------------------------------
    def iterate(self, value: Any) -> tuple[list[Any], Any]:
        """The items that are known one by one, and one value for any others (None: there are none)."""
        if isinstance(value, Sequence):
            if len(value.items) <= ONE_BY_ONE:
                return list(value.items), value.rest
            return [], self.element(value)
        if isinstance(value, Mapping):
            return [Const(key) for key in list(value.known())[:ONE_BY_ONE]], plain(
                "key"
            ) if value.rest is not None else None
        if isinstance(value, Instance) and value.children is not None:
            return self.iterate(value.children)
        if isinstance(value, Parameters) and value.named is not None and 0 < len(value.leaves) <= NAMED_ONE_BY_ONE:
            leaves = [(parameter_name(leaf, value.named), leaf) for leaf in value.leaves]
            return [Sequence((Const(name), Parameters((leaf,)))) for name, leaf in leaves], None
        if isinstance(value, Unknown) and value.instance is not None:
            return self.iterate(value.instance)
        return [], self.element(value)

    def element(self, value: Any) -> Any:
        """One value for any element."""
        if isinstance(value, Sequence):
            parts: list[tuple[Any, Any]] = [(part, ALWAYS) for part in value.items]
            if value.rest is not None:
                parts.append((value.rest, ALWAYS))
            joined = self.join(parts)
            return Unknown("element") if joined is MISSING else joined
        if isinstance(value, Node):
            return self._of_tensor_item(value, plain("index"), "[i]")
        if isinstance(value, Parameters):
            whole = Parameters(value.leaves, value.complete, whole=value.whole)
            return value if value.named is None else Sequence((Unknown("name"), whole))
        if isinstance(value, StateDict):
            return value
        if isinstance(value, Mapping):
            return plain("key")
        if isinstance(value, Instance):
            return self._element_of_instance(value)
        if isinstance(value, Unknown):
            return self._of_unknown_item(value, plain("index"))
        if isinstance(value, Union):
            networks = [part for part in value.alternatives if isinstance(part, Parameters)]
            if len(networks) == len(value.alternatives):  # of one network or another: whichever it is, it is meant
                return self.element(Parameters(tuple(leaf for part in networks for leaf in part.leaves)))
            return self.element(value.alternatives[0])
        if isinstance(value, Bound) and isinstance(value.receiver, Node):
            return self.element(value.receiver)
        return Unknown("element")

    def _element_of_instance(self, value: Instance) -> Any:
        if value.children is not None:
            return self.element(value.children)
        if value.cls is not None:
            if self.is_record(value.cls):
                return value
            for name in ("__iter__", "__getitem__"):
                method, owner = self.member(value.cls, name)
                if isinstance(method, Function):
                    args = [] if name == "__iter__" else [plain("index")]
                    result = self.call_function(method.bind(value, owner), args, {})
                    return self.element(result) if name == "__iter__" and result is not value else result
        return Unknown("element")
