"""Where branches meet: run each arm, undo it, join what they leave behind."""

from __future__ import annotations

from typing import Any

from gradaudit.static.machine import Machine
from gradaudit.static.state import Left, Scope
from gradaudit.static.values import (
    COUNTER,
    MISSING,
    OPTIONAL,
    ClassValue,
    Const,
    External,
    Function,
    Instance,
    Mapping,
    OptimizerValue,
    Parameters,
    Sequence,
    Union,
    Unknown,
)
from gradaudit.tape import ALWAYS, Guard, Location, Node, join_guards

COMPARED = frozenset({Const, Function, External, ClassValue})  # two objects may be one value
OPTIMIZERS = frozenset({OptimizerValue, Unknown})
OBJECTS = (Instance, Function, ClassValue, OptimizerValue, External, Parameters)
MAX_ALTERNATIVES = 5
FEW = 24
GOES_ON = ""


class Joins(Machine):
    # -- values ------------------------------------------------------------------------------------------------------
    def join(self, alternatives: list[tuple[Any, Guard]], detail: str = "") -> Any:
        """One value for several, each with the literals under which it is the one."""
        merged = _merged(alternatives) if len(alternatives) <= FEW else _merged_by_key(alternatives)
        if not merged:
            return MISSING
        if len(merged) == 1:
            return self._same_in_both(merged[0][0], alternatives, detail)
        return self._join_distinct(merged, detail)

    def _same_in_both(self, value: Any, alternatives: list[tuple[Any, Guard]], detail: str) -> Any:
        """What both arms of a switch give is still recorded as a join: a switch that does nothing is worth knowing."""
        if detail != "switch" or not isinstance(value, Node) or len(alternatives) != 2:
            return value
        if any(other is MISSING for other, _ in alternatives):  # it was made in one of them
            made_in = next(guard for other, guard in alternatives if other is not MISSING)
            return self.phi([(value, made_in)], name=value.name) if made_in and value.leaf is None else value
        guards = [guard for _, guard in alternatives]
        data = value.leaf is not None and value.leaf.kind not in ("param", "arg")
        if data or not all(guards) or join_guards(*guards) is not None:
            return value
        return self.phi([(value, guard) for guard in guards], detail, name=value.name)

    def _join_distinct(self, merged: list[tuple[Any, Guard]], detail: str) -> Any:
        if Node in {type(value) for value, _ in merged}:
            return self._join_tensors(merged, detail)
        informative = [(v, g) for v, g in merged if not (type(v) is Const and v.value is None)]
        if len(informative) == 1:
            value = informative[0][0]
            return value if not isinstance(value, Const) else _unknown_of(merged)
        kinds = {type(value) for value, _ in informative}
        if len(kinds) == 1:
            (kind,) = kinds
            if kind is Sequence:
                return self._join_sequences(informative, detail)
            if kind is Mapping:
                return self._join_mappings(informative, detail)
            if kind is Const:
                return _unknown_of(merged)
            if kind is Parameters:
                leaves = dict.fromkeys(leaf for value, _ in informative for leaf in value.leaves)
                return Parameters(tuple(leaves), all(value.complete for value, _ in informative))
            if kind is Instance and not self.is_module(first := informative[0][0]):
                if all(value.cls is not None and value.cls is first.cls for value, _ in informative):
                    return self._join_instances(informative, detail)
        if OptimizerValue in kinds and kinds <= OPTIMIZERS:
            optimizers = [value for value, _ in informative if type(value) is OptimizerValue]
            if all(value.optimizer.leaves == optimizers[0].optimizer.leaves for value in optimizers):
                return optimizers[0]  # Adam or SGD, by a setting: whichever it is, it holds the same
        return self._join_union(informative)

    def _join_tensors(self, merged: list[tuple[Any, Guard]], detail: str) -> Any:
        sources: list[tuple[Node, Guard]] = []
        objects = []
        for value, guard in merged:
            if isinstance(value, Const) and (value.value is None or isinstance(value.value, (str, bool))):
                continue
            if isinstance(value, OBJECTS) or isinstance(value, Union):
                objects.append((value, guard))
            else:
                node = self.current(value) if isinstance(value, Node) else self.tensor(value)
                for other, _ in sources:
                    if node is other:
                        break
                else:
                    sources.append((node, guard))
        if objects:
            return self._join_union([*sources, *objects])
        if len(sources) == 1:
            return self._or_none(sources[0][0], merged)
        return self.phi(sources, detail, name=next((node.name for node, _ in sources if node.name), ""))

    def _or_none(self, node: Node, merged: list[tuple[Any, Guard]]) -> Node:
        """A tensor that one arm leaves at None: whoever asks for None goes both ways, everybody else has the tensor."""
        asked_for = self.joining is not None and any(type(one) is Const and one.value is None for one, _ in merged)
        return self.phi([(node, ALWAYS)], OPTIONAL, node.name) if asked_for else node

    def _join_sequences(self, merged: list[tuple[Any, Guard]], detail: str) -> Any:
        values = [value for value, _ in merged]
        rests = [(value.rest, guard) for value, guard in merged if value.rest is not None]
        shared = min(len(value.items) for value in values)
        # what only the longer ones have may be there or not: it stands for any others
        rests += [(item, guard) for value, guard in merged for item in value.items[shared:]]
        items = [self.join([(value.items[i], guard) for value, guard in merged], detail) for i in range(shared)]
        made = Sequence(items, self.join(rests, detail) if rests else None, values[0].kind)
        made.names = values[0].names
        return made

    def _join_mappings(self, merged: list[tuple[Any, Guard]], detail: str) -> Any:
        keys: dict[Any, None] = {}
        for value, _ in merged:
            keys.update(dict.fromkeys(value.entries))
        return Mapping(
            {key: self.join([(v.entries.get(key, MISSING), guard) for v, guard in merged], detail) for key in keys}
        )

    def _join_instances(self, merged: list[tuple[Any, Guard]], detail: str) -> Any:
        first = merged[0][0]
        made = Instance(first.cls, name=first.network.name)
        keys: dict[Any, None] = {}
        for value, _ in merged:
            keys.update(dict.fromkeys(value.attrs))
        for key in keys:
            made.attrs[key] = self.join([(v.attrs.get(key, MISSING), guard) for v, guard in merged], detail)
        return made

    def _join_union(self, values: list[tuple[Any, Guard]]) -> Any:
        flat: list[tuple[Any, Guard]] = []
        for value, guard in values:
            if isinstance(value, Union):
                for part, own in zip(value.alternatives, value.guards, strict=True):
                    if _place(part, flat) is None:
                        flat.append((part, join_guards(guard, own) or ALWAYS))
            elif _place(value, flat) is None:
                flat.append((value, guard))
            if len(flat) >= MAX_ALTERNATIVES:
                break
        flat = flat[:MAX_ALTERNATIVES]
        return flat[0][0] if len(flat) == 1 else Union(tuple([v for v, _ in flat]), tuple([g for _, g in flat]))

    # -- branches ----------------------------------------------------------------------------------------------------
    def branches(
        self,
        arms: list[tuple[Any, Guard]],
        scope: Scope,
        detail: str = "",
        ruled_out: tuple[frozenset[Any], ...] = (),
        first_arm: int | None = None,
    ) -> str:
        """Run each arm (a callable that gives how it ended) under its literals, then join. How the whole ended.

        `ruled_out` are the objects that something is not in each arm: what they hold there is nobody's. `first_arm` is
        taken in the first iteration of the innermost loop alone: what it writes does not come from before the loop.
        """
        outer, assumed_before = self.journal, dict(self.assumed)
        results: list[tuple[str, Guard, dict[Any, Any], frozenset[int]]] = []
        around, where, without = self.open_branches, self.location(), self.without
        untold = not all(literals for _, literals in arms)
        self.untold += untold
        for number, (run, literals) in enumerate(arms):
            self.journal = []
            self.assumed = {**assumed_before, **dict(literals)}
            self.undecided += 1
            self.open_branches = (*around, (where, number))
            absent = ruled_out[number] if ruled_out else frozenset()
            self.without = without | absent
            try:
                ending = run()
            except BaseException:
                self.journal = outer if outer is None else outer + self.journal
                self.untold -= untold
                raise
            finally:
                self.undecided -= 1
                self.open_branches, self.without = around, without
            # what was assumed to get to the end of the arm holds where it joins
            reached = literals if ending else literals | _news(self.assumed, assumed_before)
            nobodys = frozenset([id(part.attrs) for part in absent if type(part) is Instance])
            results.append((ending, reached, self.undo(self.journal), nobodys))
        self.untold -= untold
        self.journal, self.assumed = outer, assumed_before
        going_on = [result for result in results if result[0] == GOES_ON]
        if first_arm is not None and len(going_on) == len(results) == 2:
            self._begin_afresh(results[first_arm][2], results[1 - first_arm][2], scope)
        self._join_heap(results, going_on, scope, detail, where)
        if not going_on:
            endings = [ending for ending, *_ in results if ending != "raise"]
            return endings[0] if endings else "raise"
        if len(going_on) == 1 and len(results) > 1:
            self.assumed = {
                **assumed_before,
                **dict(going_on[0][1]),
            }  # the other arm left: its negation holds from here
        return GOES_ON

    def _begin_afresh(self, first: dict[Any, Any], others: dict[Any, Any], scope: Scope) -> None:
        for mark, (container, key, _) in first.items():
            if mark in others:
                continue
            value = container.get(key) if container is scope.vars else self.fetch(container, key)
            if container is not scope.vars and isinstance(value, Node) and not self._is_carried(value):
                value = self.phi([(value, ALWAYS)], "loop", value.name)
                container[key] = self.loops[-1].phis.setdefault((id(container), key), (container, key, value))[2]
            self.cut_entry(value)

    def cut_entry(self, value: Any) -> None:
        """What the innermost loop carries along does not begin with what was there before it."""
        for node in value.items if isinstance(value, Sequence) else (value,):
            if isinstance(node, Node) and self._is_carried(node):
                node.inputs[0] = node.inputs[0]._replace(passes=False)

    def _is_carried(self, node: Node) -> bool:
        """Is it what the innermost loop carries from one iteration into the next?"""
        return node.op == "phi" and node.detail == "loop" and bool(node.inputs) and node.loops == self.loop_keys

    def count_with(self, item: Any) -> None:
        """The innermost loop is over these: is there what counts its iterations?"""
        first = item.items[0] if isinstance(item, Sequence) and item.items else item
        if isinstance(first, Unknown) and first.flag_of is COUNTER:
            self.loops[-1].counter = first

    def _join_heap(self, results: list[Any], going_on: list[Any], scope: Scope, detail: str, where: Location) -> None:
        numbers = {id(final): number for number, (_, _, final, _) in enumerate(results)}
        remaining = [result for result in results if result[0] != "raise"] or results
        touched: dict[tuple[int, Any], tuple[Any, Any]] = {}
        for _, _, final, _ in remaining:
            for mark, (container, key, _) in final.items():
                touched.setdefault(mark, (container, key))
        if going_on and touched:
            remaining = self._set_aside(remaining, going_on, scope, touched)
        for mark, (container, key) in touched.items():
            local = container is scope.vars
            counted = going_on if local and going_on else remaining
            if local and not going_on:
                continue
            old = self._before(container, key)
            alternatives = []
            arms: list[int] = []
            how = detail
            for _, guard, final, nobodys in counted:
                if nobodys and id(container) in nobodys and mark not in final:
                    continue
                arms.append(numbers.get(id(final), -1))
                how = "switch" if guard else how
                alternatives.append((final[mark][2] if mark in final else old, guard))
            self.joining = where, tuple(arms)
            if isinstance(old, tuple):  # the items of a list
                joined: Any = self._join_items(alternatives, how)
            else:
                joined = self.join(alternatives, how)
            self.joining = None
            if joined is MISSING:
                self.drop(container, key)
            elif joined is not old:
                self.put(container, key, joined)

    def _set_aside(self, results: list[Any], going_on: list[Any], scope: Scope, touched: dict[Any, Any]) -> list[Any]:
        """What an arm wrote that returned is not seen by what follows, but by who called: kept until the function ends.

        The arms that are left.
        """
        otherwise = going_on[0][1] if len(going_on) == 1 else ALWAYS
        stay = []
        for result in results:
            ending, guard, final, _ = result
            if ending != "return":
                stay.append(result)
                continue
            writes = {
                mark: final.get(mark, (container, key, self._before(container, key)))
                for mark, (container, key) in touched.items()
                if container is not scope.vars
            }
            if writes:
                scope.left.append(Left(writes, guard, otherwise))
        return stay

    def _before(self, container: dict[Any, Any], key: Any) -> Any:
        """What is there where an arm does not write it. Storage that was never written in place is as it was made."""
        return container.get(key, key if container is self.versions else MISSING)

    def rejoin(self, scope: Scope) -> None:
        """A function ends: what its earlier returns left behind is as possible as what its last lines did."""
        left, scope.left = scope.left, []
        touched = {mark: place[:2] for one in left for mark, place in one.writes.items()}
        for mark, (container, key) in touched.items():
            alternatives: list[tuple[Any, Guard]] = []
            until: Guard = ALWAYS
            for one in left:
                if mark in one.writes:
                    alternatives.append((one.writes[mark][2], until | one.guard))
                until |= one.otherwise
            now = self._before(container, key)
            alternatives.append((now, until))
            items = all(isinstance(value, tuple) for value, _ in alternatives)  # of a list
            joined = self._join_items(alternatives, "return") if items else self.join(alternatives)
            if joined is not MISSING and joined is not now:
                self.put(container, key, joined)

    def _join_items(self, alternatives: list[tuple[Any, Guard]], detail: str) -> tuple[Any, ...]:
        """A list that grew in one arm has the item; which arm it was is not kept."""
        length = max(len(items) for items, _ in alternatives)
        return tuple(
            self.join([(items[i] if i < len(items) else MISSING, guard) for items, guard in alternatives], detail)
            for i in range(length)
        )


