"""A .csv file as one series: a row for every time, a column for every channel.

``pyarrow.csv`` reads it. Ours are the choice of columns and the errors: which cell is no number, and what to do.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmvq.errors import require

_DECIMAL_COMMA = re.compile(r"\s*[+-]?[\d.]*,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


def read_csv(path: Path, column: str | None = None) -> NDArray[np.float32]:
    """Read columns of a .csv file: float32 (channels, T), in the order of ``column`` or of the file.

    A first row that holds no number names the columns; without one they are called 0, 1, ... Columns whose first
    value is no number, such as dates, are left out, and so are lines that begin with #. Numbers have a decimal point;
    decimal commas are an error.

    Args:
        path: the file; separated by semicolons or tabs if the first row has one, else by commas.
        column: names of columns, separated by commas; default: all that hold numbers.

    Raises:
        ValueError: no text, no numbers, a missing column, a row of another length, or a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
        delimiter = _delimiter(lines[0]) if lines else ","
        first = next(csv.reader(lines, delimiter=delimiter), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as .csv: {error}") from error
    named = not any(_is_number(cell) for cell in first)
    if len(lines) <= named:
        raise ValueError(
            f"{path} has no row of numbers; expected a row for every time, a column for every channel"
        )
    names = [cell.strip() if named else str(i) for i, cell in enumerate(first)]
    columns = _parse(path, "".join(lines[named:]), delimiter, len(names), 1 + named)
    chosen = _find(names, column, path) if column else range(len(names))
    values = [_numbers(path, names[i], columns[i], 1 + named, bool(column)) for i in chosen]
    kept = [one for one in values if one is not None]
    if not kept:
        shown = ", ".join(str(some[0]) for some in columns)[:80]
        raise ValueError(f"{path} has no column of numbers; its first row is {shown}")
    return np.stack(kept)


def _delimiter(line: str) -> str:
    """Semicolon or tab if the line has one outside of quotes: a comma may then be the decimal sign."""
    bare = re.sub(r'"[^"]*"', "", line)
    return next((sign for sign in ";\t" if sign in bare), ",")


def _parse(path: Path, text: str, delimiter: str, count: int, first_row: int) -> list[Any]:
    """Columns of Arrow: numbers with nulls for empty cells where all others are numbers, else what pyarrow finds."""
    arrow, tables = require("pyarrow", "data"), require("pyarrow.csv", "data")
    wrong: list[Any] = []

    def refuse(row: Any) -> str:
        wrong.append(row)
        return "error"

    try:
        table = tables.read_csv(
            io.BytesIO(text.encode()),
            tables.ReadOptions(column_names=[str(i) for i in range(count)], use_threads=False),
            tables.ParseOptions(delimiter=delimiter, invalid_row_handler=refuse),
            tables.ConvertOptions(null_values=[""], strings_can_be_null=True),
        )
    except arrow.ArrowInvalid as error:
        if wrong:
            row = first_row + (wrong[0].number or 1) - 1
            raise ValueError(
                f"{path}, row {row}: expected {count} cells, got {wrong[0].actual_columns}"
                + ("; decimal commas?" if delimiter == "," else "")
            ) from error
        raise ValueError(f"cannot read {path} as .csv: {error}") from error
    return table.columns


def _numbers(path: Path, name: str, cells: Any, first_row: int, asked: bool) -> NDArray[np.float32] | None:
    """A column as numbers; None if it is none, as its first value is no number and it was not asked for."""
    types = require("pyarrow", "data").types
    if types.is_integer(cells.type) or types.is_floating(cells.type):
        if not cells.null_count:
            return cells.to_numpy().astype(np.float32)
        bad = int(np.flatnonzero(cells.is_null().to_numpy())[0])
        raise ValueError(_no_number(path, name, first_row + bad, ""))
    texts = ["" if cell is None else str(cell) for cell in cells.to_pylist()]
    comma = next((i for i, text in enumerate(texts) if _DECIMAL_COMMA.fullmatch(text)), None)
    if comma is not None:
        raise ValueError(
            f"{path}, row {first_row + comma}, column {name!r}: {texts[comma]!r} has a decimal comma; write numbers "
            "with a decimal point, or choose other columns with --data.column"
        )
    if not asked and not _is_number(texts[0]):
        return None
    bad = next((i for i, text in enumerate(texts) if not _is_number(text)), None)
    if bad is not None:
        raise ValueError(_no_number(path, name, first_row + bad, texts[bad]))
    return np.array(texts, dtype=np.float32)


def _no_number(path: Path, name: str, row: int, found: str) -> str:
    return (
        f"{path}, row {row}, column {name!r}: expected a number, got {found!r}; fill the gap, or "
        "choose other columns with --data.column"
    )


def _find(names: list[str], column: str, path: Path) -> list[int]:
    wanted = [name.strip() for name in column.split(",")]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
    return [names.index(name) for name in wanted]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
