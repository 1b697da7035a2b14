"""`gradaudit check --graph FILE`: the tape from the loss to its leaves, the leak in colour, stops as dashed edges."""

from __future__ import annotations

import linecache
from collections.abc import Sequence

from gradaudit.check import CheckReport
from gradaudit.dynamic.judgement import call_location
from gradaudit.dynamic.recording import NONE, Recording
from gradaudit.errors import UsageError
from gradaudit.paths import Analysis
from gradaudit.report.drawing import Box, Drawing, Line, page, svg
from gradaudit.tape import Frame, Location, Node

FORMATS = (".html", ".svg", ".dot")
MOST = 400
"""Boxes beyond which what lies nearest to the data is left out."""


def render(reports: Sequence[CheckReport], suffix: str) -> str:
    """The text of a file of this kind. Raises UsageError for a kind we cannot draw."""
    if suffix not in FORMATS:
        raise UsageError(f"--graph draws {', '.join(FORMATS)} files, not {suffix!r}")
    every = [part for report in reports for part in (report.parts or [report])]
    drawings = [draw(report) for report in every if report.recording is not None]
    if suffix == ".html":
        return page(drawings)
    if suffix == ".dot":
        return "".join(map(dot, drawings))
    if len(drawings) != 1:
        raise UsageError("--graph draws one loss into an .svg; use .html for several")
    return svg(drawings[0]) + "\n"


def draw(report: CheckReport) -> Drawing:
    assert report.recording is not None
    return _Builder(report, report.recording).build()


class _Builder:
    def __init__(self, report: CheckReport, recording: Recording) -> None:
        self.report = report
        self.recording = recording
        self.analysis = Analysis(recording.tape)
        self.loss = recording.tape.sinks[0].loss
        self.groups = {leaf: group for group in recording.groups for leaf in group.leaves}
        self.leaks = {name for judgement in report.judgements for name in judgement.leaks}
        self.cuts = {node for judgement in report.judgements for node in judgement.nodes}
        self.drawing = Drawing(f"{report.target}  ({report.framework}, loss {report.loss:.6g})")
        self.keys: dict[Node, str] = {}

    def build(self) -> Drawing:
        drawing = self.drawing
        drawing.notes = [
            f"{one.location.path}:{one.location.line} {one.code} [{one.severity}] {one.message}"
            for one in self.report.findings
        ] or ["no findings"]
        nodes = self._nodes()
        for node in nodes:
            key = self._key(node)
            box = drawing.boxes.get(key)
            if box is None:
                box = drawing.boxes[key] = self._box(key, node)
            box.cut |= node in self.cuts
        leaking = self._leaking(nodes)
        self._lines(nodes, leaking)
        self._in_order()
        return drawing

    def _nodes(self) -> list[Node]:
        """What the loss is made of, the latest first; plain numbers are left out."""
        seen, waiting = {self.loss}, [self.loss]
        while waiting:
            for edge in waiting.pop().inputs:
                if edge.source not in seen and edge.source.op != "const":
                    seen.add(edge.source)
                    waiting.append(edge.source)
        ordered = sorted(seen, key=lambda node: -node.time)
        kept: list[Node] = []
        keys: set[str] = set()
        for node in ordered:
            keys.add(self._key(node))
            if len(keys) <= MOST or node.leaf is not None:
                kept.append(node)
        return kept

    def _key(self, node: Node) -> str:
        known = self.keys.get(node)
        if known is None:
            known = self.keys[node] = self._new_key(node)
        return known

    def _new_key(self, node: Node) -> str:
        if node is self.loss:
            return "loss"
        if node.leaf is not None:
            group = self.groups.get(node)
            return f"group {group.name}" if group else f"leaf {node.leaf.path or node.time}"
        outer = _outermost(node.frame)
        if outer is not None and node not in self.cuts:
            return f"net {outer.network.path} {_chain(node, outside=True)}"
        where = node.location
        return f"op {node.op} {where.column}:{where.end_column} {_chain(node)}"

    def _box(self, key: str, node: Node) -> Box:
        place = _place(node)
        if key == "loss":
            return Box(key, ("loss", f"{self.report.loss:.6g}"), self._hint(node), "loss")
        if node.leaf is not None:
            return self._leaf(key, node)
        if key.startswith("net "):
            outer = _outermost(node.frame)
            assert outer is not None
            where = call_location(node)
            label = (outer.network.path or outer.network.class_name, _short(where))
            return Box(key, label, self._source(where), "net")
        kind = "stop" if node.op == "stop" or not node.grad_mode else "op"
        what = node.detail if node.op == "stop" and node.detail.isidentifier() else node.op
        first = f"{node.name} = {what}" if node.name else what
        return Box(key, (first[:38], place), self._hint(node), kind)

    def _leaf(self, key: str, node: Node) -> Box:
        group = self.groups.get(node)
        if group is None:
            leaf = node.leaf
            assert leaf is not None
            return Box(key, (leaf.path or leaf.kind,), f"{leaf.kind} {leaf.path}", "input")
        state = {"none": "no path", "zero": "zero on these inputs"}.get(group.state, f"gradient {group.norm:.3g}")
        kind = "trained" if group.state != NONE else "frozen"
        label = (group.name, f"{group.role} {state}".strip())
        return Box(key, label, f"{group.tensors} tensors", kind, leak=group.name in self.leaks)

    def _hint(self, node: Node) -> str:
        mode = "" if node.grad_mode else "  (gradient switched off)"
        return self._source(node.location) + mode if node.location.line else node.op

    @staticmethod
    def _source(where: Location) -> str:
        return f"{where.path}:{where.line}  {linecache.getline(where.path, where.line).strip()}"

    def _leaking(self, nodes: list[Node]) -> set[Node]:
        """Everything between the cuts and the leaves that leak, by gradient, and from the cuts up to the loss."""
        leaves = {leaf for leaf, group in self.groups.items() if group.name in self.leaks}
        down = {node for node in self.cuts}
        waiting = list(down)
        while waiting:
            for edge in waiting.pop().inputs:
                if edge.passes and edge.source not in down:
                    down.add(edge.source)
                    waiting.append(edge.source)
        users: dict[Node, list[Node]] = {}
        for node in nodes:
            for edge in node.inputs:
                if edge.passes:
                    users.setdefault(edge.source, []).append(node)
        ends = [leaf for leaf in leaves if leaf in down] or [node for node in self.cuts if node in users]
        up = set(ends)
        waiting = list(ends)
        while waiting:
            for user in users.get(waiting.pop(), ()):
                if user not in up and (user in down or _reaches(user, self.cuts)):
                    up.add(user)
                    waiting.append(user)
        return up

    def _lines(self, nodes: list[Node], leaking: set[Node]) -> None:
        found: dict[tuple[str, str], Line] = {}
        for node in nodes:
            for edge in node.inputs:
                source, target = self.keys.get(edge.source), self._key(node)
                if source is None or source == target or source not in self.drawing.boxes:
                    continue
                line = found.get((source, target))
                if line is None:
                    line = found[source, target] = Line(source, target, True, True, hint=self._hint(node))
                line.stopped &= not edge.passes
                line.data &= not edge.passes and not self.analysis.alive(edge.source)
                line.leak |= edge.passes and edge.source in leaking and node in leaking
        for line in found.values():
            line.stopped &= not line.data
        self.drawing.lines = list(found.values())

    def _in_order(self) -> None:
        """Boxes with their users first; what a loop or a merged box turns round is left as it comes."""
        users: dict[str, set[str]] = {key: set() for key in self.drawing.boxes}
        for line in self.drawing.lines:
            users[line.source].add(line.target)
        done: dict[str, None] = {}
        waiting = list(self.drawing.boxes)
        while waiting:
            rest = [key for key in waiting if users[key] - set(done)]
            ready = [key for key in waiting if key not in set(rest)] or [waiting[0]]
            done.update(dict.fromkeys(ready))
            waiting = [key for key in waiting if key not in done]
        drawing = self.drawing
        position = {key: index for index, key in enumerate(done)}
        drawing.boxes = {key: drawing.boxes[key] for key in done}
        drawing.lines = [line for line in drawing.lines if position[line.target] < position[line.source]]


