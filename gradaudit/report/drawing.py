"""A layered drawing of a graph as SVG, and a page around it that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

CHARACTER = 7.2
LINE = 15
PADDING = 10
GAP_X = 26
GAP_Y = 54
SWEEPS = 8

COLOURS = {
    "loss": ("#1f2937", "#ffffff"),
    "op": ("#f3f4f6", "#111827"),
    "net": ("#e0e7ff", "#1e1b4b"),
    "input": ("#ffffff", "#4b5563"),
    "trained": ("#dcfce7", "#14532d"),
    "frozen": ("#e5e7eb", "#374151"),
    "leak": ("#fee2e2", "#7f1d1d"),
    "stop": ("#fef9c3", "#713f12"),
}


@dataclass(slots=True)
class Box:
    """One vertex: what is written on it, what a pointer that rests on it is told, and its kind (a colour)."""

    key: str
    label: tuple[str, ...]
    hint: str = ""
    kind: str = "op"
    leak: bool = False
    cut: bool = False
    layer: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return max((len(line) for line in self.label), default=1) * CHARACTER + 2 * PADDING

    @property
    def height(self) -> float:
        return len(self.label) * LINE + PADDING


@dataclass(slots=True)
class Line:
    """From a value to what uses it. `stopped`: gradient could come this far and does not; `data`: there is none."""

    source: str
    target: str
    stopped: bool = False
    data: bool = False
    leak: bool = False
    hint: str = ""


@dataclass(slots=True)
class Drawing:
    title: str
    boxes: dict[str, Box] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def lay_out(drawing: Drawing) -> None:
    """Layers from the loss down, each ordered by where its neighbours are."""
    users: dict[str, list[str]] = {key: [] for key in drawing.boxes}
    sources: dict[str, list[str]] = {key: [] for key in drawing.boxes}
    for line in drawing.lines:
        users[line.source].append(line.target)
        sources[line.target].append(line.source)
    _layers(drawing, users)
    rows: dict[int, list[str]] = {}
    for key, box in drawing.boxes.items():
        rows.setdefault(box.layer, []).append(key)
    place = {key: float(index) for row in rows.values() for index, key in enumerate(row)}
    for sweep in range(SWEEPS):
        near = users if sweep % 2 == 0 else sources
        for number in sorted(rows, reverse=sweep % 2 == 1):
            row = rows[number]
            row.sort(key=lambda key: _centre(key, near, place))
            place.update((key, index - len(row) / 2) for index, key in enumerate(row))
    _coordinates(drawing, rows)


def _layers(drawing: Drawing, users: dict[str, list[str]]) -> None:
    """The longest way to the loss; the order of `boxes` is one in which users come first."""
    for key, box in drawing.boxes.items():
        above = [drawing.boxes[user].layer + 1 for user in users[key] if user != key]
        box.layer = max(above, default=0)


def _centre(key: str, near: dict[str, list[str]], place: dict[str, float]) -> float:
    around = [place[one] for one in near[key]]
    return sum(around) / len(around) if around else place[key]


def _coordinates(drawing: Drawing, rows: dict[int, list[str]]) -> None:
    boxes = drawing.boxes
    widths = {n: sum(boxes[key].width + GAP_X for key in row) for n, row in rows.items()}
    drawing.width = max(widths.values(), default=0.0) + GAP_X
    y = GAP_Y / 2
    for number in sorted(rows):
        x = (drawing.width - widths[number]) / 2 + GAP_X / 2
        tallest = max(boxes[key].height for key in rows[number])
        for key in rows[number]:
            box = boxes[key]
            box.x, box.y = x, y + (tallest - box.height) / 2
            x += box.width + GAP_X
        y += tallest + GAP_Y
    drawing.height = y


def svg(drawing: Drawing) -> str:
    """The drawing as one SVG element; the leak is drawn last, on top."""
    lay_out(drawing)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}"'
        f' width="{drawing.width:.0f}" height="{drawing.height:.0f}" font-family="ui-monospace, Menlo, monospace"'
        ' font-size="12">',
        f"<title>{escape(drawing.title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="context-stroke"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    parts += [_line(drawing, line) for line in sorted(drawing.lines, key=lambda line: line.leak)]
    parts += [_box(box) for box in drawing.boxes.values()]
    return "\n".join([*parts, "</svg>"])


def _line(drawing: Drawing, line: Line) -> str:
    start, end = drawing.boxes[line.source], drawing.boxes[line.target]
    x1, y1 = start.x + start.width / 2, start.y
    x2, y2 = end.x + end.width / 2, end.y + end.height
    bend = max((y1 - y2) / 2, 18)
    colour = "#dc2626" if line.leak else "#b45309" if line.stopped else "#cbd5e1" if line.data else "#374151"
    dashes = ' stroke-dasharray="5 4"' if line.stopped else ""
    kind = "stopped" if line.stopped else "leak" if line.leak else "data" if line.data else "passes"
    return (
        f'<path class="{kind}" data-from="{escape(line.source)}" data-to="{escape(line.target)}"'
        f' d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 - bend:.1f} {x2:.1f} {y2 + bend:.1f} {x2:.1f} {y2:.1f}"'
        f' fill="none" stroke="{colour}" stroke-width="{2.4 if line.leak else 1.2}"{dashes} marker-end="url(#tip)">'
        f"<title>{escape(line.hint)}</title></path>"
    )


def _box(box: Box) -> str:
    fill, ink = COLOURS["leak" if box.leak and box.kind in ("trained", "frozen") else box.kind]
    stroke = "#dc2626" if box.leak or box.cut else "#9ca3af"
    width = 3 if box.cut else 1.6 if box.leak else 1
    lines = "".join(
        f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + PADDING / 2 + LINE * (index + 0.8):.1f}"'
        f' text-anchor="middle" fill="{ink}">{escape(text)}</text>'
        for index, text in enumerate(box.label)
    )
    return (
        f'<g class="box {box.kind}{" leaking" if box.leak else ""}{" cut" if box.cut else ""}"'
        f' data-key="{escape(box.key)}"><title>{escape(box.hint)}</title>'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6"'
        f' fill="{fill}" stroke="{stroke}" stroke-width="{width}"/>{lines}</g>'
    )


_STYLE = """
body { margin: 0; font: 14px/1.5 system-ui, sans-serif; color: #111827; background: #f9fafb; }
header { padding: 14px 20px; background: #ffffff; border-bottom: 1px solid #e5e7eb; }
h1 { font-size: 16px; margin: 0 0 4px; }
ul { margin: 4px 0 0; padding-left: 18px; }
.key span { margin-right: 16px; white-space: nowrap; }
.key i { display: inline-block; width: 26px; vertical-align: middle; border-top: 2px solid #374151; margin-right: 5px; }
.key .stopped { border-top-style: dashed; border-color: #b45309; }
.key .data { border-color: #cbd5e1; }
.key .leak { border-color: #dc2626; border-top-width: 3px; }
main { overflow: auto; padding: 10px; }
svg { display: block; margin: 0 auto; background: #ffffff; border: 1px solid #e5e7eb; border-radius: 8px; }
.box { cursor: default; }
.dim { opacity: 0.18; }
@media (prefers-color-scheme: dark) { svg { filter: none; } }
"""

_SCRIPT = """
const boxes = [...document.querySelectorAll('.box')], lines = [...document.querySelectorAll('path[data-from]')];
for (const box of boxes) {
  box.addEventListener('mouseenter', () => {
    const near = new Set([box.dataset.key]);
    for (const line of lines) {
      const mine = line.dataset.from === box.dataset.key || line.dataset.to === box.dataset.key;
      line.classList.toggle('dim', !mine);
      if (mine) { near.add(line.dataset.from); near.add(line.dataset.to); }
    }
    for (const other of boxes) other.classList.toggle('dim', !near.has(other.dataset.key));
  });
  box.addEventListener('mouseleave', () => {
    for (const one of [...boxes, ...lines]) one.classList.remove('dim');
  });
}
"""


def page(drawings: list[Drawing]) -> str:
    """A self-contained page: for each drawing its findings, a key and the picture."""
    sections = []
    for drawing in drawings:
        notes = "".join(f"<li>{escape(note)}</li>" for note in drawing.notes)
        sections.append(
            f"<header><h1>{escape(drawing.title)}</h1>"
            '<div class="key"><span><i></i>gradient</span><span><i class="stopped"></i>stopped</span>'
            '<span><i class="data"></i>data</span>'
            '<span><i class="leak"></i>leak</span><span>rest on a box for its source line</span></div>'
            f"<ul>{notes}</ul></header><main>{svg(drawing)}</main>"
        )
    title = escape(drawings[0].title if drawings else "gradaudit")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}<script>{_SCRIPT}</script></body></html>\n"
    )
