"""A .csv file as one series: a row for every time, a column for every channel."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_csv(path: Path, column: str | None = None) -> NDArray[np.float32]:
    """Read columns of a .csv file: float32 (channels, T), in the order of ``column`` or of the file.

    A first row that holds no number names the columns; without one they are called 0, 1, ... Columns whose first
    value is no number, such as dates, are left out, and so are lines that begin with #.

    Args:
        path: the file; separated by commas, or by semicolons or tabs if the first row says so.
        column: names of columns, separated by commas; default: all that hold numbers.

    Raises:
        ValueError: no text, no numbers, a missing column, a row of another length, or a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
        delimiter = max(",;\t", key=lines[0].count) if lines else ","
        rows = list(csv.reader(lines, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} as .csv: {error}") from error
    named = bool(rows) and not any(_is_number(cell) for cell in rows[0])
    names = (
        [cell.strip() for cell in rows[0]] if named else [str(i) for i in range(len(rows[0]) if rows else 0)]
    )
    body = rows[1:] if named else rows
    if not body:
        raise ValueError(
            f"{path} has no row of numbers; expected a row for every time, a column for every channel"
        )
    numeric = [i for i, cell in enumerate(body[0]) if _is_number(cell)]
    chosen = _find(names, column, path) if column else numeric
    if not chosen:
        raise ValueError(f"{path} has no column of numbers; its first row is {', '.join(body[0])[:80]}")
    values = np.empty((len(chosen), len(body)), dtype=np.float32)
    for time, row in enumerate(body):
        line = time + 1 + named
        if len(row) != len(names):
            raise ValueError(f"{path}, row {line}: expected {len(names)} cells, got {len(row)}")
        for place, i in enumerate(chosen):
            try:
                values[place, time] = float(row[i])
            except ValueError:
                raise ValueError(
                    f"{path}, row {line}, column {names[i]!r}: expected a number, got {row[i]!r}; fill the gap, or "
                    "choose other columns with --data.column"
                ) from None
    return values


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
