"""``stream:PATH``, ``stream:hf:NAME``: Parquet read in place, a row group at a time: no copy, no download ahead.

The streams of ``datasets`` are not used: when they go on the buffer that shuffles is lost, and their order depends on
the number of processes. Here rows are numbered as everywhere, and the sampler draws them from some row groups at a time
(``windows`` in ``randomness.py``), so that a process reads a group once while it is drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import as_value_error, one_line, require
from ..reading import open_input
from .decode import UnreadableImageError
from .folders import walk
from .pictures import Pictures
from .randomness import WINDOW
from .splits import SPLIT_ALIASES, Wanted, choose_split
from .tables import check_cells, decode_cell, image_column, label_column, parquet_files

if TYPE_CHECKING:
    from PIL.Image import Image

STREAM = "stream:"
#: What the places of a Hub's files begin with. A data set may name others, which are not opened.
_HUB = "hf://"
#: Most bytes of the pictures of one row group.
_MOST_GROUP = 1 << 30


class Group(NamedTuple):
    """A row group: its file, its number in it, and how many rows it has."""

    file: str
    number: int
    rows: int


def open_stream(name: str, wanted: Wanted) -> Pictures:
    """Open one split of a Parquet file or folder, or of a data set of the Hub that lies there as Parquet."""
    by_split = _files_of_hub(name.removeprefix("hf:")) if name.startswith("hf:") else _files_of(name)
    home = wanted.split if wanted.split in by_split else "train"
    files = by_split.get(home, [])
    groups, schema = _groups(tuple(files)) if files else ([], None)
    count = sum(group.rows for group in groups)
    _, rows, rule = choose_split({split: range(count if split == home else 0) for split in by_split}, wanted)
    if schema is None or not count:
        raise ValueError(f"{name} has no rows in {home}; give Parquet that holds images")
    column = image_column(schema.names, wanted.column, name)
    check_cells(schema.field(column).type, column, name)
    reader = _Reader(groups, column, wanted.channels)
    classes = label_column(schema.names)
    title = f"{Path(name).name}[{home}]"
    return Pictures(
        reader.read,
        rows,
        title,
        f"{STREAM}{title} ({wanted.split}; {len(groups)} row groups; {rule})",
        None if classes is None else reader.whole_numbers(classes),
        blocks=reader.group_of(rows),
    )


def _files_of(name: str) -> dict[str, list[str]]:
    path = Path(name).expanduser()
    files = [file for file in walk(path).files if file.endswith(".parquet")] if path.is_dir() else []
    if path.is_dir() and not files:
        raise ValueError(
            f"{path} holds no Parquet, and nothing else is read as {STREAM}PATH; leave out {STREAM}"
        )
    return {split: list(map(str, some)) for split, some in parquet_files(path, files).items()}


def _files_of_hub(name: str) -> dict[str, list[str]]:
    datasets = require("datasets", "data")
    try:
        found: Mapping[str, Any] = datasets.load_dataset_builder(name).config.data_files or {}
    # The library raises its own errors, the Hub's, and the HTTP client's.
    except Exception as error:
        raise ValueError(
            f"cannot look at hf:{name}: {type(error).__name__}: {error}; check the name and the network"
        ) from error
    known = {SPLIT_ALIASES[key]: some for key, some in found.items() if key in SPLIT_ALIASES}
    files = {split: list(map(str, some)) for split, some in known.items() if some}
    places = [file for some in files.values() for file in some]
    if not places or not all(file.startswith(_HUB) and file.endswith(".parquet") for file in places):
        raise ValueError(
            f"hf:{name} is not stored as Parquet, or its splits have other names; give hf:{name} without {STREAM}"
        )
    return files


def _open(file: str) -> IO[bytes]:
    if not file.startswith(_HUB):
        return open_input(file)
    fsspec = require("fsspec.core", "data")
    system, path = fsspec.url_to_fs(file)
    return system.open(path)


@lru_cache(maxsize=4)
def _groups(files: tuple[str, ...]) -> tuple[list[Group], Any]:
    """The row groups of some files, in their order, and the schema of the first."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    groups, schema = list[Group](), None
    for file in files:
        told = as_value_error(f"cannot read {file} as Parquet", arrow.ArrowException, ValueError, OSError)
        with told, _open(file) as stream:
            metadata = parquet.ParquetFile(stream).metadata
        schema = schema or metadata.schema.to_arrow_schema()
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if group.total_byte_size > _MOST_GROUP:
                raise ValueError(
                    f"row group {number} of {file} has {group.total_byte_size:,} bytes, above the limit of "
                    f"{_MOST_GROUP:,}; write the file again with smaller row groups, or give its path without {STREAM}"
                )
            groups.append(Group(file, number, group.num_rows))
    return groups, schema


class _Reader:
    """Reads rows, and keeps the row groups that it read last: as many as a window has, and the next."""

    def __init__(self, groups: list[Group], column: str, channels: int) -> None:
        self._groups, self._column, self._channels = groups, column, channels
        self._ends = np.cumsum([group.rows for group in groups], dtype=np.int64)
        self._kept: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._ends, rows, side="right")

    def read(self, row: int) -> Image:
        number = int(self.group_of(np.array(row)))
        if number not in self._kept:
            while len(self._kept) > WINDOW:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = self._load(self._groups[number], self._column)
        within = row - int(self._ends[number]) + self._groups[number].rows
        return decode_cell(self._kept[number][within].as_py(), self._channels)

    def _load(self, group: Group, column: str) -> Any:
        parquet = require("pyarrow.parquet", "data")
        try:
            with _open(group.file) as stream:
                return parquet.ParquetFile(stream).read_row_group(group.number, columns=[column])[column]
        # Those of Arrow, of the system, and of the HTTP client.
        except Exception as error:
            # It may pass, and leaving out what was not there in time would change the data.
            if group.file.startswith(_HUB):
                raise OSError(
                    f"cannot read {group.file}: {one_line(error)}; go on when it is there again"
                ) from error
            raise UnreadableImageError(
                f"row group {group.number} of {group.file}: {one_line(error)}"
            ) from error

    def whole_numbers(self, column: str) -> NDArray[np.int64] | None:
        """A column of all rows, if it holds whole numbers."""
        found = [np.asarray(self._load(group, column)) for group in self._groups]
        numbers = np.concatenate(found) if found else np.array([])
        return numbers.astype(np.int64) if numbers.dtype.kind in "iu" else None
