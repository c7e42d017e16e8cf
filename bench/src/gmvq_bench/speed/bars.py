"""The bars that the layer has to pass, computed from a results file: value, bar, passed or not, or not measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .gate import TOLERANCE
from .grid import CODES, GPU_TARGET, LARGE, MAIN, ROWS, SEARCH, SWEEP

OURS, PEER, EAGER = "gm-vq", "VectorQuantize", "gm-vq eager"
Row = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """One line of the table of bars. ``passed`` is None where there is no figure."""

    what: str
    value: str
    bar: str
    passed: bool | None

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: "not measured"}[self.passed]


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
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def sweep(results: dict[str, Any], name: str, figure: str = "median_ms") -> list[tuple[int, float]]:
    """(K, figure) of a contestant over the sweep of K, or over that of the quick grid if there is no other."""
    for n in (SWEEP["n"], 1024):
        rows = [(k, row_of(find(results, "train", n, k, SWEEP["d"]), name)) for k in CODES]
        points = [(k, row[figure]) for k, row in rows if row is not None and figure in row]
        if len(points) > 1:
            return points
    return []


def bars(results: dict[str, Any]) -> list[Bar]:
    """Every bar, in the order of the requirements."""
    train, evaluation = find(results, "train", **MAIN), find(results, "eval", **MAIN)
    largest = {**SWEEP, "k": CODES[-1]}
    at_largest = find(results, "train", **largest)
    ours = row_of(at_largest, OURS)
    return [
        _time_ratio("forward+backward against VectorQuantize", train, PEER, 0.5),
        _time_ratio("forward+backward against GM-VQ in eager autograd", train, EAGER, 0.2),
        _time_ratio("eval against VectorQuantize", evaluation, PEER, 0.15),
        _extra("extra memory of forward+backward", train, 0.3),
        _extra(f"extra memory at {_size(LARGE)}", find(results, "train", **LARGE), 0.05),
        _of(f"{_size(largest)}: extra memory", ours, lambda r: r["peak_bytes"] / 1e9, 2.0, "GB"),
        _floor(f"{_size(largest)}: time in multiples of its matmul floor", at_largest),
        _growth(results),
        _flat(results),
        *(_search(find(results, "search", **size), size) for size in SEARCH[:3]),
        _identical(results),
        _exact(results),
        *([_gpu(results)] if results["environment"].get("device_type") == "cuda" else []),
    ]


def _size(size: dict[str, int]) -> str:
    return f"K={size['k']}, N={size['n']}, D={size['d']}"


def _of(what: str, source: Any, value: Callable[[Any], float], bar: float, unit: str) -> Bar:
    """value(source) <= bar, unless there is no source."""
    limit = f"at most {bar:g} {unit}"
    if source is None:
        return Bar(what, "-", limit, None)
    got = value(source)
    return Bar(what, f"{got:.3g} {unit}", limit, got <= bar)


def _time_ratio(what: str, case: dict[str, Any] | None, other: str, bar: float) -> Bar:
    mine, theirs = row_of(case, OURS), row_of(case, other)
    both = None if mine is None or theirs is None else (mine["median_ms"], theirs["median_ms"])
    return _of(what, both, lambda pair: pair[0] / pair[1], bar, "x")


def _extra(what: str, case: dict[str, Any] | None, bar: float) -> Bar:
    row = row_of(case, OURS)
    pairs = 4 * case["n"] * case["k"] if case else 1
    return _of(what, row, lambda r: r["peak_bytes"] / pairs, bar, "x N*K*4 B")


def _floor(what: str, case: dict[str, Any] | None) -> Bar:
    row = row_of(case, OURS)
    if row is None or case is None:
        return Bar(what, "-", "at most 3 x", None)
    products = row["products"]
    floor = case["floors"][f"matmul x {products}"]["median_ms"]
    return _of(f"{what} ({products} products)", row, lambda r: r["median_ms"] / floor, 3.0, "x")


def _growth(results: dict[str, Any]) -> Bar:
    points = sweep(results, OURS)
    reach = f"K={points[0][0]} to {points[-1][0]}" if points else "K"
    whole = bool(points) and (points[0][0], points[-1][0]) == (CODES[0], CODES[-1])
    bar = _of(f"slope of time over {reach}, log-log", points or None, slope, 1.05, "")
    return bar if whole or not points else Bar(bar.what, bar.value, bar.bar, None)


def _flat(results: dict[str, Any]) -> Bar:
    """Growth per row of what is neither input, output nor gradient; a dense layer grows by K * 4 B a row and more.

    Flat: by no more than a row's own inputs, outputs and gradients, whatever K is.
    """
    what, bar = "growth of transient memory with N", "at most 1 x a row's inputs, outputs and gradients"
    points = []
    for n in sorted({*ROWS, MAIN["n"]}):
        row = row_of(find(results, "train", n, MAIN["k"], MAIN["d"]), OURS)
        if row is not None:
            points.append((n, row))
    if len(points) < 3:
        return Bar(what, "-", bar, None)
    (low, first), (high, last) = points[0], points[-1]
    per_row = (last["transient_bytes"] - first["transient_bytes"]) / (high - low)
    own = (last["kept_bytes"] - first["kept_bytes"]) / (high - low) + 4 * MAIN["d"]
    value = f"{per_row:.0f} B a row = {per_row / own:.2f} x = {per_row / 4 / MAIN['k']:.3f} x K*4 B"
    return Bar(what, value, bar, per_row <= own)


def _search(case: dict[str, Any] | None, size: dict[str, int]) -> Bar:
    mine, flat = row_of(case, "gm-vq search"), row_of(case, "faiss IndexFlatL2")
    both = None if mine is None or flat is None else (mine["median_ms"], flat["median_ms"])
    what = f"search against faiss IndexFlatL2, {_size(size)}"
    return _of(what, both, lambda pair: pair[0] / pair[1], 1.0, "x")


def _identical(results: dict[str, Any]) -> Bar:
    what = "indices that differ from faiss IndexFlatL2"
    cases = [c for c in results["cases"] if "faiss IndexFlatL2" in c.get("identity", {})]
    found = [case["identity"]["faiss IndexFlatL2"] for case in cases]
    if not found:
        return Bar(what, "-", "0, or ours closer in float64", None)
    differing, farther = (sum(f[key] for f in found) for key in ("differing", "theirs_closer"))
    gap = max(f["largest_gap"] for f in found)
    rows = sum(case["n"] for case in cases)
    value = f"{differing} of {rows}, ours farther in {farther}, by {gap:.1g} at most"
    return Bar(what, value, "0, or ours closer in float64", farther == 0)


def _exact(results: dict[str, Any]) -> Bar:
    what = "exactness: outputs and gradients against the reference"
    bar = f"{TOLERANCE:g}, or 4 x the reference's own float32 error"
    checks = results.get("correctness") or []
    if not checks:
        return Bar(what, "-", bar, None)
    worst = max(checks, key=lambda check: check["error"])
    value = f"{worst['error']:.1e} ({worst['contestant']}, {worst['worst']})"
    return Bar(what, value, bar, all(check["passed"] for check in checks))


def _gpu(results: dict[str, Any]) -> Bar:
    case = find(results, "train", **GPU_TARGET, dtype="bf16")
    row = row_of(case, OURS)
    what, bar = f"{_size(GPU_TARGET)}, bf16: share of the matmul floor", "at least 0.5"
    if row is None or case is None:
        return Bar(what, "-", bar, None)
    share = case["floors"][f"matmul x {row['products']}"]["median_ms"] / row["median_ms"]
    return Bar(what, f"{share:.2f}", bar, share >= 0.5)
