"""What the folder of ``gmvq export --web`` holds, and which package of the runtime it takes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="the page without a server needs the extra 'export'")
pytest.importorskip("skimage", reason="the example is in scikit-image")

from gmvq.app import web_page
from gmvq.app.picture import colour_table
from gmvq.app.web_page import ORT_FILES, ORT_URL, ORT_VERSION, runtime_files, write_web_page
from gmvq.models import VQAutoencoder
from gmvq.training import load_model


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the form of the real one, which counts as it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as written:
        for name in (*ORT_FILES, "other.js"):
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            written.addfile(entry, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    monkeypatch.setattr(web_page, "ORT_SHA512", digest)
    file = tmp_path / "ort.tgz"
    file.write_bytes(buffer.getvalue())
    return file


def test_the_folder_is_complete(here: Any, gmvq: Any, package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "web"
    result = gmvq("export", "runs/small", "--web", folder, "--ort", package, "--limit", "8")
    assert result.code == 0, result.err
    assert "indices equal" in result.out
    assert f"python -m http.server --directory {folder}" in result.err
    page = (folder / "index.html").read_text() + (folder / "app.js").read_text()
    for file in folder.iterdir():
        assert file.name in page or file.name in ("index.html", "export.json"), file
    assert "http://" not in page
    assert "https://" not in page
    described = json.loads((folder / "model.json").read_text())
    assert bytes.fromhex(described["colours"]) == colour_table(load_model(here.run_dir)).tobytes()
    assert (described["channels"], described["downsample"], described["codebook_size"]) == (3, 4, 16)
    assert (folder / ORT_FILES[1]).read_bytes() == ORT_FILES[1].encode()


def test_another_package_is_refused(package: Path, tmp_path: Path, model: VQAutoencoder) -> None:
    package.write_bytes(package.read_bytes() + b"x")
    with pytest.raises(ValueError, match="its SHA-512 differs"):
        runtime_files(str(package))
    with pytest.raises(ValueError, match="its SHA-512 differs"):
        write_web_page(model, tmp_path / "web", str(package))
    assert not (tmp_path / "web").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--web", "x"], f"npm pack onnxruntime-web@{ORT_VERSION}"),
        (["--web", "x"], ORT_URL),
        (["--out", "x", "--ort", "y"], "--web and --ort go together"),
        (["--web", "x", "--ort", "y", "--format", "aoti"], "--web runs ONNX files, got --format aoti"),
        (["--web", "x", "--ort", "nowhere.tgz"], "nowhere.tgz"),
        (["--web", "x", "--out", "y"], "not allowed with"),
    ],
)
def test_misuse(here: Any, gmvq: Any, arguments: list[str], message: str) -> None:
    result = gmvq("export", "runs/small", *arguments)
    assert result.code == 2
    assert message in result.err
    assert not Path("x").exists()


@pytest.mark.parametrize("address", ["https://a b", "https://", "https://x:y/", "https://127.0.0.1:9/x.tgz"])
def test_addresses_that_give_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is made here: the guard refuses it, as a network may."""
    with pytest.raises(ValueError, match=f"cannot fetch {address}"):
        web_page.runtime_files(address)
