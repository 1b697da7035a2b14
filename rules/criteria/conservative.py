"""A critic's conservative term that trains the policy as well.

`logsumexp(q(s, pi(s))) - q(s, a)` keeps the values of what was not seen in the data below the others. It is there for
the critic, which a regression in the same loss fits. Where the policy is stepped with this loss and its actions keep
their graph, it learns to choose what is worth little, against its own objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gradaudit.rules.criteria.expand import is_negative
from gradaudit.rules.criteria.maximised import LINEAR, acts_on, fitted_critic
from gradaudit.rules.criteria.sites import one_call, stop_at, takers
from gradaudit.tape import DATA, Location, Node

if TYPE_CHECKING:
    from gradaudit.paths import Analysis, View

RISING = LINEAR | {"logsumexp", "max", "softplus", "relu", "exp", "div", "clamp"}
"""What gives more for more."""


class Conservative(NamedTuple):
    """The critic's `maker` values what `leaves` choose, and `term` lowers that."""

    view: View
    term: Node
    maker: Node
    critic: int
    leaves: int
    location: Location


def conservative_terms(analysis: Analysis) -> Iterator[Conservative]:
    """Every such term, once for a place in the text."""
    told: set[Location] = set()
    for view in analysis.views:
        if not view.own or view.sink.kind == "library":
            continue
        critic, before, fitted = fitted_critic(view)
        makers = takers(view, critic, view.down) if critic else []
        rated = {maker: acts_on(view, maker, critic | before) for maker in makers}
        seen = [maker for maker, leaves in rated.items() if not leaves]
        for maker, leaves in rated.items():
            term = _term(view, maker, seen) if leaves and maker not in fitted else None
            where = _place(view, term, maker, leaves) if term is not None else None
            if term is not None and where is not None and where not in told:
                told.add(where)
                yield Conservative(view, term, maker, view.live(maker) & ~leaves, leaves, where)


def _term(view: View, maker: Node, seen: list[Node]) -> Node | None:
    """Where a value that the loss lowers meets one, of data, that it raises."""
    raised = [rising(view, one) for one in seen]
    for node, sign in sorted(rising(view, maker), key=lambda item: item[0].time):
        if node is not maker and any((node, -sign) in ways for ways in raised):
            if (view.sink.loss, sign) in rising(view, node):
                return node
    return None


def rising(view: View, start: Node) -> set[tuple[Node, int]]:
    """What becomes more (1) or less (-1) if a value does, all the way to the loss."""
    seen, waiting = {(start, 1)}, [(start, 1)]
    while waiting:
        node, sign = waiting.pop()
        for user, edge in view.consumers(node):
            first, *others = [each for each in user.inputs if each.kind == DATA]
            sources = [each.source for each in (first, *others) if each is not edge]
            if user.op not in RISING or user.op == "div" and edge is not first:
                continue
            if user.op in ("mul", "div") and any(map(view.live, sources)):
                continue
            turned = user.op == "neg" or user.op == "sub" and edge is not first
            turned = turned or user.op in ("mul", "div") and any(map(is_negative, sources))
            item = (user, -sign if turned else sign)
            if item not in seen:
                seen.add(item)
                waiting.append(item)
    return seen


def _place(view: View, term: Node, maker: Node, leaves: int) -> Location:
    """The call that makes the actions, if the term has it alone; else where the critic is given them."""
    call = one_call(view, leaves, {term}, [term])
    if call is not None:
        return call
    given = [source for source in maker.arguments() if view.live(source) & leaves]
    return stop_at(view, maker, given[0], leaves) if given else maker.location