def _outermost(frame: Frame | None) -> Frame | None:
    while frame is not None and frame.parent is not None:
        frame = frame.parent
    return frame


def _place(node: Node) -> str:
    return _short(node.location)


def _short(where: Location) -> str:
    return f"{where.path.rpartition('/')[2]}:{where.line}" if where.line else ""


def _chain(node: Node, outside: bool = False) -> str:
    """The lines that a node was made through: what a loop repeats is one, a helper of two callers is two."""
    start = call_location(node) if outside else node.location
    lines = [f"{start.path}:{start.line}"]
    call = node.call
    while call is not None:
        where = call.location
        if not outside or len(lines) > 1 or (where.path, where.line) != (start.path, start.line):
            lines.append(f"{where.path}:{where.line}")
        call = call.parent
    return "|".join(lines if not outside else [lines[0], *lines[-2:]])


def _reaches(node: Node, goals: set[Node]) -> bool:
    """Whether gradient goes from this node down to one of the goals."""
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        if one in goals:
            return True
        for edge in one.inputs:
            if edge.passes and edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return False


def dot(drawing: Drawing) -> str:
    """The drawing for Graphviz."""
    names = {key: f"n{index}" for index, key in enumerate(drawing.boxes)}
    lines = [f"digraph {_quoted(drawing.title)} {{", "  rankdir=BT;", '  node [shape=box, style="rounded,filled"];']
    for key, box in drawing.boxes.items():
        colour = "red" if box.leak or box.cut else "gray60"
        label = _quoted("\n".join(box.label))
        fill = "mistyrose" if box.leak else "gray97"
        lines.append(f"  {names[key]} [label={label}, tooltip={_quoted(box.hint)}, color={colour}, fillcolor={fill}];")
    for line in drawing.lines:
        style = "dashed" if line.stopped else "bold" if line.leak else "dotted" if line.data else "solid"
        colour = "red" if line.leak else "gray40"
        hint = _quoted(line.hint)
        lines.append(f"  {names[line.source]} -> {names[line.target]} [style={style}, color={colour}, tooltip={hint}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
