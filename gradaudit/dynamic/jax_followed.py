"""What the updates of a run do to the parameters of a loss: a step moves them on, an average moves them towards others.

Arrays do not change, so each is followed from the loss on: to what a step or an average has made of it. The very same
array may stand at several places of a loss's arguments (a copy that has just been made): a whole tree then tells which
is meant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from gradaudit.dynamic.jax_trees import is_array, path_keys
from gradaudit.dynamic.recording import Update
from gradaudit.tape import Location

CLOSE = 1e-3
"""How far from an average, as a part of the way between its ends, float32 may leave it."""
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Move:
    """Arrays of a tree and what an update made of them: a step along others, or an average with others.

    `kept` is how much of the old an average keeps, None where it cannot be told. `by_hand`: numbers alone tell that it
    is an average, and not of which one it takes the place.
    """

    old: Sequence[Any]
    others: Sequence[Any]
    new: Sequence[Any]
    is_average: bool
    by_hand: bool
    kept: float | None
    location: Location = Location("", 0)

    def turned(self) -> Move:
        """The same average as one of the others."""
        kept = None if self.kept is None else 1 - self.kept
        return replace(self, old=self.others, others=self.old, kept=kept)


@dataclass(slots=True)
class Teller:
    """Makes functions that tell `note` what they move; what one of them calls is a part of it."""

    note: Callable[[Move], None]
    inside: int = 0

    def places(self) -> Iterator[tuple[str, str, Callable[[Any], Any]]]:
        """(module, name, what makes of the function there one that tells)."""
        for module in ("optax", "equinox"):
            yield module, "apply_updates", self.step
        for name in ("incremental_update", "periodic_update"):
            yield "optax", name, self.average
        for module, name in (("jax.tree_util", "tree_map"), ("jax.tree", "map")):
            yield module, name, self.over

    def step(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def step(params: Any, updates: Any, **options: Any) -> Any:
            result = self.call(plain, params, updates, **options)
            self.tell(params, updates, result)
            return result

        return step

    def average(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def average(new_tensors: Any, old_tensors: Any, *others: Any, **options: Any) -> Any:
            result = self.call(plain, new_tensors, old_tensors, *others, **options)
            self.tell(old_tensors, new_tensors, result, is_average=True)
            return result

        return average

    def over(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """A tree made of two: an average of them, or parameters after a step along the second."""

        @functools.wraps(plain)
        def over(f: Any, tree: Any, *rest: Any, **options: Any) -> Any:
            result = self.call(plain, f, tree, *rest, **options)
            if len(rest) == 1:
                self.tell(tree, rest[0], result)
            return result

        return over

    def call(self, plain: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.inside += 1
        try:
            return plain(*args, **options)
        finally:
            self.inside -= 1

    def tell(self, old: Any, other: Any, new: Any, is_average: bool = False) -> None:
        if self.inside:
            return
        before, beside, after = _arrays(old), _arrays(other), _arrays(new)
        if before and len(before) == len(beside) == len(after):
            kept = _kept(before, beside, after)
            self.note(Move(before, beside, after, is_average or kept is not None, not is_average, kept))


def _arrays(tree: Any) -> list[Any]:
    """The arrays of a tree; none where something is still being traced."""
    leaves = [leaf for leaf in jax.tree_util.tree_leaves(tree) if is_array(leaf)]
    return [] if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) else leaves


def _kept(one: Sequence[Any], other: Sequence[Any], result: Sequence[Any]) -> float | None:
    """How much of the first an average of two trees keeps, if the result is one."""
    for a, b, r in zip(one, other, result, strict=True):
        if not np.shape(a) == np.shape(b) == np.shape(r) or r.dtype.kind != "f":
            return None
    first, second, made = (np.concatenate([np.ravel(leaf) for leaf in tree]) for tree in (one, other, result))
    way, gone = (second - first).astype(np.float64), (made - first).astype(np.float64)
    length = float(way @ way)
    share = float(gone @ way) / length if length > 0.0 and np.isfinite(length) else 0.0
    if not 0.0 < share < 1.0:
        return None
    near = float(np.linalg.norm(gone - share * way)) <= CLOSE * length**0.5
    return 1 - share if near else None


@dataclass(slots=True)
class Places:
    """Where the arrays of a loss's arguments stand, by name, and what became of each of them."""

    names: list[str]
    arrays: list[Any]
    trained: set[int]
    """The places of what is differentiated."""
    moved: dict[int, int] = field(default_factory=dict)
    """id of an array made by an update -> the place of what it was made of."""
    own: int = 0
    """How many are the loss's own; the others stand beside it, in what the step around it was given."""

    def add(self, name: str, array: Any) -> None:
        self.names.append(name)
        self.arrays.append(array)

    def inside(self, places: Sequence[int | None]) -> list[int | None]:
        """These places, None for those beside the loss."""
        return [place if place is not None and place < self.own else None for place in places]

    def of(self, arrays: Sequence[Any], among: Set[int]) -> list[int | None]:
        """The places of these arrays: as a run of what the loss was given, else each by itself. Where there are several
        (a copy that has just been made) it is the one among these."""
        ids, wanted = [id(one) for one in self.arrays], [id(one) for one in arrays]
        starts = [i for i in range(len(ids) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted]
        if len(starts) > 1:
            starts = [i for i in starts if among >= set(range(i, i + len(wanted)))]
        if len(starts) == 1:
            return [starts[0] + i for i in range(len(wanted))]
        return [self.moved[one] if one in self.moved else self._alone(one, among) for one in wanted]

    def _alone(self, wanted: int, among: Set[int]) -> int | None:
        found = [i for i, one in enumerate(self.arrays) if id(one) == wanted]
        found = [i for i in found if i in among] if len(found) > 1 else found
        return found[0] if len(found) == 1 else None


def updates(
    args: Sequence[Any],
    names: Sequence[str],
    argnums: Sequence[int],
    moves: Sequence[Move],
    beside: Mapping[int, tuple[str, Any]],
) -> Iterator[Update]:
    """What becomes of the arrays among a loss's arguments, and of those beside it, by their dotted names."""
    places, stepped = _places(args, names, argnums), set[int]()
    for name, array in _others(beside, names, places):
        places.add(name, array)
    for move in moves:
        resting = set(range(len(places.names))) - stepped
        if move.by_hand and move.is_average and _is_other(move, places, stepped):
            move = move.turned()
        before = places.of(move.old, resting if move.is_average else places.trained)
        others = places.of(move.others, places.trained)
        if not move.is_average:
            before, others = places.inside(before), places.inside(others)
        known = [(one, other) for one, other in zip(before, others, strict=True) if one is not None]
        if not move.is_average and any(other is not None for other in others):
            continue  # made of two of the loss's own trees: no step
        places.moved.update({id(new): one for one, new in zip(before, move.new, strict=True) if one is not None})
        pairs = [(one, other) for one, other in known if other is not None and other != one]
        if pairs:
            leaves, sources = (tuple(places.names[place] for place in side) for side in zip(*pairs, strict=True))
            yield Update(leaves, sources, move.kept, move.location)
        elif known and not move.is_average:
            going = [one for one, by in zip(before, move.others, strict=True) if one is not None and np.any(by)]
            stepped.update(going)
            yield Update(tuple(places.names[place] for place in going), (), None, move.location)


def _is_other(move: Move, places: Places, stepped: Set[int]) -> bool:
    """Whether an average takes the place of the second tree: the first one is stepped, or has the smaller share."""
    trees = (places.of(tree, places.trained - stepped) for tree in (move.old, move.others))
    first, second = (any(place in stepped for place in tree) for tree in trees)
    return first if first != second else move.kept is not None and move.kept < HALF


def _places(args: Sequence[Any], names: Sequence[str], argnums: Sequence[int]) -> Places:
    places = Places([], [], set())
    for number, (name, value) in enumerate(zip(names, args, strict=False)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            if is_array(leaf):
                places.trained.update((len(places.names),) if number in argnums else ())
                places.add(".".join((name, *path_keys(path))), leaf)
    places.own = len(places.names)
    return places


def _others(beside: Mapping[int, tuple[str, Any]], names: Sequence[str], places: Places) -> list[tuple[str, Any]]:
    """What stands beside a loss and not among its arguments, under names that its arguments do not have."""
    known = {id(array) for array in places.arrays}
    return [
        (name, array) for key, (name, array) in beside.items() if key not in known and name.split(".")[0] not in names
    ]
