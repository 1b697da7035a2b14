"""Control flow of libraries: scan and loops over a carry, cond, switch and select."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradaudit.models import Row
from gradaudit.static.machine import Args, Keywords, Machine
from gradaudit.static.values import (
    MISSING,
    NONE,
    ClassValue,
    Const,
    Function,
    Instance,
    Mapping,
    Sequence,
    Unknown,
    plain,
)
from gradaudit.tape import ALWAYS, Edge, Node


class Control(Machine):
    def _t_scan(self, row: Row, args: Args, keywords: Keywords) -> Any:
        function = args[0] if args else keywords.get("f", NONE)
        carry = args[1] if len(args) > 1 else keywords.get("init", NONE)
        rows = args[2] if len(args) > 2 else keywords.get("xs", NONE)
        return self.carried(carry, lambda state: self.call(function, [state, self.row_of(rows)], {}), stacked=True)

    def _t_while(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 3:
            return Unknown("loop")
        self.call(args[0], [args[2]], {})
        return self.carried(args[2], lambda state: self.call(args[1], [state], {}), stacked=False)

    def _t_fori(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 4:
            return Unknown("loop")
        return self.carried(args[3], lambda state: self.call(args[2], [plain("i"), state], {}), stacked=False)

    def carried(self, carry: Any, body: Callable[[Any], Any], stacked: bool) -> Any:
        """A loop as a function: the carry is a phi with a back edge."""
        from gradaudit.static.state import Loop

        self.loop_counter += 1
        loop, keys = Loop(self.loop_counter, start=self.time + 1), self.loop_keys
        self.loops.append(loop)
        self.loop_keys = (*keys, loop.key)
        head = self._carry_head(carry)
        result = body(head)
        outputs: Any = Unknown("outputs")
        end = result
        if stacked:
            if isinstance(result, Sequence) and len(result.items) == 2:
                end, outputs = result.items
            elif isinstance(result, Node):
                end, outputs = self.get_item(result, Const(0)), self.get_item(result, Const(1))
        self._carry_back(head, end)
        self.loops.pop()
        self.loop_keys = keys
        final = self.join([(carry, ALWAYS), (end, ALWAYS)], "exit") if end is not MISSING else carry
        if not stacked:
            return final
        return Sequence([final, self._stacked(outputs)])

    def _stacked(self, outputs: Any) -> Any:
        if isinstance(outputs, Node):
            return self.node("stack", [Edge(outputs)])
        if isinstance(outputs, Sequence):
            made = Sequence([self._stacked(part) for part in outputs.items], outputs.rest, outputs.kind)
            made.names = outputs.names
            return made
        if isinstance(outputs, Mapping):
            return Mapping({key: self._stacked(part) for key, part in outputs.entries.items()})
        return outputs

    def _carry_head(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Node):
            return self.phi([(self.current(value), ALWAYS)], "loop", value.name)
        if depth > 4:
            return value
        if isinstance(value, Sequence):
            made = Sequence([self._carry_head(part, depth + 1) for part in value.items], value.rest, value.kind)
            made.names = value.names
            return made
        if isinstance(value, Mapping):
            return Mapping({key: self._carry_head(part, depth + 1) for key, part in value.entries.items()})
        if isinstance(value, Instance) and value.cls is not None and not self.is_module(value):
            made_instance = Instance(value.cls, name=value.network.name)
            made_instance.attrs = {key: self._carry_head(part, depth + 1) for key, part in value.attrs.items()}
            return made_instance
        return value

    def _carry_back(self, head: Any, end: Any) -> None:
        if isinstance(head, Node):
            if head.op == "phi" and not isinstance(end, (Function, ClassValue)):
                for node in self.nodes_of(end)[:8]:
                    if node is not head:
                        head.inputs.append(Edge(node, True))
        elif isinstance(head, Sequence) and isinstance(end, Sequence):
            for one, other in zip(head.items, end.items, strict=False):
                self._carry_back(one, other)
        elif isinstance(head, Mapping) and isinstance(end, Mapping):
            for key, one in head.entries.items():
                if key in end.entries:
                    self._carry_back(one, end.entries[key])
        elif isinstance(head, Instance) and isinstance(end, Instance):
            for key, one in head.attrs.items():
                if key in end.attrs:
                    self._carry_back(one, end.attrs[key])

    def row_of(self, value: Any) -> Any:
        """What a scanned body sees of its inputs: one row of each."""
        if isinstance(value, Node):
            return self.node("getitem", [Edge(self.current(value))], detail="[t]", name=value.name)
        if isinstance(value, Sequence):
            made = Sequence([self.row_of(part) for part in value.items], value.rest, value.kind)
            made.names = value.names
            return made
        if isinstance(value, Mapping):
            return Mapping({key: self.row_of(part) for key, part in value.entries.items()})
        return value

    def _t_cond(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 3:
            return Unknown("cond")
        truth, when_true, when_false = self.condition_of(args[0])
        operands = args[3:] or ([keywords["operand"]] if "operand" in keywords else [])
        if truth is not None:
            return self.call(args[1] if truth else args[2], operands, {})
        results = [(self.call(args[1], operands, {}), when_true), (self.call(args[2], operands, {}), when_false)]
        return self.join(results, "switch" if when_true else "")

    def _t_switch(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) < 2 or not isinstance(args[1], Sequence):
            return Unknown("switch")
        return self.join([(self.call(branch, args[2:], {}), ALWAYS) for branch in args[1].items])

    def _t_select(self, row: Row, args: Args, keywords: Keywords) -> Any:
        if len(args) == 3:
            chosen = self._symbolic_choice(args)
            if chosen is not None:
                return chosen
            inputs = [self.index_edge(node) for node in self.nodes_of(args[0])[:2]]
            inputs += [Edge(self.tensor(args[1])), Edge(self.tensor(args[2]))]
            return self.node("where", inputs)
        return self.apply_row(row, args, keywords, op="where")

    def _symbolic_choice(self, args: Args) -> Any:
        """`where(flag, a, b)` on a hyper-parameter is a switch."""
        if isinstance(args[0], Const):
            return args[1] if args[0].value else args[2]
        if isinstance(args[0], Unknown) and (args[0].node is None or args[0].parameter):
            truth, when_true, when_false = self.condition_of(args[0])
            if truth is not None:
                return args[1] if truth else args[2]
            if when_true and isinstance(args[0].default, bool):
                return self.join([(args[1], when_true), (args[2], when_false)], "switch")
        return None


CONTROL: dict[str, Callable[[Any, Row, Args, Keywords], Any]] = {
    "scan": Control._t_scan,
    "while_loop": Control._t_while,
    "fori_loop": Control._t_fori,
    "cond": Control._t_cond,
    "switch": Control._t_switch,
    "select": Control._t_select,
    "where": Control._t_select,
}
