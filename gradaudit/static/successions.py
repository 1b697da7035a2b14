"""JAX: one tree of parameters under two names, and names that come to hold another tree.

Arrays do not change, so `target_params = params` needs no copy: the two part as soon as one of them is stepped. What is
kept twice where it was initialised is therefore recorded as a copy, and a name whose copy gives way to another tree as
an update of that copy.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from gradaudit.static.machine import Keywords, Machine
from gradaudit.static.state import Scope
from gradaudit.static.syntax import read_whole
from gradaudit.static.values import External, Instance, Mapping, Sequence, Union, Unknown
from gradaudit.tape import DATA, INDEX, Node

INITIAL = frozenset({"initial"})
DRAWN = frozenset({"random", "alloc"})
NUMBERS = frozenset({"fill", "log", "exp", "sqrt", "full", "logit", "expm1", "log1p", "numpy"})  # computed of numbers
INTEGERS = "integers"  # how an array of them is known
CHOICES = frozenset({"phi", "where", "call", "stop", "identity"})
CHOSEN = frozenset({"argmin", "argmax", "one_hot", "compare", "sign", "topk"})
ROWS = frozenset({"getitem", "gather", "index_select", "where"})
TREES = (Node, Unknown, Mapping, Union, Instance)
DEPTH = 4
MOST = 40
COLLECTIONS = frozenset({"params", "batch_stats", "state"})
"""What flax keeps apart in what it gives for one network: no network is half of it."""


class Successions(Machine):
    originals: dict[Node, Node]  # a tree that began as a copy -> what it began as
    named: set[Node]
    successions: set[tuple[tuple[Node, ...], tuple[Node, ...]]]  # told once, where it is written first

    # -- two names ---------------------------------------------------------------------------------------------------
    def second_name(self, value: Any) -> Any:
        """`target_params = params`, right after these were initialised."""
        return self.copied_tree(value) if self.current_framework == "jax" and self._initial(value) else value

    def is_whole(self, source: ast.expr, scope: Scope) -> bool:
        """Is it a name of what the function that is running has made?"""
        return isinstance(source, ast.Name) and self.is_own(source.id, scope)

    def is_entry_beside(self, statement: ast.Assign, target: ast.expr, scope: Scope) -> bool:
        """`target = params["online"]` of what goes on to be used whole, or `params["target"] = params["online"]`."""
        source = statement.value
        if self.current_framework != "jax" or not isinstance(source, ast.Subscript):
            return False
        held, key = source.value, source.slice
        if not isinstance(key, ast.Constant) or key.value in COLLECTIONS:
            return False
        beside = isinstance(target, ast.Subscript) and ast.dump(target.value) == ast.dump(held)
        if isinstance(held, ast.Attribute):
            return beside  # `self.params`: what is as it was initialised was made right before
        if not isinstance(held, ast.Name) or not self.is_whole(held, scope):
            return False
        return beside or isinstance(target, ast.Name) and read_whole(self.around(scope), held.id, statement.lineno)

    def around(self, scope: Scope) -> ast.AST:
        """The text of the function that is running, or of the whole module."""
        return next((one for one in reversed(self.stack) if isinstance(one, ast.FunctionDef)), scope.module.tree)

    def is_own(self, name: str, scope: Scope) -> bool:
        """Was it made by the function that is running? What that was given it may be given again: a snapshot."""
        return name in scope.vars and not self._is_given(name)

    def _is_given(self, name: str) -> bool:
        """Is it an argument of the function that is running?"""
        function = self.stack[-1] if self.stack else None
        arguments = function.args if isinstance(function, (ast.FunctionDef, ast.Lambda)) else None
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs] if arguments is not None else []
        return any(argument.arg == name for argument in given)

    def is_snapshot(self, expression: ast.Tuple | ast.List | ast.Set) -> bool:
        """`args = (state.params, state.params, batch)`: what the state that a function is given has now."""
        parts = [part.value for part in expression.elts if isinstance(part, ast.Attribute)]
        return any(isinstance(part, ast.Name) and self._is_given(part.id) for part in parts)

    def distinct(self, values: list[Any]) -> list[Any]:
        """What is kept together: a tree that is there twice is two trees."""
        if self.current_framework != "jax":
            return values
        seen: set[int] = set()
        found = []
        for value in values:
            twice = id(value) in seen and self._initial(value)
            seen.update(map(id, _with_parts(value, 0)))
            found.append(self.copied_tree(value) if twice else value)
        return found

    def distinct_entries(self, entries: Keywords) -> Keywords:
        """The same of what is kept by name."""
        if self.current_framework != "jax":
            return entries
        return dict(zip(entries, self.distinct(list(entries.values())), strict=True))

    def initial_tree(self, name: str = "params") -> Unknown:
        made = Unknown(name)
        made.call = True
        made.marks = INITIAL
        return made

    def _initial(self, value: Any) -> bool:
        """Parameters as they were initialised: by a library, network by network, or drawn at random array by array."""
        if isinstance(value, Unknown):
            return _of_initial(value)
        if isinstance(value, Instance):
            return self.is_tree(value)
        if isinstance(value, Sequence):  # an ensemble: each member of it
            members = [*value.items, *(() if value.rest is None else (value.rest,))]
            return bool(members) and all(self._initial(member) for member in members)
        if not isinstance(value, Mapping) or not value.entries:
            return False
        parts = [part for entry in value.entries.values() for part in _arrays(entry, 0)]
        return bool(parts) and all(
            _drawn(part, 0) if isinstance(part, Node) else isinstance(part, Unknown) and _of_initial(part)
            for part in parts
        )

    def named_tree(self, value: Any, name: str) -> None:
        """A copy is called what it is first kept as."""
        layers = isinstance(value, Sequence) and value.kind == "list"  # of a tuple, each part has a name of its own
        for node in self.nodes_of(value)[:MOST] if layers or isinstance(value, TREES) else ():
            if node in self.originals and node not in self.named:
                self.named.add(node)
                node.name = name
                if node.leaf is not None:
                    node.leaf.name = name
                if isinstance(value, Unknown):
                    value.name = name

    def is_tree(self, instance: Any) -> bool:
        """An equinox module: it holds its arrays, and does not change. flax's nnx changes, linen's holds none."""
        if not isinstance(instance, Instance):
            return False
        if instance.row is not None:
            return instance.row.path.startswith("equinox.")
        bases = self.mro(instance.cls) if instance.cls is not None else ()
        return any(isinstance(base, External) and base.path.startswith("equinox.") for base in bases)

    def learnt_array(self, instance: Instance, name: str, value: Any) -> Any:
        """An array that was drawn at random or filled with a number: what holds it, an equinox module, learns it."""
        if not isinstance(value, Node) or value.leaf is not None or not self.is_tree(instance):
            return value
        if not _drawn(value, 0) or value.detail == INTEGERS or self._is_static(instance, name):
            return value
        return self.leaf("param", name, instance.network, scalar=not _is_random(value, 0))

    def is_unknown_part(self, instance: Instance, name: Any, value: Any) -> bool:
        """A field of an equinox module that somebody else makes: an array or a module, as far as is said."""
        if not isinstance(value, Unknown) or value.plain or value.instance is not None or not isinstance(name, str):
            return False
        said = value.annotation
        number = isinstance(said, External) and said.root in ("builtins", "typing", "collections")
        return self.is_tree(instance) and not number and not self._is_static(instance, name)

    def _is_static(self, instance: Instance, name: str) -> bool:
        """`eqx.field(static=True)`: part of the structure."""
        fields = self.fields(instance.cls) if instance.cls is not None else ()
        default = next((field.value for field_name, field, _ in fields if field_name == name), None)
        if not isinstance(default, ast.Call):
            return False
        called = default.func.attr if isinstance(default.func, ast.Attribute) else getattr(default.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in default.keywords}.get("static")
        return called == "static_field" or isinstance(given, ast.Constant) and bool(given.value)

    # -- one name, another tree --------------------------------------------------------------------------------------
    def succeeded(self, old: Any, new: Any, depth: int = 0) -> None:
        """What held the tree `old` holds `new` from here on."""
        if depth < DEPTH and old is not new:
            for before, after in _fields(old, new):
                self.succeeded(before, after, depth + 1)
        if not isinstance(old, TREES) or not isinstance(new, TREES) or self.took_place(old, new):
            return
        if not self.averaged.isdisjoint(self.nodes_of(new)[:1]):
            return
        before = self._behind(old)
        sources = tuple(tree for tree in self._behind(new) if tree not in before)
        followers = {tree for tree in sources if tree in self.originals}
        leaves = tuple(
            tree
            for tree in before
            if tree in self.originals or any(self.originals[follower] is tree for follower in followers)
        )
        if leaves and all(tree in self.originals for tree in sources) and not self._one_tree(leaves, sources):
            return  # `for w, b in target:` goes from one part of a copy to the next
        if leaves and sources and (leaves, sources) not in self.successions:
            self.successions.add((leaves, sources))
            self.event("copy", leaves=leaves, sources=sources)

    def _one_tree(self, leaves: Iterable[Node], sources: Iterable[Node]) -> bool:
        """Do copies on both sides go back to one original?"""
        began = {self.originals.get(tree, tree) for tree in leaves}
        return any(self.originals[tree] in began for tree in sources)

    def succeeded_in(self, holder: Any, changed: Keywords) -> None:
        """`state.replace(target_params=...)`."""
        for name, new in changed.items() if self.originals or self.blends else ():
            self.succeeded(self.get_attribute(holder, name), new)
        for name, new in changed.items() if self.current_framework == "jax" else ():
            if isinstance(new, Node) and new.leaf is None:
                self.replaced_entry(self.get_attribute(holder, name), new)

    def replaced_entry(self, old: Any, new: Any) -> None:
        """`{**variables, "codebook": sums / counts}`: an entry that is made of data, and learns from no gradient."""
        if not isinstance(new, Node) or new.leaf is not None or _drawn(new, 0) or self.took_place(old, new):
            return
        if self.differentiated_groups:
            return  # inside of a loss a part is computed for it, and nothing is updated
        leaves, made_of = self.trees_of(old), self.trees_of(new)
        learnt = all(tree in self.differentiated_trees or tree.leaf is not None for tree in leaves)
        foreign = all(tree.leaf is None and tree not in self.originals for tree in made_of)
        if leaves and learnt and foreign and _follows_data(new, frozenset(self.nodes_of(old))):
            self.event("average", leaves=leaves)

    def replaced_parts(self, old: Any, new: Any, depth: int = 0, same: bool = False) -> None:
        """What held the tree `old` holds `new`: the same entries, but for some that are replaced."""
        if depth > DEPTH or old is new or self.differentiated_groups:
            return
        pairs = [(before, after) for before, after in _fields(old, new) if before is not after]
        same = same or any(self._is_version(before, after) for before, after in _fields(old, new))
        for before, after in pairs if same else ():
            if isinstance(after, Node) and isinstance(before, (Node, Unknown)):
                self.replaced_entry(before, after)
            self.replaced_parts(before, after, depth + 1, same)

    differentiated_groups: list[set[Node]]

    def _is_version(self, before: Any, after: Any) -> bool:
        """Is it the same tree, or what it became by a step?"""
        trees = self.trees_of(before) if isinstance(before, TREES) and isinstance(after, TREES) else ()
        return bool(trees) and trees == self.trees_of(after)

    def _behind(self, value: Any) -> dict[Node, None]:
        return dict.fromkeys(tree for node in self.trees_of(value) for tree in self._chosen(node))

    def _chosen(self, node: Node) -> list[Node]:
        """The trees that a choice is between: `cond`, `where`, the two arms of a branch. An optimizer's state, which
        `tx.init(params)` makes, holds none of them."""
        found, waiting, seen = [], [node], {node}
        while waiting and len(seen) < MOST:
            current = waiting.pop()
            tree = self.tree_of(current)
            chosen = current.op in CHOICES and not (current.op == "call" and current.detail.endswith(".init"))
            if tree is current and current not in self.trees and chosen and current.inputs:
                parts = [edge.source for edge in current.inputs if edge.source not in seen]
                seen.update(parts)
                waiting.extend(parts)
            else:
                found.append(tree)
        return found


def _follows_data(new: Node, entry: frozenset[Node]) -> bool:
    """Is it made of data: of sums that are kept beside the entry, or of the entry and what was assigned to its rows?

    `where(counts > 0, new, entry)` keeps the rows that nothing is assigned to. Rows that are merely drawn anew, as
    those of dead codes are, go on to learn as before.
    """
    arms = new.arguments() if new.op == "where" else [new]
    written = [arm for arm in arms if arm not in entry]
    if len(written) != 1:
        return False
    if len(arms) > 1 or _is_made_of(written[0], entry):
        return _is_assigned(written[0])
    return True


def _is_made_of(value: Node, entry: frozenset[Node]) -> bool:
    """Is it computed from the entry as it was, as a step by hand is? What was chosen by it is not."""
    seen, waiting = {value}, [value]
    while waiting and len(seen) < MOST:
        for edge in waiting.pop().inputs:
            if edge.source in entry:
                return True
            if edge.kind == DATA and edge.source.op not in CHOSEN and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return len(seen) >= MOST


def _is_assigned(value: Node) -> bool:
    """Is it reckoned from what was assigned to each row of the entry, the nearest of all, and from no gradient?"""
    seen, waiting, assigned = {value}, [value], False
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node.op == "gradient" or "gradient" in node.marks:
            return False
        assigned = assigned or node.op in CHOSEN
        chosen = node.op in ROWS  # rows that are taken of a value are no sum of what was assigned
        fresh = [edge.source for edge in node.inputs if edge.source not in seen and not (chosen and edge.kind == INDEX)]
        seen.update(fresh)
        waiting += fresh
    return assigned


def _of_initial(value: Unknown) -> bool:
    """Initialised parameters, or an entry of them: `variables["params"]`."""
    part: Any = value
    for _ in range(DEPTH):
        if not isinstance(part, Unknown) or part.instance is not None or part.plain:
            return False
        if part.marks == INITIAL:
            return True
        part = part.parent
    return False


def _fields(old: Any, new: Any) -> Iterable[tuple[Any, Any]]:
    """The parts of two states of one make."""
    if isinstance(old, Sequence) and isinstance(new, Sequence) and len(old.items) == len(new.items):
        return zip(old.items, new.items, strict=True)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [(part, new.entries[key]) for key, part in list(old.entries.items())[:MOST] if key in new.entries]
    if isinstance(old, (Instance, Unknown)) and isinstance(new, (Instance, Unknown)):
        return [(part, new.attrs[name]) for name, part in list(old.attrs.items()) if name in new.attrs]
    return ()


def _with_parts(value: Any, depth: int) -> Iterable[Any]:
    """A value, and the trees inside of it: `{"online": online, "target": online["encoder"]}` has one twice."""
    yield value
    for part in value.entries.values() if isinstance(value, Mapping) and depth < DEPTH else ():
        if isinstance(part, (Unknown, Mapping)):
            yield from _with_parts(part, depth + 1)


def _arrays(value: Any, depth: int) -> list[Any]:
    if isinstance(value, Mapping) and depth < DEPTH:
        return [part for entry in value.entries.values() for part in _arrays(entry, depth + 1)]
    if isinstance(value, Sequence) and value.rest is None and depth < DEPTH:  # layer by layer
        return [part for item in value.items for part in _arrays(item, depth + 1)]
    return [value]


def _is_random(node: Node, depth: int) -> bool:
    return node.op == "random" or depth < DEPTH and any(_is_random(edge.source, depth + 1) for edge in node.inputs)


def _drawn(node: Node, depth: int) -> bool:
    """Drawn at random, or filled with a number, and scaled, say by `np.sqrt(width)`."""
    if node.op in DRAWN or node.op == "const" or node.op in NUMBERS and not node.inputs:
        return True
    parts = [edge.source for edge in node.inputs]
    return depth < DEPTH and node.leaf is None and bool(parts) and all(_drawn(part, depth + 1) for part in parts)
