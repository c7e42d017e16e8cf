"""``export_model``: write, load again, compare with the model, and only then keep."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..environment import versions
from ..errors import check_choice, require
from ..files import is_running, telling_full_disk, write_json
from ..models.weights import model_digest
from ..quantizers import GaussianMixtureVQ
from .check import compare
from .files import FORMAT_VERSION, SIDECAR, Exported, file_digest
from .formats import FORMATS, PACKAGES, check_compiler, write_graph
from .graphs import Signature, graphs_of, plain_copy, signature_of

if TYPE_CHECKING:
    from ..models import VQAutoencoder


def export_model(
    model: VQAutoencoder,
    directory: str | os.PathLike[str],
    format: str = "onnx",
    *,
    images: Tensor | Iterable[Tensor] | None = None,
    source: str = "",
    opset: int = 18,
    channels: int | None = None,
    downsample: int | None = None,
    spatial_dims: int | None = None,
) -> dict[str, Any]:
    """Write a tokenizer as two graphs, images to indices and indices to images, with a free batch and free sizes.

    Weights and arithmetic are float32. The files are written to a temporary folder, loaded with their own engine and
    compared with the model on images of several batch sizes and sizes (``gmvq.export.check``); they are kept if they
    agree, and leave the folder as it was if not.

    Args:
        model: the trained model; it is not changed.
        directory: the folder to write to, created if needed: two files and ``export.json``.
        format: ``"onnx"`` (needs the extra ``export``), ``"torch-export"``, or ``"aoti"`` (compiled for the CPU of
            this machine; needs a C++ compiler).
        images: a batch (B, C, *size) in [0, 1], or batches, to compare on; default: smooth random images.
        source: what these images are, for export.json.
        opset: of ONNX.
        channels, downsample, spatial_dims: of networks that are not this package's own.

    Returns:
        What export.json holds: signature, digests, versions, and how well the files agree with the model.

    Raises:
        ValueError: an unknown format, or a model that cannot be exported.
        ExportMismatchError: the files do not compute what the model computes.
        FileNotFoundError: no C++ compiler for ``"aoti"``.
        MissingExtraError: a package for ``"onnx"`` is absent.

    Example:
        >>> notes = export_model(model, "exported", "onnx", images=images)
        >>> notes["check"]["differing"]
        0
    """
    check_choice("format", format, tuple(FORMATS))
    for package in PACKAGES[format]:
        require(package, "export")
    if format == "aoti":
        check_compiler()
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise ValueError(f"an export is a folder, but {target} is a file")
    if isinstance(images, Tensor):
        images = [images]
    plain = plain_copy(model)
    if not all(part.started for part in plain.modules() if isinstance(part, GaussianMixtureVQ)):
        raise ValueError(
            "the model has no codebook yet: train it, or start it with model.quantizer.init_codebook(latents)"
        )
    signature = signature_of(plain, channels=channels, downsample=downsample, spatial_dims=spatial_dims)
    notes = _notes(model, signature, format, opset)
    target.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    scratch = Path(tempfile.mkdtemp(prefix=f".export-{os.getpid()}-", dir=target))
    try:
        for graph, name in zip(graphs_of(plain, signature), FORMATS[format], strict=True):
            with telling_full_disk(target / name, scratch / name):
                write_graph(graph, scratch / name, signature, notes)
        found = compare(plain, Exported(scratch, notes), signature, images, source=source)
        notes["check"] = found.to_dict()
        notes["digests"] = {name: file_digest(scratch / name) for name in FORMATS[format]}
        write_json(scratch / SIDECAR, notes)
        for name in (*FORMATS[format], SIDECAR):
            os.replace(scratch / name, target / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return notes


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of exports that were killed."""
    for path in folder.glob(".export-*"):
        number = path.name.split("-")[1]
        if path.is_dir() and not (number.isdecimal() and is_running(int(number))):
            shutil.rmtree(path, ignore_errors=True)


def _notes(model: VQAutoencoder, signature: Signature, format: str, opset: int) -> dict[str, Any]:
    """What export.json holds before anything is written."""
    machine = {"machine": f"{platform.system()} {platform.machine()}"} if format == "aoti" else {}
    values = {"dtype": "float32", "values": "[0, 1]; decoded ones are not clamped"}
    return {
        "format_version": FORMAT_VERSION,
        "format": format,
        "opset": opset if format == "onnx" else None,
        "signature": signature.to_dict(),
        "images": {"shape": signature.image_shape(), **values},
        "indices": {"shape": signature.indices_shape(), "dtype": "int64", "masked": -1},
        "sizes": signature.constraint(),
        "quantizer": type(model.quantizer).__name__,
        "model": model_digest(model),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions("python", "torch", "gmvq", *PACKAGES[format]), **machine},
    }
