"""Decoded images and signals as files: one of each in a folder, or one Parquet table or .npy array of all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data import SignalScale
from ..data.audio import wav_bytes
from ..errors import require
from ..evaluation.pictures import png_bytes, to_picture
from ..files import PathLike, atomic_write, write_bytes
from .decode import DecodedBatch

Progress = Callable[[int], None]
#: A row group has at least so many rows, which the Hub's viewer and our own reader like, and goes on up to so many
#: bytes of images or so many rows: the file's index, held until the end, is then small beside the images.
_ROWS, _BYTES, _MOST_ROWS = 100, 4 << 20, 10_000


def write_images(
    batches: Iterable[DecodedBatch], out: PathLike, *, replace: bool = False, progress: Progress | None = None
) -> int:
    """Write decoded images as PNG, rounded to 8 bits: ``out/00000012.png`` by id, or a table if out ends in .parquet.

    The table has the columns id, name, split, image (bytes and path, as ``datasets`` and ``open_images`` read it)
    and label.

    Args:
        batches: of ``decode_tokens``.
        out: a folder that is new or empty, or the name of a .parquet file that does not exist.
        replace: write into a folder that has files, over those of the same names.
        progress: called with the number of images written so far.

    Returns:
        The number of images.

    Raises:
        ValueError: something is there already: nothing is overwritten.
    """
    target = check_target(out, signals=False, replace=replace)
    if target.suffix.lower() == ".parquet":
        return _write_table(batches, target, progress)
    target.mkdir(parents=True, exist_ok=True)

    def write(batch: DecodedBatch) -> None:
        for i, image in zip(batch.ids.tolist(), batch.images, strict=True):
            write_bytes(target / f"{i:08d}.png", image_file(image))

    return _write(batches, write, progress)


def write_signals(
    batches: Iterable[DecodedBatch],
    out: PathLike,
    scale: SignalScale,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write decoded windows in their own units: ``out/00000012.wav`` by id, or all in one array if out ends in .npy.

    Sound becomes 16-bit WAV files at its sample rate, a series .npy files, float32 (channels, T). The single array is
    (N, channels, T), in the order of the ids; it is held in memory.

    Args:
        batches, replace, progress: as of ``write_images``.
        out: a folder that is new or empty, or the name of an .npy file that does not exist.
        scale: of the model's training.

    Returns:
        The number of windows. Errors are those of ``write_images``.
    """
    target = check_target(out, signals=True, replace=replace)
    parts: list[NDArray[np.float32]] = []

    def write(batch: DecodedBatch) -> None:
        windows = in_own_units(batch.images, scale)
        if target.suffix.lower() == ".npy":
            parts.append(windows)
            return
        for i, window in zip(batch.ids.tolist(), windows, strict=True):
            rate = scale.sample_rate
            data = npy_bytes(window) if rate is None else wav_bytes(window, rate)
            write_bytes(target / f"{i:08d}{'.npy' if rate is None else '.wav'}", data)

    count = _write(batches, write, progress)
    if target.suffix.lower() == ".npy":
        write_bytes(target, npy_bytes(np.concatenate(parts) if parts else np.empty((0, 0, 0), np.float32)))
    return count


def check_target(out: PathLike, *, signals: bool, replace: bool = False) -> Path:
    """The path that images or signals go to."""
    target, single = Path(out).expanduser(), ".npy" if signals else ".parquet"
    if signals and target.suffix.lower() == ".parquet":
        raise ValueError("a .parquet table is for images; give --out a new folder, or an .npy file")
    if target.is_file() or (not replace and target.is_dir() and any(target.iterdir())):
        what = "exists" if target.is_file() else "is not empty"
        raise ValueError(
            f"{target} {what}, and nothing is overwritten; give --out a new folder, or the name of a new {single} file"
        )
    return target


def in_own_units(signals: Tensor, scale: SignalScale) -> NDArray[np.float32]:
    """From the decoder's output (..., C, T) to float32 in the signal's units, clamped to the scale."""
    return scale.from_unit(signals.detach().float().cpu().clamp(0.0, 1.0)).numpy()


def npy_bytes(values: NDArray[np.float32]) -> bytes:
    """The contents of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def image_file(image: Tensor) -> bytes:
    """The contents of a PNG file with an image (C, H, W); one of a single channel is grey."""
    picture = to_picture(image)
    return png_bytes(picture[..., 0] if image.shape[0] == 1 else picture)


def _write(
    batches: Iterable[DecodedBatch], write: Callable[[DecodedBatch], None], progress: Progress | None
) -> int:
    count = 0
    for batch in batches:
        write(batch)
        count += len(batch.ids)
        if progress is not None:
            progress(count)
    return count


def _write_table(batches: Iterable[DecodedBatch], target: Path, progress: Progress | None) -> int:
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    features = require("datasets.features", "data")
    number, text = features.Value("int64"), features.Value("string")
    columns = {"id": number, "name": text, "split": text, "image": features.Image(), "label": number}
    schema = features.Features(columns).arrow_schema
    with (
        atomic_write(target) as file,
        parquet.ParquetWriter(file, schema, compression="none") as writer,  # PNG is compressed
    ):
        group: list[dict[str, Any]] = []

        def flush() -> None:
            if group:
                writer.write_table(arrow.Table.from_pylist(group, schema), row_group_size=_MOST_ROWS)
                group.clear()

        def write(batch: DecodedBatch) -> None:
            rows = zip(batch.ids.tolist(), batch.names, batch.images, batch.labels, strict=True)
            for i, name, image, label in rows:
                cell = {"bytes": image_file(image), "path": f"{i:08d}.png"}
                group.append({"id": i, "name": name, "split": batch.split, "image": cell, "label": label})
            size = sum(len(row["image"]["bytes"]) for row in group)
            if len(group) >= _MOST_ROWS or (len(group) >= _ROWS and size >= _BYTES):
                flush()

        count = _write(batches, write, progress)
        flush()
        return count
