"""``write_web_page``: a folder that runs a tokenizer in the browser, behind any server of static files."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import as_value_error
from ..evaluation.pictures import png_bytes, to_picture
from ..export import export_model
from ..files import write_bytes, write_text
from ..reading import read_bytes
from .picture import channels_of, check_model, colour_table, downsample_of, example_picture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..models import VQAutoencoder

#: The runtime of the page: one version, and the SHA-512 of its package as the npm registry states it.
ORT_VERSION = "1.30.0"
ORT_URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{ORT_VERSION}.tgz"
ORT_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ORT_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_MAX_BYTES = 100 * 2**20
_OWN = ("index.html", "style.css", "app.js")


def write_web_page(
    model: VQAutoencoder,
    directory: str | os.PathLike[str],
    ort: str,
    *,
    images: Tensor | Iterable[Tensor] | None = None,
    source: str = "",
) -> dict[str, Any]:
    """Write the page: its own three files, the two ONNX graphs, an example, and onnxruntime-web; return the notes.

    ``ort`` is the npm package of onnxruntime-web ``ORT_VERSION``, a file or an https address. ``images`` and ``source``
    are as in ``export_model``, which compares the graphs with the model and makes the notes.
    """
    check_model(model)
    runtime = runtime_files(ort)
    folder = Path(directory)
    notes = export_model(model, folder, "onnx", images=images, source=source)
    for name, data in runtime.items():
        write_bytes(folder / name, data)
    for name in _OWN:
        write_bytes(folder / name, read_bytes(Path(__file__).parent / "web" / name))
    # In colour: a page for grey pictures turns it grey itself.
    write_bytes(folder / "example.png", png_bytes(to_picture(example_picture(3))))
    described = {
        "channels": channels_of(model),
        "downsample": downsample_of(model),
        "codebook_size": model.quantizer.codebook_size,
        "colours": colour_table(model).tobytes().hex(),
        "onnxruntime_web": ORT_VERSION,
    }
    write_text(folder / "model.json", json.dumps(described))
    return notes


def runtime_files(ort: str) -> dict[str, bytes]:
    """The two files of onnxruntime-web that the page needs, out of its npm package."""
    data = _fetched(ort) if ort.startswith("https://") else read_bytes(Path(ort).expanduser(), _MAX_BYTES)
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != ORT_SHA512:
        raise ValueError(
            f"{ort} is not the package onnxruntime-web {ORT_VERSION} (its SHA-512 differs); fetch it with: "
            f"npm pack onnxruntime-web@{ORT_VERSION}, or give --ort {ORT_URL}"
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        members = {name: package.extractfile(f"package/dist/{name}") for name in ORT_FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def _fetched(address: str) -> bytes:
    advice = "check the address and the network, or give --ort a file"
    with (
        as_value_error(f"cannot fetch {address}", OSError, HTTPException, ValueError, advice=advice),
        urllib.request.urlopen(address, timeout=60) as answer,
    ):
        return answer.read(_MAX_BYTES)
