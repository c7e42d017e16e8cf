"""A .csv file as one series: a row for every time, a column for every channel.

``pyarrow.csv`` reads it. Ours are the choice of columns and the errors: which cell is no number, and what to do.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import as_value_error, require
from ..reading import read_text

#: Names of columns that number the rows or tell their time.
_COUNTER = re.compile(
    "#|date(time)?|frame|i|id|idx|index|n|no|nr|number|row|sample|sec(ond)?s?|step|t|time(stamp)?"
)
#: Equal steps in a row that are no chance.
_EVEN_STEPS = 8
_AFTER_COMMA = re.compile(r"(?<=,)\s*(0\d+)\s*(?=,|$)")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[\d.]*,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


def read_csv(path: Path, column: str | None = None) -> NDArray[np.float32]:
    """Read columns of a .csv file: float32 (channels, T), in the order of ``column`` or of the file.

    A first row that holds no number names the columns; without one they are called 0, 1, ... Columns without a
    number, such as dates, are left out, and so are lines that begin with #, and, with a warning, a column that counts
    or tells the time, unless it is asked for. Decimal commas are an error.

    Args:
        path: the file; separated by semicolons or tabs if the first row has one, else by commas.
        column: names of columns, separated by commas; default: all that hold numbers.
    """
    with as_value_error(f"cannot read {path} as .csv", UnicodeDecodeError, csv.Error):
        text = read_text(path).removeprefix("\ufeff")
        lines = [line for line in io.StringIO(text, newline="") if line.strip() and not line.startswith("#")]
        # A semicolon or tab outside of quotes separates cells: a comma may then be the decimal sign.
        bare = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
        delimiter = next((sign for sign in ";\t" if sign in bare), ",")
        first = next(csv.reader(lines, delimiter=delimiter), [])
    named = not any(_is_number(cell) or _DECIMAL_COMMA.fullmatch(cell) for cell in first)
    if len(lines) <= named:
        raise ValueError(
            f"{path} has no row of numbers; expected a row for every time, a column for every channel"
        )
    names = [cell.strip() if named else str(i) for i, cell in enumerate(first)]
    wanted = [name.strip() for name in column.split(",")] if column else names
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
    columns = _parse(path, "".join(lines[named:]), delimiter, len(names), 1 + named)
    chosen = [names.index(name) for name in wanted] if column else range(len(names))
    values = {
        names[i]: _numbers(columns[i], f"{path}, column {names[i]!r}", 1 + named, bool(column))
        for i in chosen
    }
    kept = {name: one for name, one in values.items() if one is not None}
    if not column:
        _check_no_commas(path, lines[named:], delimiter, 1 + named)
        kept = _without_counters(kept)
    if not kept:
        shown = ", ".join(str(some[0]) for some in columns)[:80]
        raise ValueError(f"{path} has no column of numbers; its first row is {shown}")
    return np.stack([one.astype(np.float32) for one in kept.values()])


def _without_counters(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The columns but for those that number the rows or tell their time, as long as another one is left."""
    counters = [name for name, values in columns.items() if _counts(name, values)]
    if not counters or len(counters) == len(columns):
        return columns
    warnings.warn(
        f"the column {', '.join(counters)} of a .csv file counts its rows or tells their time, and is left out; name "
        "the columns to use with --data.column",
        stacklevel=2,
    )
    return {name: values for name, values in columns.items() if name not in counters}


def _counts(name: str, values: NDArray[np.float64]) -> bool:
    """Whether values grow by equal steps, or grow under a name that says so."""
    steps = np.diff(values)
    if len(steps) < 2 or not (steps > 0).all():
        return False
    even = len(steps) >= _EVEN_STEPS and np.allclose(steps, steps[0], rtol=1e-3, atol=0.0)
    return bool(even) or _COUNTER.fullmatch(name.strip().lower()) is not None


def _check_no_commas(path: Path, lines: list[str], delimiter: str, first_row: int) -> None:
    """Raise ValueError for whole numbers such as 05, which come of a decimal comma that was taken to separate cells."""
    for number, line in enumerate(lines if delimiter == "," else ()):
        if found := _AFTER_COMMA.search(line):
            raise ValueError(
                f"{path}, row {first_row + number}: expected a number, got {found[1]!r}; are there decimal commas? "
                "Write numbers with a decimal point, or choose columns with --data.column"
            )


def _parse(path: Path, text: str, delimiter: str, count: int, first_row: int) -> list[Any]:
    """The columns, each of the type that pyarrow finds, with nulls for empty cells."""
    arrow, tables = require("pyarrow", "data"), require("pyarrow.csv", "data")
    wrong: list[Any] = []
    try:
        table = tables.read_csv(
            io.BytesIO(text.encode()),
            tables.ReadOptions(column_names=[str(i) for i in range(count)], use_threads=False),
            tables.ParseOptions(
                delimiter=delimiter, invalid_row_handler=lambda row: wrong.append(row) or "error"
            ),
            tables.ConvertOptions(null_values=[""], strings_can_be_null=True),
        )
    except arrow.ArrowInvalid as error:
        if not wrong:
            raise ValueError(f"cannot read {path} as .csv: {error}") from error
        row, found = first_row + wrong[0].number - 1, wrong[0].actual_columns
        hint = "; are there decimal commas?" if delimiter == "," else ""
        raise ValueError(f"{path}, row {row}: expected {count} cells, got {found}{hint}") from error
    return table.columns


def _numbers(cells: Any, where: str, first_row: int, asked: bool) -> NDArray[np.float64] | None:
    """A column as numbers; None if it holds none and was not asked for."""
    types = require("pyarrow", "data").types
    if (types.is_integer(cells.type) or types.is_floating(cells.type)) and not cells.null_count:
        return cells.to_numpy().astype(np.float64)
    texts = ["" if cell is None else str(cell) for cell in cells.to_pylist()]
    good = [_is_number(text) for text in texts]
    commas = [bool(_DECIMAL_COMMA.fullmatch(text)) for text in texts]
    if all(good):
        return np.array(texts, dtype=np.float64)
    if not (asked or any(good) or any(commas)):
        return None
    bad = commas.index(True) if any(commas) else good.index(False)
    advice = "write numbers with a decimal point" if any(commas) else "fill the gap"
    raise ValueError(
        f"{where}, row {first_row + bad}: expected a number, got {texts[bad]!r}; {advice}, or choose other columns "
        "with --data.column"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
