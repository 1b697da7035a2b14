"""flax nnx: which parameters of a module a filter takes: `nnx.All(nnx.Param, nnx.PathContains("actor"))`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from gradaudit.models import Row
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import NONE, Const, External, Function, Instance, Sequence, Transformed
from gradaudit.tape import Network, Node

LEARNT = frozenset({"Param", "Variable", "VariableState", "OfType", "Everything"})
INSIDE = frozenset({"kernel", "bias", "scale", "embedding", "layers", "lora_a", "lora_b", "hh", "ih"})
STATE = frozenset({"BatchStat", "Cache", "Intermediate", "RngState", "RngKey", "RngCount", "Nothing"})


class Part(NamedTuple):
    """A layer's parameters, and the attributes that lead to it."""

    leaf: Node
    path: tuple[str, ...]


class Filters(Machine):
    def nnx_filter(self, row: Row, args: Args, keywords: Keywords) -> Any:
        """A filter is read where it is used."""
        return Transformed(External(row.path), "filter", [*args, *keywords.values()])

    def diff_state(self, args: Args, keywords: Keywords) -> Any:
        """`nnx.DiffState(0, filter)`: the argument that is differentiated, as far as the filter takes it."""
        position = args[0] if args else keywords.get("argnum", Const(0))
        chosen = args[1] if len(args) > 1 else keywords.get("filter", NONE)
        return Transformed(position, "diff_state", chosen)

    def selected(self, module: Any, leaves: Iterable[Node], chosen: Any) -> list[Node]:
        """What a filter takes of a module's parameters; all of them where it cannot be read."""
        every = list(leaves)
        root = module.network if isinstance(module, Instance) else None
        taken = [self._takes(chosen, Part(leaf, _path(leaf, root)), 0) for leaf in every]
        return every if None in taken else [leaf for leaf, takes in zip(every, taken, strict=True) if takes]

    def _takes(self, chosen: Any, part: Part, depth: int) -> bool | None:
        if depth > 6:
            return None
        if isinstance(chosen, Const):
            return {True: True, ...: True, False: False, None: False}.get(chosen.value)
        if isinstance(chosen, Sequence) and chosen.rest is None:
            return _any([self._takes(one, part, depth + 1) for one in chosen.items])
        if isinstance(chosen, External):
            return True if chosen.tail in LEARNT else False if chosen.tail in STATE else None
        if isinstance(chosen, Function):
            return self.truth(self.call(chosen, [Sequence([Const(name) for name in part.path]), part.leaf], {}))
        if not isinstance(chosen, Transformed) or chosen.how != "filter":
            return None
        return self._combined(chosen.function.tail, chosen.extra, part, depth)

    def _combined(self, name: str, parts: list[Any], part: Part, depth: int) -> bool | None:
        if name == "PathContains":
            return _is_on_way(parts, part.path)
        if name in LEARNT | STATE:
            return self._takes(parts[0] if name == "OfType" and parts else External(name), part, depth + 1)
        found = [self._takes(one, part, depth + 1) for one in parts]
        if name == "Any":
            return _any(found)
        if name == "All":
            return _not(_any([_not(each) for each in found]))
        return _not(found[0]) if name == "Not" and found else None


def _path(leaf: Node, root: Network | None) -> tuple[str, ...]:
    """The attributes that lead from a module to one of its layers."""
    known = leaf.leaf
    if known is None:
        return ()
    names = [known.name]
    for network in known.owner.chain() if known.owner is not None else ():
        if network is root or root is None and network.parent is None:
            break
        names.append(network.name)
    return tuple(part for name in reversed(names) for part in name.split(".") if part)


def _is_on_way(keys: list[Any], path: tuple[str, ...]) -> bool | None:
    """Is a key one of these attributes? What a layer calls its own arrays is not among them."""
    if len(keys) != 1 or not isinstance(keys[0], Const) or not path or keys[0].value in INSIDE:
        return None
    return str(keys[0].value) in path


def _any(found: list[bool | None]) -> bool | None:
    return True if True in found else None if None in found else False


def _not(known: bool | None) -> bool | None:
    return None if known is None else not known
