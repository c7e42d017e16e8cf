"""The two pictures of docs/app.md: ``python tests/app/screenshots.py RUN docs/images``."""

from __future__ import annotations

import sys
from pathlib import Path

from pages import browser, visit
from playwright.sync_api import expect

from gmvq.app.serve import serving
from gmvq.training import load_model


def main(run: str, out: Path) -> None:
    """Open the example on a desktop, and look at a position on a phone."""
    out.mkdir(parents=True, exist_ok=True)
    options = {"full_page": True, "type": "jpeg", "quality": 80}
    with serving(load_model(run), None, title=Path(run).name) as addresses, browser() as opened:
        for size in ("desktop", "phone"):
            with visit(opened, addresses[0], size) as (page, _):
                page.get_by_role("button", name="Use an example").click()
                expect(page.get_by_text(" dB")).to_be_visible()
                expect(page.get_by_alt_text("Uncertainty map")).to_be_visible()
                if size == "phone":
                    page.get_by_role("tab", name="Codes").click()
                    tokens = page.get_by_alt_text("Tokens: one colour for each code, near codes alike")
                    tokens.click(position={"x": 150, "y": 88})
                    expect(page.get_by_role("button", name="Thumbnail 4 of 4")).to_be_visible()
                page.wait_for_function("[...document.images].every((one) => one.complete)")
                page.screenshot(path=out / f"app-{size}.jpg", **options)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
