"""Data sets of the Hugging Face Hub by name (hf:uoft-cs/cifar10): the only part that uses the network."""

from __future__ import annotations

import numpy as np

from gmvq.data.encoded import EncodedCells, image_column, label_column
from gmvq.data.source import SPLIT_ALIASES, split_rows, split_rule
from gmvq.errors import require


class HubColumn:
    """One column of a Hugging Face data set, read by row from its memory-mapped file."""

    def __init__(self, table: object, column: str) -> None:
        self._table = table
        self._column = column

    def __call__(self, row: int) -> object:
        """Return the cell of one row: a dict with the keys bytes and path."""
        return self._table[row][self._column]  # pyright: ignore[reportIndexIssue]


def open_hub(
    name: str, split: str, channels: int, column: str | None, fractions: tuple[float, float]
) -> EncodedCells:
    """Open one split of a data set of the Hub, downloaded on first use into the Hub's own cache.

    Raises:
        ValueError: no such data set or column, or no network and nothing in the cache.
    """
    datasets = require("datasets", "data")
    if not name:
        raise ValueError("'hf:' needs the name of a data set, such as hf:uoft-cs/cifar10")
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # the library raises its own, the Hub's, and the HTTP client's errors
        raise ValueError(
            f"cannot load hf:{name}: {type(error).__name__}: {error}; check the name and the network, "
            "or give the path of a folder of Parquet files"
        ) from error
    tables = {SPLIT_ALIASES[key]: table for key, table in loaded.items() if key in SPLIT_ALIASES}
    if not tables:
        raise ValueError(f"hf:{name} has the splits {', '.join(loaded)}; expected train, validation or test")
    sizes = {key: len(table) for key, table in tables.items()}
    home, rows = split_rows(sizes, split, fractions)
    table = tables[home]
    chosen = image_column(table.column_names, column, f"hf:{name}")
    classes = label_column(table.column_names)
    labels = None if classes is None else np.asarray(table[classes][:])
    if labels is not None and labels.dtype.kind not in "iu":
        labels = None
    cells = HubColumn(
        table.select_columns([chosen]).cast_column(chosen, datasets.Image(decode=False)), chosen
    )
    description = f"hf:{name} ({split}; {split_rule(sizes, split, fractions)})"
    return EncodedCells(cells, rows, labels, channels, f"hf:{name}[{home}]", description)
