"""A results file as tables: the comparison at the main size, the sweeps over K and N, the searches."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..markdown import render as filled
from . import grid
from .contestants import ALL_PRODUCTS, CONTESTANTS
from .grid import CODES, MAIN, ROWS, SWEEP

OURS, PEER = "gm-vq", "VectorQuantize"
_TITLES = {"train": "forward+backward", "eval": "eval", "forward": "forward"}
Row = dict[str, Any]


def find(results: Row, **wanted: Any) -> Row | None:
    """A case of a results file, of float32 and normal latents where nothing else is ``wanted``."""
    wanted = {"dtype": "fp32", "data": "normal", **wanted}
    cases = ({"data": "normal", **case} for case in results["cases"])
    return next((case for case in cases if wanted.items() <= case.items()), None)


def row_of(case: Row | None, name: str) -> Row | None:
    """A contestant's figures in a case, following ``same_as``; None if it has none."""
    rows = (case or {}).get("contestants", {})
    row = rows.get(name, {})
    row = {**rows.get(row.get("same_as"), {}), **row}
    return row if "median_ms" in row else None


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    x, y = np.log(list(points)).T
    return float(np.polyfit(x, y, 1)[0])


def swept(results: Row) -> dict[int, Row]:
    """The cases of the sweep over K, or of that of the quick grid if there is no other."""
    for n in (SWEEP["n"], 1024):
        cases = _there((k, find(results, mode="train", n=n, k=k, d=SWEEP["d"])) for k in CODES)
        if len(cases) > 1:
            return cases
    return {}


def sweep(results: Row, name: str, figure: str = "median_ms") -> list[tuple[int, float]]:
    """(K, figure) of a contestant over the sweep of K."""
    rows = _there((k, row_of(case, name)) for k, case in swept(results).items())
    return [(k, row[figure]) for k, row in rows.items() if figure in row]


def render(results: Row) -> str:
    """All tables of a results file, below the command that made it, device and versions."""
    cases = swept(results)
    sizes = sorted({*ROWS, MAIN["n"]})
    text = filled(
        "speed.md.j2",
        results=results,
        grid=grid,
        titles=_TITLES,
        ours=OURS,
        peer=PEER,
        all_products=ALL_PRODUCTS,
        find=partial(find, results),
        row_of=row_of,
        contestants=_contestants,
        by_mode=partial(_by_mode, results),
        by_rows=lambda: _there((n, find(results, **{**MAIN, "mode": "train", "n": n})) for n in sizes),
        swept=cases,
        floors=lambda floor: {k: case["floors"][floor] for k, case in cases.items()},
        slope_of=_slope_of,
        reached=_reached,
        absent=_absent(results),
        noise=_noise(results),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _there(found: Iterable[tuple[Any, Row | None]]) -> dict[Any, Row]:
    return {key: value for key, value in found if value is not None}


def _by_mode(results: Row, dtype: str) -> dict[str, Row]:
    """The cases of the main size; none without the training step."""
    cases = _there((mode, find(results, mode=mode, **MAIN, dtype=dtype)) for mode in _TITLES)
    return cases if "train" in cases else {}


def _contestants(cases: Mapping[Any, Row | None], least: int = 1) -> dict[str, dict[Any, Row | None]]:
    """Name -> case -> figures or None, of each contestant with figures in at least so many cases."""
    found: dict[str, dict[Any, Row | None]] = {}
    for name in CONTESTANTS:
        rows = {key: row_of(case, name) for key, case in cases.items()}
        known = [row for row in rows.values() if row is not None]
        if len(known) >= least:
            same = f" (= {known[0]['same_as']})" if "same_as" in known[0] else ""
            found[name + same] = rows
    return found


def _slope_of(rows: Mapping[int, Row | None]) -> str:
    points = [(k, row["median_ms"]) for k, row in rows.items() if row]
    return f"{slope(points):.2f}" if len(points) > 1 else "-"


def _reached(cases: Mapping[str, Row]) -> list[str]:
    """What share of its floor the layer reaches: the time of the matrix products that it makes over its own."""
    shares = []
    for mode, case in cases.items():
        row = row_of(case, OURS)
        floor = row and case["floors"].get(f"matmul x {row['products']}")
        if row and floor:
            share = f"{100 * floor['median_ms'] / row['median_ms']:.0f} %"
            shares.append(f"{share} of matmul x {row['products']} in {_TITLES[mode]}")
    return shares


def _absent(results: Row) -> list[tuple[str, str, list[str]]]:
    """Name, reason and cases of those who took no part."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in results["cases"]:
        for name, row in case["contestants"].items():
            reason = row.get("skipped") or (f"FAILED: {row['failed']}" if "failed" in row else None)
            if reason:
                reasons.setdefault((name, reason), []).append(case["name"])
    return [(name, reason, cases) for (name, reason), cases in reasons.items()]


def _noise(results: Row) -> dict[str, Any]:
    """How far apart repetitions of one and the same matrix product were, which is what a ratio can be off by, and the
    cores that other processes kept busy: the most of each with its case, and the median.
    """
    cases = results["cases"]
    spreads = [
        (floor["max_ms"] / floor["min_ms"], case["name"])
        for case in cases
        for floor in case["floors"].values()
        if "max_ms" in floor
    ]
    others = [(c["cores_of_others"], c["name"]) for c in cases if c.get("cores_of_others") is not None]
    median = statistics.median_high(spread for spread, _ in spreads) if spreads else None
    return {"floors": max(spreads, default=None), "median": median, "others": max(others, default=None)}
