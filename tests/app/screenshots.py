"""The pictures of the docs: ``make docs; python tests/app/screenshots.py RUN docs/images``.

The page of ``gmvq app`` on a desktop and on a phone, the run's report, and the first page of the site.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from pages import browser, static_files, visit
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from gmvq.app.serve import serving
from gmvq.training import load_model


def main(run: Path, out: Path) -> None:
    """Take all four."""
    out.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        with serving(load_model(str(run)), None, title=run.name) as addresses:
            _app(opened, addresses[0], out)
        with static_files(run) as address:
            _still(opened, f"{address}report.html", out / "report.webp")
        with static_files(Path(__file__).parents[2] / "site") as address:
            _still(opened, address, out / "site.webp")


def _app(opened: Browser, address: str, out: Path) -> None:
    """Open the example on a desktop, and look at a position on a phone."""
    for size in ("desktop", "phone"):
        with visit(opened, address, size) as (page, _):
            page.get_by_role("button", name="Use an example").click()
            expect(page.get_by_text(" dB")).to_be_visible()
            expect(page.get_by_alt_text("Uncertainty map")).to_be_visible()
            if size == "phone":
                page.get_by_role("tab", name="Codes").click()
                tokens = page.get_by_alt_text("Tokens: one colour for each code, near codes alike")
                tokens.click(position={"x": 150, "y": 88})
                expect(page.get_by_role("button", name="Thumbnail 4 of 4")).to_be_visible()
            _save(page, out / f"app-{size}.webp", whole=True)


def _still(opened: Browser, address: str, path: Path) -> None:
    with visit(opened, address, "desktop") as (page, _):
        _save(page, path, whole=False)


def _save(page: Page, path: Path, *, whole: bool) -> None:
    """A small file of what the page shows, once all its pictures are there."""
    page.wait_for_function("[...document.images].every((one) => one.complete)")
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole)))
    picture.convert("RGB").save(path, quality=80, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
