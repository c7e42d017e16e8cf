"""The site of the docs builds without a warning, its links hold, nothing comes from elsewhere, every name is there."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import gmvq

for _package in ("mkdocs", "material", "mkdocstrings", "latex2mathml", "ziamath", "jupytext", "nbclient"):
    pytest.importorskip(_package)

ROOT = Path(gmvq.__file__).parents[2]
#: Where the public names of the API pages are listed.
PACKAGES = (
    "quantizers",
    "objectives",
    "models",
    "data",
    "training",
    "evaluation",
    "tokens",
    "prior",
    "export",
)
#: Attributes by which a page loads something, and does not merely point to it.
_LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}

pytestmark = [pytest.mark.xdist_group("site"), pytest.mark.timeout(900)]


class _Page(HTMLParser):
    """The anchors of a page, where it points to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in _LOADS and _LOADS[tag] in found:
            self.loads.append(found[_LOADS[tag]])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, with notebooks as they are written and not executed."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "GMVQ_DOCS_EXECUTE": "0", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, _Page]:
    # Not the page for addresses that do not exist, whose links begin at the root of a server.
    files = (file for file in site.rglob("*.html") if file.name != "404.html")
    return {file: _Page(file.read_text(encoding="utf-8")) for file in files}


def test_links_and_anchors_hold(site: Path, pages: dict[Path, _Page]) -> None:
    dead: list[str] = []
    for file, page in pages.items():
        for link in {*page.links, *page.loads}:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = file if not parts.path else (file.parent / urllib.parse.unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                dead.append(f"{file.relative_to(site)}: {link}")
    assert dead == []
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, _Page]) -> None:
    foreign = [load for page in pages.values() for load in page.loads if re.match(r"(\w+:)?//", load)]
    assert foreign == []
    styles = "\n".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]*", styles) == []
    text = (site / "index.html").read_text(encoding="utf-8")
    assert "unpkg" not in text
    assert "fonts.g" not in text


def _public_names() -> Iterator[tuple[str, str]]:
    """Each public name where it is public, and where it is defined."""
    for package in PACKAGES:
        module = importlib.import_module(f"gmvq.{package}")
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", module.__name__)
            yield f"gmvq.{package}.{name}", f"{home}.{name}"
    for name, where in gmvq._WHERE.items():
        yield f"gmvq.{where}.{name}", f"gmvq.{where}.{name}"


def test_every_public_name_has_a_place(site: Path, pages: dict[Path, _Page]) -> None:
    anchors = set().union(*(page.anchors for file, page in pages.items() if file.parent == site / "api"))
    assert [names for names in _public_names() if not anchors & set(names)] == []
    # Types of signatures lead to their own places.
    links = pages[site / "api" / "quantizers.html"].links
    assert any("QuantizerOutput" in link for link in links)


def test_formulas_and_figures(site: Path, pages: dict[Path, _Page]) -> None:
    text = (site / "mathematics.html").read_text(encoding="utf-8")
    assert text.count("<math ") > 200
    assert not any("arithmatex" in file.read_text(encoding="utf-8") for file in pages)
    shown = {Path(load).name for load in pages[site / "gallery.html"].loads}
    figures = {file.name for file in (ROOT / "docs").rglob("*.png") if file.parent.name != "images"}
    assert figures <= shown


def test_search_works_without_a_server(site: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        foreign: list[str] = []
        page.on("request", lambda request: foreign.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.fill("input.md-search__input", "straight-through share")
        page.wait_for_selector("a.md-search-result__link", timeout=30_000)
        found = page.locator("a.md-search-result__link").first.get_attribute("href")
        browser.close()
    assert found is not None
    assert ".html" in found
    assert [url for url in foreign if url.startswith("http")] == []
