"""Figures of a results file: a case, a contestant's row in it, and the sweep over K."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .grid import CODES, SWEEP

PEER = "VectorQuantize"
Row = dict[str, Any]


def find(
    results: dict[str, Any], mode: str, n: int, k: int, d: int, dtype: str = "fp32"
) -> dict[str, Any] | None:
    """A case of a results file."""
    wanted = {"mode": mode, "n": n, "k": k, "d": d, "dtype": dtype}
    return next((c for c in results["cases"] if all(c[key] == wanted[key] for key in wanted)), None)


def row_of(case: dict[str, Any] | None, name: str) -> Row | None:
    """A contestant's figures in a case, following ``same_as``; None if it has none."""
    row = (case or {}).get("contestants", {}).get(name)
    if row is not None and "same_as" in row:
        row = {**case["contestants"].get(row["same_as"], {}), "same_as": row["same_as"]}  # pyright: ignore
    return row if row is not None and "median_ms" in row else None


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    x, y = np.log(list(points)).T
    return float(np.polyfit(x, y, 1)[0])


def sweep(results: dict[str, Any], name: str, figure: str = "median_ms") -> list[tuple[int, float]]:
    """(K, figure) of a contestant over the sweep of K, or over that of the quick grid if there is no other."""
    for n in (SWEEP["n"], 1024):
        rows = [(k, row_of(find(results, "train", n, k, SWEEP["d"]), name)) for k in CODES]
        points = [(k, row[figure]) for k, row in rows if row is not None and figure in row]
        if len(points) > 1:
            return points
    return []
