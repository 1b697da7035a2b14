"""The documentation builds without a warning, every rule and system has its page, and no link leads nowhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from expectations import ROOT, fixtures

from gradaudit import catalog

MISSING = [name for name in ("mkdocs", "material") if importlib.util.find_spec(name) is None]
needs_mkdocs = pytest.mark.skipif(bool(MISSING), reason="mkdocs and mkdocs-material are not installed")
SYSTEMS = tomllib.loads((ROOT / "docs" / "systems.toml").read_text(encoding="utf-8"))["system"]


class Page(HTMLParser):
    """The links of a page and the places in it that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@needs_mkdocs
def test_every_rule_has_its_page(site: Path) -> None:
    index = (site / "rules" / "index.html").read_text(encoding="utf-8")
    for entry in catalog.entries():
        slug = f"{entry.code.lower()}-{entry.name}"
        page = (site / "rules" / slug / "index.html").read_text(encoding="utf-8")
        assert entry.code in page and "Why is this bad?" in page, slug
        assert f'href="{slug}/"' in index, slug


@needs_mkdocs
def test_every_system_has_its_page(site: Path) -> None:
    for system in SYSTEMS:
        page = (site / "systems" / system["slug"] / "index.html").read_text(encoding="utf-8")
        assert "A correct program" in page or "What goes wrong" in page, system["slug"]


@needs_mkdocs
def test_no_link_is_broken(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken = [
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        if path.name != "404.html"
        for link in page.links
        if not _leads_somewhere(path, link, pages)
    ]
    assert not broken, "\n".join(broken)


def _leads_somewhere(page: Path, link: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if file.is_dir():
        file /= "index.html"
    if not file.is_file():
        return False
    return not parts.fragment or file not in pages or parts.fragment in pages[file].anchors | {"__codelineno"}


@needs_mkdocs
def test_no_page_names_a_machine_or_shows_an_expectation(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"# expect(?:-missing)?\b", text), path
        assert not re.search(r"/(?:work|root|home)/\w", text), path


def test_every_pattern_of_a_system_names_a_fixture() -> None:
    names = [Path(fixture.name) for fixture in fixtures()]
    for system in SYSTEMS:
        for pattern in system["programs"]:
            assert any(name.match(pattern) for name in names), f"{system['slug']}: {pattern}"


def test_slugs_are_unique() -> None:
    slugs = [system["slug"] for system in SYSTEMS]
    assert len(set(slugs)) == len(slugs)
