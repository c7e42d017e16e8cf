"""``serve``: the page on this machine until it is stopped, without calls to elsewhere and without files that stay."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..screen import quiet
from .picture import MAX_BYTES

if TYPE_CHECKING:
    from ..models import VQAutoencoder
    from ..prior import TokenPrior

HOST = "127.0.0.1"
#: The browser may load nothing from elsewhere, whatever the page's scripts ask for.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    b"frame-ancestors 'self'"
)


@contextmanager
def serving(
    model: VQAutoencoder,
    prior: TokenPrior | None,
    *,
    title: str,
    port: int | None = None,
    share: bool = False,
) -> Iterator[list[str]]:
    """Serve the page for as long as the block lasts; yield its addresses, the local one first.

    Uploads and pictures lie in a temporary folder, which is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="gmvq-app-") as folder, _environment(folder):
        import gradio as gr
        from starlette.middleware import Middleware

        from .page import build_page

        with quiet():
            page = build_page(model, prior, title)
            page.queue(max_size=32)
            _, local, public = page.launch(
                server_name=HOST,
                server_port=port,
                share=share,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                # The server runs by then. Gradio would look at its address and give up after three seconds, which a
                # busy machine may take.
                _frontend=False,
                max_file_size=MAX_BYTES,
                state_session_capacity=100,
                theme=gr.themes.Base(
                    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
                app_kwargs={"middleware": [Middleware(_with_policy)]},
            )
        try:
            yield [address for address in (local, public) if address]
        finally:
            page.close(verbose=False)
            # Gradio gives the server five seconds to end, which a busy machine exceeds; then it waits for no browser.
            page.server.force_exit = True
            page.server.thread.join()


def wait() -> None:
    """Return never; Ctrl-C and SIGTERM raise KeyboardInterrupt."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Event().wait()


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Temporary files in a folder; Gradio without analytics, and without a proxy in front of this machine."""
    settings = {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("NO_PROXY", "no_proxy"):
        settings[name] = ",".join(filter(None, [os.environ.get(name), HOST, "localhost"]))
    before = {name: os.environ.get(name) for name in settings}, tempfile.tempdir
    os.environ.update(settings)
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = before[1]
        for name, value in before[0].items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _with_policy(app: Callable[..., Any]) -> Callable[..., Any]:
    """An ASGI application whose answers carry the policy."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", _POLICY)]
            await send(message)

        await app(scope, receive, with_header)

    return answer
