"""The folder of an export: two files and ``export.json``, read back with every check that they need."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import check_indices, check_version
from ..reading import open_input, read_json
from .formats import FORMATS, load_graph
from .graphs import Signature

SIDECAR = "export.json"
FORMAT_VERSION = 1


class Exported:
    """An exported tokenizer, run with its own engine; wrong shapes and values end in an error before it.

    Attributes:
        notes: what export.json holds.
        signature: the shapes.
    """

    def __init__(self, folder: Path, notes: dict[str, Any]) -> None:
        names = FORMATS[notes["format"]]
        self._encoder, self._decoder = (load_graph(notes["format"], folder / name) for name in names)
        entries = notes["signature"]
        lists = {name: tuple(value) for name, value in entries.items() if isinstance(value, list)}
        self.signature, self.notes = Signature(**{**entries, **lists}), notes

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, *size), float32 in [0, 1], to indices (B, *spatial, *index_shape), int64.

        Raises:
            TypeError: not float32.
            ValueError: a shape that the files do not take.
        """
        _check_dtype(images, torch.float32, "a float32 tensor of values in [0, 1]")
        self.signature.check_images(images.shape)
        return self._encoder(images.contiguous())

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Indices as ``encode`` gives them, -1 for masked positions, to images (B, C, *size), not clamped.

        Raises:
            TypeError: not int64.
            ValueError: a shape or a value that the files do not take.
        """
        _check_dtype(indices, torch.int64, "an int64 tensor of indices")
        self.signature.check_indices(indices.shape)
        check_indices(indices, self.signature.codebook_sizes or self.signature.codebook_size)
        return self._decoder(indices.contiguous())


def _check_dtype(values: Tensor, dtype: torch.dtype, expected: str) -> None:
    if not isinstance(values, Tensor) or values.dtype != dtype:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"expected {expected}, got {kind}")


def load_exported(directory: str | os.PathLike[str]) -> Exported:
    """Load a folder written by ``export_model`` or ``gmvq export``, after comparing the files with their digests.

    A file of the formats torch-export and aoti can run code: load those of people you trust only.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: export.json is broken or of another version, or a file is not the one it was written with.
        MissingExtraError: an ONNX export without onnxruntime.

    Example:
        >>> exported = load_exported("exported")
        >>> tokens = exported.encode(torch.rand(1, 3, 64, 48))
        >>> images = exported.decode(tokens).clamp(0, 1)
    """
    folder = Path(directory)
    notes = read_sidecar(folder)
    files = [folder / name for name in FORMATS[notes["format"]]]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; export the model again")
        if file_digest(file) != notes["digests"].get(file.name):
            raise ValueError(
                f"{file} is not the file that {SIDECAR} was written with (its SHA-256 differs); copy the whole folder, "
                "or export the model again"
            )
    return Exported(folder, notes)


def read_sidecar(folder: Path) -> dict[str, Any]:
    """Read and check export.json."""
    file = folder / SIDECAR
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; expected a folder written by gmvq export")
    try:
        notes = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON; export the model again: {error}") from error
    version = notes.get("format_version") if isinstance(notes, dict) else type(notes).__name__
    check_version(file, version, FORMAT_VERSION)
    if not _is_signature(notes.get("signature")) or not isinstance(notes.get("digests"), dict):
        raise ValueError(f"{file}: the entries signature or digests are damaged; export the model again")
    if notes.get("format") not in tuple(FORMATS):
        raise ValueError(f"{file}: expected a format of {', '.join(FORMATS)}, got {notes.get('format')!r}")
    return notes


def _is_signature(entries: Any) -> bool:
    """Whether this is a ``Signature.to_dict``."""
    numbers = {"channels", "downsample", "spatial_dims", "codebook_size", "dim"}
    if not isinstance(entries, dict) or entries.keys() - {"least", "codebook_sizes"} != {
        *numbers,
        "index_shape",
    }:
        return False
    shape, each = entries["index_shape"], entries.get("codebook_sizes", [])
    sizes = [entries.get("least", 2), *(entries[name] for name in numbers)]
    sizes += shape + each if isinstance(shape, list) and isinstance(each, list) else [None]
    if each and [len(each)] != shape:
        return False
    return all(type(size) is int and size > 0 for size in sizes) and entries["spatial_dims"] <= 3


def file_digest(file: Path) -> str:
    """``sha256:`` and the hexadecimal SHA-256 of a file."""
    with open_input(file) as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
