"""The server of the page: on this machine alone, nothing loaded from elsewhere, nothing left behind."""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs the extra 'app'")

from gmvq.app import serve
from gmvq.app.picture import MAX_BYTES
from gmvq.app.serve import serving
from gmvq.models import VQAutoencoder
from gmvq.prior import TokenPrior, TokenSpec

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def test_local_and_gone_when_it_ends(
    model: VQAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    with serving(model, None, title="small", port=free_port()) as addresses:
        assert len(addresses) == 1
        assert addresses[0].startswith("http://127.0.0.1:")
        assert len(list(tmp_path.iterdir())) == 1
        with direct.open(addresses[0]) as answer:
            assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        config = direct.open(addresses[0] + "config").read().decode()
        assert '"analytics_enabled":false' in config
        with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
            direct.open(addresses[0] + "gradio_api/file=/etc/passwd")
        with pytest.raises(urllib.error.HTTPError, match="413"):
            direct.open(upload_of(addresses[0], MAX_BYTES + 1))
    assert list(tmp_path.iterdir()) == []
    assert "GRADIO_TEMP_DIR" not in os.environ
    assert tempfile.tempdir == str(tmp_path)
    with pytest.raises(urllib.error.URLError):
        direct.open(addresses[0], timeout=2)


def free_port() -> int:
    """A port that no other server will look for, unlike those from 7860 on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def upload_of(address: str, size: int) -> urllib.request.Request:
    """An upload of so many bytes."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return urllib.request.Request(
        address + "gradio_api/upload", head + bytes(size) + b"\r\n--x--\r\n", headers, method="POST"
    )


def test_a_machine_too_busy_to_answer_gradio_in_time(
    model: VQAutoencoder, monkeypatch: pytest.MonkeyPatch, direct: Any
) -> None:
    from gradio import networking

    monkeypatch.setattr(networking, "url_ok", lambda _: False)
    with serving(model, None, title="small") as addresses, direct.open(addresses[0]) as answer:
        assert answer.status == 200


def test_a_machine_too_busy_for_gradio_to_see_the_end(
    model: VQAutoencoder, monkeypatch: pytest.MonkeyPatch, direct: Any
) -> None:
    from gradio.http_server import Server

    monkeypatch.setattr(Server, "close", lambda server: setattr(server, "should_exit", True))
    with serving(model, None, title="small", port=free_port()) as addresses:
        pass
    with pytest.raises(urllib.error.URLError):
        direct.open(addresses[0], timeout=2)


def test_a_taken_port(model: VQAutoencoder) -> None:
    with serving(model, None, title="one") as addresses:
        port = int(addresses[0].rstrip("/").rpartition(":")[2])
        with pytest.raises(OSError, match=str(port)), serving(model, None, title="two", port=port):
            pass


def test_the_command(here: Any, gmvq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "wait", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    result = gmvq("app", "runs/small")
    assert result.code == 0, result.err
    assert result.out.startswith("small: http://127.0.0.1:")
    assert "stopped; what was uploaded is gone" in result.err


@pytest.mark.parametrize("options", [[], ["--port", "7999"], ["--share"], ["--prior", "PRIOR"]], ids=" ".join)
def test_options_reach_the_server(
    here: Any, gmvq: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    served: list[dict[str, Any]] = []

    @contextmanager
    def noted(model: VQAutoencoder, prior: TokenPrior | None, **more: Any) -> Iterator[list[str]]:
        served.append({**more, "prior": prior})
        yield ["here"]

    monkeypatch.setattr(serve, "serving", noted)
    monkeypatch.setattr(serve, "wait", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    prior = TokenPrior(TokenSpec((2, 2), codebook_size=16), "masked")
    prior.save_pretrained(tmp_path / "prior")
    result = gmvq(
        "app", "runs/small", *(str(tmp_path / "prior") if one == "PRIOR" else one for one in options)
    )
    assert result.code == 0, result.err
    (found,) = served
    drawn_from = found.pop("prior")
    asked = {"port": 7999} if "--port" in options else {"share": True} if "--share" in options else {}
    assert found == {"title": "small", "port": None, "share": False, **asked}
    assert (drawn_from and drawn_from.spec) == (prior.spec if "--prior" in options else None)
    assert ("no public address" in result.err) == ("--share" in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/smal"], "did you mean runs/small?"),
        (["runs/small", "--prior", "runs/nothing"], "runs/nothing"),
        (["runs/small", "--port", "x"], "expected a positive whole number"),
    ],
)
def test_misuse(here: Any, gmvq: Any, arguments: list[str], message: str) -> None:
    result = gmvq("app", *arguments)
    assert result.code == 2
    assert message in result.err
