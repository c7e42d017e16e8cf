"""Encoded images in tables: Parquet, folders of ``datasets.save_to_disk``, data sets of the Hub (hf:NAME).

``datasets`` reads them, memory-mapped; of Parquet it first writes a copy into its own cache (HF_DATASETS_CACHE), once,
so that random order costs no more than any other. A name of the Hub is the only thing that uses the network.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import as_value_error, one_line, require
from ..files import inside
from ..reading import open_input, read_json
from .decode import UnreadableImageError, decode, header_shape
from .limits import check_arrow, check_parquet
from .pictures import Pictures
from .splits import SPLIT_ALIASES, Wanted, choose_split, files_by_split

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_COLUMNS = ("image", "img", "images", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_NO_BYTES = "the cell holds no bytes"


def open_parquet(path: Path, files: Sequence[str], wanted: Wanted) -> Pictures:
    """Open one split of a Parquet file, or of ``files`` in a folder, whose names and folders may name their split."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    with as_value_error(f"cannot read {path} as Parquet", arrow.ArrowException, ValueError, OSError):
        by_split = parquet_files(path, files)
        rows = {
            name: range(sum(parquet.read_metadata(file).num_rows for file in some))
            for name, some in by_split.items()
        }
        names = parquet.read_schema(next(iter(by_split.values()))[0]).names
    chosen = image_column(names, wanted.column, str(path))
    columns = [chosen, *filter(None, [label_column(names)])]

    there = {name: some for name, some in rows.items() if some}
    return _choose(there, lambda name: _mapped(path, by_split[name], columns), wanted, path.name, str(path))


def parquet_files(path: Path, files: Sequence[str]) -> dict[str, list[Path]]:
    """The files by their split, after a look at what each unpacks to."""
    by_split = files_by_split(path, files)
    for file in (file for some in by_split.values() for file in some):
        with open_input(file) as stream:
            check_parquet(stream, file)
    return by_split


def _mapped(path: Path, files: Sequence[Path], columns: Sequence[str]) -> Any:
    """The copy of some Parquet files in the cache of ``datasets``, made if need be, with a bar on a terminal."""
    datasets, bars = require("datasets", "data"), require("datasets.utils", "data")
    named = next((file for file in files if "::" in str(file.absolute())), None)
    if named:
        raise ValueError(
            f"{named} has two colons in its path, which datasets takes for another system; rename it"
        )
    shown = not bars.are_progress_bars_disabled()
    try:
        if shown and not sys.stderr.isatty():
            bars.disable_progress_bars()
        # Brackets and stars in a path would be taken for a pattern.
        escaped = [glob.escape(str(file.absolute())) for file in files]
        return datasets.Dataset.from_parquet(escaped, columns=list(columns))
    # The library raises its own errors, those of Arrow, and those of a full disk.
    except Exception as error:
        reason = f"{type(error).__name__}: {error.__cause__ or error}"
        raise ValueError(
            f"cannot read {path} as Parquet: {reason}; a copy of it goes to the folder HF_DATASETS_CACHE"
        ) from error
    finally:
        if shown:
            bars.enable_progress_bars()


def is_saved(listing: Sequence[str]) -> bool:
    """Tell a folder that ``datasets`` wrote by what lies in it."""
    return "dataset_dict.json" in listing or {"dataset_info.json", "state.json"} <= set(listing)


def open_saved(path: Path, wanted: Wanted) -> Pictures:
    """Open one split of a folder that ``save_to_disk`` of ``datasets`` wrote."""
    datasets = require("datasets", "data")
    tables: dict[str, Any] = {}
    for split, files in _saved_files(path).items():
        try:
            # By name, as load_from_disk does what the notes say: formats, and other file systems.
            parts = [datasets.Dataset.from_file(str(file.absolute())) for file in files]
            tables[split] = datasets.concatenate_datasets(parts)
        except Exception as error:
            raise ValueError(
                f"cannot read {path}, which looks like a data set saved by datasets: {type(error).__name__}: {error}"
            ) from error
    return _choose_table(tables, wanted, path.name, str(path))


def _saved_files(path: Path) -> dict[str, list[Path]]:
    """The Arrow files of each split of a saved data set, all of them in its folder and such as can be read."""
    notes, folders, found = path / "dataset_dict.json", {"train": path}, dict[str, list[Path]]()
    try:
        if notes.exists():
            folders = {name: inside(path, name) for name in read_json(notes)["splits"]}
        for name, folder in folders.items():
            notes = folder / "state.json"
            found[name] = [inside(folder, entry["filename"]) for entry in read_json(notes)["_data_files"]]
            if not found[name]:
                raise ValueError("it names no files")
            for file in found[name]:
                check_arrow(file)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{notes} is damaged: {one_line(error)}; save the data set again") from error
    return found