def _news(assumed: dict[str, bool], before: dict[str, bool]) -> Guard:
    if assumed.keys() <= before.keys():
        return ALWAYS
    return frozenset((key, value) for key, value in assumed.items() if key not in before)


def _merged(alternatives: list[tuple[Any, Guard]]) -> list[tuple[Any, Guard]]:
    """The distinct values, each with what its guards have in common."""
    merged: list[tuple[Any, Guard]] = []
    for value, guard in alternatives:
        if value is MISSING or value is None:
            continue
        index = _place(value, merged)
        if index is None:
            merged.append((value, guard))
        else:
            other, other_guard = merged[index]
            merged[index] = (other, guard & other_guard)
    return merged


def _merged_by_key(alternatives: list[tuple[Any, Guard]]) -> list[tuple[Any, Guard]]:
    """The same, of very many (the entries of a table of thousands), where not each can be compared with each."""
    merged: dict[object, tuple[Any, Guard]] = {}
    for value, guard in alternatives:
        if value is not MISSING and value is not None:
            key = _key(value)
            other, other_guard = merged.get(key, (value, guard))
            merged[key] = (other, guard & other_guard)
    return list(merged.values())


def _key(value: Any) -> object:
    """Equal for what `_same` takes for one value."""
    if isinstance(value, Const):
        try:
            hash(value.value)
        except TypeError:
            return type(value.value), repr(value.value)
        return type(value.value), value.value
    if isinstance(value, Function):
        return id(value.node), id(value.self_value), id(value.scope)
    if isinstance(value, External):
        return value.path
    return id(value.node) if isinstance(value, ClassValue) else id(value)


def _place(value: Any, among: list[tuple[Any, Guard]]) -> int | None:
    """Where the value is among others already."""
    kind = type(value)
    index = 0
    for other, _ in among:
        if value is other or type(other) is kind and kind in COMPARED and _same(value, other):
            return index
        index += 1
    return None


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Const):
        return type(first.value) is type(second.value) and bool(first.value == second.value)
    if isinstance(first, Function):
        return first.node is second.node and first.self_value is second.self_value and first.scope is second.scope
    if isinstance(first, External):
        return bool(first.path == second.path)
    if isinstance(first, ClassValue):
        return first.node is second.node
    return False


def _unknown_of(merged: list[tuple[Any, Guard]]) -> Any:
    """Two constants: which of them is not known. `None` keeps the other one's default."""
    made = Unknown("value")
    made.call = True
    return made
