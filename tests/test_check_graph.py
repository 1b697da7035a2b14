"""--graph: what is drawn, as svg, html and dot."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("torch")

from check_cases import cases, run  # noqa: E402

from gradaudit.errors import UsageError  # noqa: E402
from gradaudit.report import graph  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name: str, suffix: str) -> str:
    target, case, _ = cases("check_torch")[name]
    return graph.render([run(target, case)], suffix)


def titles(root: ElementTree.Element, kind: str) -> list[str]:
    found = [one for one in root.iter() if kind in (one.get("class") or "").split()]
    return ["".join(one.itertext()) for one in found]


def test_svg_shows_the_leak_and_its_lines() -> None:
    root = ElementTree.fromstring(drawn("values::leak_q", ".svg"))
    assert any("lagged" in text and "frozen" in text for text in titles(root, "leaking"))
    (cut,) = titles(root, "cut")
    assert "goal = add" in cut and 'goal = batch["reward"] + gamma' in cut
    assert len(titles(root, "leak")) >= 4 and not titles(root, "stopped")


def test_svg_shows_the_stop() -> None:
    root = ElementTree.fromstring(drawn("values::ok_q", ".svg"))
    dashed = [one for one in root.iter(f"{SVG}path") if one.get("stroke-dasharray")]
    assert dashed and not titles(root, "leak")


def test_loops_are_drawn_once() -> None:
    root = ElementTree.fromstring(drawn("values::leak_lambda_in_loop", ".svg"))
    assert len(titles(root, "net")) == 3


def test_html_needs_nothing_else() -> None:
    text = drawn("actor_critic::leak_soft_critic", ".html")
    assert text.startswith("<!doctype html>") and "GA102 [error]" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text


def test_dot(tmp_path: Path) -> None:
    text = drawn("values::leak_q", ".dot")
    assert text.startswith("digraph ") and "color=red" in text and text.rstrip().endswith("}")


def test_unknown_kind() -> None:
    with pytest.raises(UsageError, match="--graph draws .html, .svg, .dot"):
        drawn("values::leak_q", ".png")