def open_hub(name: str, wanted: Wanted) -> Pictures:
    """Open one split of a data set of the Hub, downloaded on first use into the Hub's own cache."""
    datasets = require("datasets", "data")
    if not name:
        raise ValueError("'hf:' needs the name of a data set, such as hf:uoft-cs/cifar10")
    try:
        loaded = datasets.load_dataset(name)
    # The library raises its own errors, the Hub's, and the HTTP client's.
    except Exception as error:
        raise ValueError(
            f"cannot load hf:{name}: {type(error).__name__}: {error}; check the name and the network, "
            "or give the path of a folder of Parquet files"
        ) from error
    return _choose_table(loaded, wanted, f"hf:{name}", f"hf:{name}")


def _choose_table(loaded: Mapping[str, Any], wanted: Wanted, title: str, where: str) -> Pictures:
    tables = {SPLIT_ALIASES[key]: table for key, table in loaded.items() if key in SPLIT_ALIASES}
    if not tables:
        raise ValueError(f"{where} has the splits {', '.join(loaded)}; expected train, validation or test")
    rows = {key: range(len(table)) for key, table in tables.items()}
    return _choose(rows, tables.__getitem__, wanted, title, where)


def _choose(
    sizes: Mapping[str, range], load: Callable[[str], Any], wanted: Wanted, title: str, where: str
) -> Pictures:
    """Make the source of one split from the splits there are and a function that loads one as a table."""
    home, rows, rule = choose_split(sizes, wanted)
    table = load(home)
    column = image_column(table.column_names, wanted.column, where)
    classes = label_column(table.column_names)
    check_cells(table.data.schema.field(column).type, column, where)
    # As they are stored: else datasets would decode what a file calls images or sound, in any format, and from any
    # path or address that a cell holds.
    stored = table.with_format("arrow")
    labels = None if classes is None else stored.select_columns([classes])[:][classes]
    if labels is not None:
        whole = require("pyarrow", "data").types.is_integer(labels.type) and not labels.null_count
        labels = labels.to_numpy() if whole else None
    cells = stored.select_columns([column])
    first = cells[int(rows[0])][column][0].as_py()
    if isinstance(first, dict) and first.get("bytes") is None and first.get("path"):
        raise ValueError(
            f"{title}[{home}]:{rows[0]} holds only the path of its image; write the table with embedded images"
        )
    return Pictures(
        read=partial(_read, cells, column, wanted.channels),
        rows=rows,
        names=f"{title}[{home}]",
        description=f"{title} ({wanted.split}; {rule})",
        labels=labels,
        shape_of=partial(_shape, cells, column),
    )


def _read(cells: Any, column: str, channels: int, row: int, reduce: int = 1) -> Image:
    return decode_cell(cells[row][column][0].as_py(), channels, reduce)


def _shape(cells: Any, column: str, row: int) -> tuple[int, int]:
    """Height and width of a picture; of the memory-mapped cell its header alone is read."""
    cell = cells[row][column][0]
    if cell.is_valid and cell.type.num_fields:
        cell = cell["bytes"]
    if not cell.is_valid:
        raise UnreadableImageError(_NO_BYTES)
    return header_shape(require("pyarrow", "data").BufferReader(cell.as_buffer()))


def check_cells(kind: Any, column: str, where: str) -> None:
    """Raise ValueError unless a column of this Arrow type holds encoded images."""
    cell = next((field.type for field in kind if field.name == "bytes"), kind) if kind.num_fields else kind
    if str(cell) not in ("binary", "large_binary"):
        raise ValueError(
            f"column {column!r} of {where} holds {kind}; expected encoded images: binary, or struct<bytes, path>"
        )


def decode_cell(cell: Any, channels: int, reduce: int = 1) -> Image:
    """Decode the image of a row: bytes, or a mapping that holds them."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise UnreadableImageError(_NO_BYTES)
    return decode(data, channels, reduce)


def image_column(columns: Sequence[str], asked: str | None, where: str) -> str:
    """Choose the column that holds the images."""
    there = ", ".join(map(repr, columns))
    if asked is not None and asked not in columns:
        raise ValueError(f"{where} has no column {asked!r}; it has: {there}")
    found = asked or next((name for name in IMAGE_COLUMNS if name in columns), None)
    if found is None:
        usual = ", ".join(map(repr, IMAGE_COLUMNS))
        raise ValueError(
            f"{where} has none of the columns {usual}; it has: {there}; name one with column=..."
        )
    return found


def label_column(columns: Sequence[str]) -> str | None:
    """Choose the column that holds the classes, if there is one."""
    return next((name for name in LABEL_COLUMNS if name in columns), None)
