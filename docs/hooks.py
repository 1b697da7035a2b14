"""mkdocs hooks: the pages of rules, systems and limits are made here, out of docstrings and fixtures, and not kept."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import limits  # noqa: E402
import live  # noqa: E402
import rule_pages  # noqa: E402
import system_pages  # noqa: E402

_made: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Make the pages, and put them into the navigation."""
    programs = live.Programs()
    _made.clear()
    _made.update(system_pages.pages(programs))
    _made.update(rule_pages.pages(programs, system_pages.shown_in(programs)))
    _made["limits.md"] = limits.page(programs)
    for section in config.nav:
        (name,) = section
        if name == "Rules":
            section[name] = [path for path in _made if path.startswith("rules/")]
        if name == "Systems":
            section[name] = ["systems/index.md", *_grouped()]
    return config


def on_files(files: Files, config: Any) -> Files:
    for path, text in _made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`{{ run: lint examples/dqn.py }}` is what that command prints; check needs PyTorch."""
    return re.sub(r"\{\{ run: (.+?) \}\}", lambda found: _run(found[1].split()), markdown)


def _run(words: list[str]) -> str:
    if words[0] == "check" and "--help" not in words and importlib.util.find_spec("torch") is None:
        return "(PyTorch is not installed where this page was built)"
    return live.run(*words).rstrip()


def _grouped() -> list[dict[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for system in system_pages.systems():
        groups.setdefault(system.group, []).append(system.path)
    return [{group: paths} for group, paths in groups.items()]
