"""haiku: functions of the parameters, `transform(f).apply(params, rng, x)`.

What `multi_transform` is given makes its modules once and returns several functions that use them: it is run once, and
each of its functions is entered with the tree of parameters that it is called with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gradaudit.static.classes import is_stub
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import Bound, Function, Instance, Mapping, Partial, Sequence, Transformed, Unknown
from gradaudit.tape import Call, Frame, Network, Node

APPLIED = (Function, Instance, Partial, Bound)


@dataclass(frozen=True, slots=True)
class Haiku:
    """What `hk.transform` was given to do: its network, and what its `apply` takes between parameters and inputs."""

    network: Network
    state: bool = False
    rng: bool = True
    many: bool = False


class HaikuTransforms(Machine):
    def transform_haiku(self, function: Any, kind: str) -> Transformed:
        network = Network(getattr(function, "name", "network"))
        return Transformed(function, "haiku", Haiku(network, "with_state" in kind, many="multi" in kind))

    def without_rng(self, value: Any) -> Any:
        if isinstance(value, Transformed) and isinstance(value.extra, Haiku):
            return Transformed(value.function, value.how, replace(value.extra, rng=False))
        return value

    def attribute_of_transformed(self, value: Transformed, name: str) -> Any:
        """`apply` of several functions is as many functions, in whatever they were returned in."""
        if value.how == "haiku" and value.extra.many and name == "apply":
            return self._applied(self._functions(value), value.extra, name)
        return Bound(value, name)

    def _functions(self, value: Transformed) -> Any:
        """What the functions were returned in: the second thing that is returned."""
        how: Haiku = value.extra
        if how.network not in self.many_functions:
            self.many_functions[how.network] = made = Unknown("apply")
            if isinstance(value.function, Function) and not is_stub(value.function.node):
                with self._inside(how.network, self.leaf("input", "params"), ()):
                    result = self.settle(self.call(value.function, [], {}))
                if isinstance(result, Sequence) and len(result.items) == 2:
                    made = result.items[1]
            self.many_functions[how.network] = made
        return self.many_functions[how.network]

    many_functions: dict[Network, Any]

    def _applied(self, functions: Any, how: Haiku, name: str) -> Any:
        """The same with a tree of parameters as the first argument of each."""
        if isinstance(functions, Sequence) and not functions.rest:
            names = functions.names or [f"{name}_{index}" for index in range(len(functions.items))]
            parts = zip(functions.items, names, strict=False)
            made = Sequence([self._applied(part, how, str(key)) for part, key in parts], None, functions.kind)
            made.names = functions.names
            return made
        if isinstance(functions, Mapping):
            return Mapping({key: self._applied(part, how, str(key)) for key, part in functions.entries.items()})
        if isinstance(functions, Instance) and functions.cls is not None and not self.is_module(functions):
            record = Instance(functions.cls, name=functions.network.name)
            record.attrs = {key: self._applied(part, how, str(key)) for key, part in functions.attrs.items()}
            return record
        if not isinstance(functions, APPLIED):
            return Unknown(name)
        network = Network(getattr(functions, "name", "") or name, "", how.network)
        return Transformed(functions, "haiku_part", replace(how, network=network, many=False))

    def apply_haiku(self, value: Transformed, args: Args, keywords: Keywords) -> Any:
        """The transformed function with a tree of parameters; in one piece where it cannot be entered."""
        how: Haiku = value.extra
        tree = self.parameter_tree(args[0])
        result: Any = None
        function = value.function
        if (
            not how.many
            and isinstance(function, APPLIED)
            and not (isinstance(function, Function) and is_stub(function.node))
        ):
            inputs = args[1 + how.state + how.rng :]
            site = self.call_site
            if isinstance(function, Function) and function.name == "<lambda>":
                self.call_site = Call(self.location(), function.name, site)  # called like one that has a name
            try:
                with self._inside(how.network, tree, tuple(self.argument_nodes(inputs, keywords))):
                    result = self.call(function, inputs, keywords)
            finally:
                self.call_site = site
        if result is None or not self.nodes_of(result):
            return self.module_call(tree, how.network, args[1:], keywords)
        return Sequence([result, Unknown("state")]) if how.state else result

    @contextmanager
    def _inside(self, network: Network, tree: Node, given: tuple[Node, ...]) -> Iterator[None]:
        saved, frame = self.applied, self.frame
        self.applied, self.frame = tree, Frame(network, given, frame)
        try:
            yield
        finally:
            self.applied, self.frame = saved, frame
