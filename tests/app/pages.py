"""The two pages in a real browser: the system's Chromium, driven by Playwright; no browser is downloaded."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gmvq.app.web_page import ORT_VERSION

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Where ``make test`` puts the package of onnxruntime-web.
ORT_FILE = Path(__file__).parents[2] / "build" / f"onnxruntime-web-{ORT_VERSION}.tgz"
#: Milliseconds that anything may take, on a busy machine.
_PATIENCE = 30_000
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """An open browser without a window."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def visit(opened: Browser, address: str, size: str) -> Iterator[tuple[Page, list[str]]]:
    """A page of a size, and the addresses elsewhere and the errors that turn up while it is open."""
    width, height = SIZES[size]
    page = opened.new_page(viewport={"width": width, "height": height}, has_touch=size == "phone")
    page.set_default_timeout(_PATIENCE)
    wrong: list[str] = []
    own = ("data:", "blob:", address)
    page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda text: wrong.append(text.text) if text.type == "error" else None)
    try:
        page.goto(address)
        yield page, wrong
    finally:
        page.close()


@contextmanager
def static_files(folder: Path) -> Iterator[str]:
    """The address of a server of static files, such as ``python -m http.server``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
