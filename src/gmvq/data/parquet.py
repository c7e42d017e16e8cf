"""Parquet files of encoded images, such as the Hub's CIFAR-10 (img, label) and CelebA (image).

Faces of 178 x 218 (aligned CelebA) are used as the field does: the central 178 x 178, then resized, in
training too; other pictures are scaled and cropped in training.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmvq.data.encoded import EncodedCells, image_column, label_column
from gmvq.data.source import SPLIT_ALIASES, split_rows, split_rule
from gmvq.errors import require

_CACHE_BYTES = 1 << 30


class ParquetColumn:
    """One column of several files, read by row; the row groups last used stay in memory, still encoded.

    Random order over files larger than the cache (1 GiB) reads a row group for almost every image: use small
    row groups there (the Hub writes 100 rows), or ``hf:`` names, which are memory-mapped.
    """

    def __init__(self, files: list[Path], column: str) -> None:
        parquet = require("pyarrow.parquet", "data")
        self._files = files
        self._column = column
        self._groups: list[tuple[int, int]] = []
        counts: list[int] = []
        for number, file in enumerate(files):
            metadata = parquet.read_metadata(file)
            for group in range(metadata.num_row_groups):
                self._groups.append((number, group))
                counts.append(metadata.row_group(group).num_rows)
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}

    def __call__(self, row: int) -> object:
        """Return the cell of one row: bytes, or a dict with the keys bytes and path."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[group - 1]) if group else 0
        if group not in self._cache:
            parquet = require("pyarrow.parquet", "data")
            file, inner = self._groups[group]
            with parquet.ParquetFile(self._files[file]) as opened:
                table = opened.read_row_group(inner, columns=[self._column], use_threads=False)
            self._cache[group] = table.column(self._column)
            while len(self._cache) > 1 and sum(part.nbytes for part in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group][row - start].as_py()


def open_parquet(
    path: Path, split: str, channels: int, column: str | None, fractions: tuple[float, float]
) -> EncodedCells:
    """Open one split of a Parquet file or of a folder of them (split names are looked for in the file names).

    Raises:
        ValueError: not Parquet, no image column, or cells that are not bytes; the message lists the columns.
    """
    arrow = require("pyarrow", "data")
    parquet = require("pyarrow.parquet", "data")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_in(file.relative_to(path)) if path.is_dir() else "train", []).append(file)
    try:
        sizes = {
            name: sum(parquet.read_metadata(file).num_rows for file in some)
            for name, some in by_split.items()
        }
        home, rows = split_rows({name: size for name, size in sizes.items() if size}, split, fractions)
        schema = parquet.read_schema(by_split[home][0])
        chosen = image_column(schema.names, column, str(path))
        kind = schema.field(chosen).type
        cell = (
            kind.field("bytes").type
            if arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            else kind
        )
        if not (arrow.types.is_binary(cell) or arrow.types.is_large_binary(cell)):
            raise ValueError(
                f"column {chosen!r} of {path} holds {kind}; "
                "expected encoded images: binary, or struct<bytes, path>"
            )
        classes = label_column(schema.names)
        labels: NDArray[np.int64] | None = None
        if classes is not None and arrow.types.is_integer(schema.field(classes).type):
            tables = [
                parquet.read_table(file, columns=[classes], use_threads=False) for file in by_split[home]
            ]
            labels = arrow.concat_tables(tables).column(classes).to_numpy().astype(np.int64)
        cells = ParquetColumn(by_split[home], chosen)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
        raise ValueError(f"cannot read {path} as Parquet: {error}") from error
    description = f"{path.name} ({split}; {split_rule(sizes, split, fractions)})"
    return EncodedCells(cells, rows, labels, channels, f"{path.name}[{home}]", description)


def _split_in(relative: Path) -> str:
    """Find a split's name in a file's name, else in its folders'; without one, everything is train."""
    for part in reversed(relative.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_ALIASES:
                return SPLIT_ALIASES[word]
    return "train"
