"""Decoded images as files: a folder of PNG, or one Parquet table with the PNG bytes of every image inside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import require
from ..evaluation.pictures import png_bytes, to_picture
from ..files import atomic_write
from .decode import DecodedBatch

_ROW_GROUP = 100  # rows; what the Hub's viewer and our own reader like
_FEATURES = {
    "id": {"dtype": "int64", "_type": "Value"},
    "name": {"dtype": "string", "_type": "Value"},
    "split": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "label": {"dtype": "int64", "_type": "Value"},
}


def write_images(
    batches: Iterable[DecodedBatch],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write decoded images as PNG, rounded to 8 bits: ``out/00000012.png`` by id, or a table if out ends in .parquet.

    The table has the columns id, name, split, image (bytes and path, as ``datasets`` and ``open_images`` read it)
    and label.

    Args:
        batches: of ``decode_tokens``.
        out: a folder that is new or empty, or the name of a .parquet file that does not exist.
        progress: called with the number of images written so far.

    Returns:
        The number of images.

    Raises:
        ValueError: something is there already: nothing is overwritten.
    """
    target = Path(out).expanduser()
    check_target(target)
    if target.suffix.lower() == ".parquet":
        return _write_table(batches, target, progress)
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for batch in batches:
        for i, image in zip(batch.ids.tolist(), batch.images, strict=True):
            with atomic_write(target / f"{i:08d}.png") as file:
                file.write_bytes(_png(image))
        count += len(batch.ids)
        if progress is not None:
            progress(count)
    return count


def check_target(target: Path) -> None:
    """Raise ValueError if images written to ``target`` would meet something that is there."""
    if target.suffix.lower() == ".parquet":
        if target.exists():
            raise ValueError(f"{target} exists, and nothing is overwritten; give another --out")
    elif target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(
            f"{target} is not empty, and nothing is overwritten; give --out a new folder, or a .parquet file"
        )


def _write_table(
    batches: Iterable[DecodedBatch], target: Path, progress: Callable[[int], None] | None
) -> int:
    arrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    cell = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema(
        [
            ("id", arrow.int64()),
            ("name", arrow.string()),
            ("split", arrow.string()),
            ("image", cell),
            ("label", arrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
    )
    count = 0
    with (
        atomic_write(target) as file,
        parquet.ParquetWriter(file, schema, compression="none") as writer,  # PNG is compressed
    ):
        for batch in batches:
            rows: list[dict[str, Any]] = [
                {
                    "id": i,
                    "name": name,
                    "split": batch.split,
                    "image": {"bytes": _png(image), "path": f"{i:08d}.png"},
                    "label": label,
                }
                for i, name, label, image in zip(
                    batch.ids.tolist(), batch.names, batch.labels, batch.images, strict=True
                )
            ]
            writer.write_table(arrow.Table.from_pylist(rows, schema), row_group_size=_ROW_GROUP)
            count += len(rows)
            if progress is not None:
                progress(count)
    return count


def _png(image: Tensor) -> bytes:
    picture = to_picture(image)
    return png_bytes(picture[..., 0] if image.shape[0] == 1 else picture)
