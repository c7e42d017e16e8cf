"""A results file as tables: the comparison at the main size, the sweeps over K and N, the searches."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..markdown import table
from .contestants import ALL_PRODUCTS, CONTESTANTS
from .grid import CELLS, CELLS_N, CODES, GPU_SEARCH, LARGE, MAIN, ROWS, SEARCH, STEPS, SWEEP

OURS, PEER = "gm-vq", "VectorQuantize"
#: Cores that others may keep busy in a run that is to be shown.
DISTURBED = 0.1
_TITLES = {"train": "forward+backward", "eval": "eval", "forward": "forward"}
Row = dict[str, Any]


def find(
    results: Row, mode: str, n: int, k: int, d: int, dtype: str = "fp32", data: str = "normal"
) -> Row | None:
    """A case of a results file."""
    wanted = {"mode": mode, "n": n, "k": k, "d": d, "dtype": dtype, "data": data}
    cases = ({"data": "normal", **case} for case in results["cases"])
    return next((c for c in cases if all(c[key] == wanted[key] for key in wanted)), None)


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
        cases = _there((k, find(results, "train", n, k, SWEEP["d"])) for k in CODES)
        if len(cases) > 1:
            return cases
    return {}


def sweep(results: Row, name: str, figure: str = "median_ms") -> list[tuple[int, float]]:
    """(K, figure) of a contestant over the sweep of K."""
    rows = _there((k, row_of(case, name)) for k, case in swept(results).items())
    return [(k, row[figure]) for k, row in rows.items() if figure in row]


def render(results: Row) -> str:
    """All tables of a results file, below the command that made it, device and versions."""
    main = f"N = {MAIN['n']}, K = {MAIN['k']}, D = {MAIN['d']}"
    sections = {
        f"The layer at {main}, float32": _main(results, "fp32"),
        f"The layer at {main}, bfloat16 latents in autocast": _main(results, "bf16"),
        f"Forward+backward over K, D = {SWEEP['d']}": _codes(results),
        f"Forward+backward at K = {LARGE['k']}, N = {LARGE['n']}, D = {LARGE['d']}": _large(results),
        f"Memory of forward+backward over N, K = {MAIN['k']}, D = {MAIN['d']}": _rows(results),
        "Search: latents to indices": _searches(results),
        f"Search in large codebooks, N = {CELLS_N}": _by_cells(results),
        f"Training steps with large codebooks, N = {CELLS_N}": _steps(results),
        "Who took no part": _absent(results),
        "Noise": _noise(results),
    }
    parts = [f"### {title}\n\n{body}" for title, body in sections.items() if body]
    return "\n\n".join([_provenance(results), *parts]) + "\n"


def _provenance(results: Row) -> str:
    env = results["environment"]
    names = ("torch", "gmvq", "vector-quantize-pytorch", "faiss-cpu", "triton")
    versions = ", ".join(f"{name} {env[name]}" for name in names if env.get(name))
    return (
        f"`{results['command']}`: {env['device']}, {env['threads']} threads; {versions}; source {env['source']}. "
        f"Medians of interleaved repetitions, {env.get('clock', 'wall time')}."
    )


def _there(found: Iterable[tuple[Any, Row | None]]) -> dict[Any, Row]:
    return {key: value for key, value in found if value is not None}


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _mb(value: float) -> str:
    return _short(value / 1e6)


def _lines(
    cases: Mapping[Any, Row], cells: Callable[[Row, Row], list[str]], least: int = 1
) -> dict[str, list[str]]:
    """The cells of each contestant with figures in at least so many cases, one case after the other."""
    lines: dict[str, list[str]] = {}
    for name in CONTESTANTS:
        rows = [row_of(case, name) for case in cases.values()]
        known = [row for row in rows if row is not None]
        if len(known) < least:
            continue
        empty = ["-"] * len(cells(known[0], next(iter(cases.values()))))
        parts = (
            empty if row is None else cells(row, case) for row, case in zip(rows, cases.values(), strict=True)
        )
        same = f" (= {known[0]['same_as']})" if "same_as" in known[0] else ""
        lines[name] = [name + same, *(cell for part in parts for cell in part)]
    return lines


def _main(results: Row, dtype: str) -> str:
    """Time in ms and in multiples of the peer's, peak extra memory in N x K float32 tensors."""
    cases = _there((mode, find(results, mode, **MAIN, dtype=dtype)) for mode in _TITLES)
    if "train" not in cases:
        return ""
    pairs = 4 * MAIN["n"] * MAIN["k"]

    def times(row: Row, case: Row) -> list[str]:
        peer = row_of(case, PEER)
        return [_short(row["median_ms"]), f"{row['median_ms'] / peer['median_ms']:.2f}" if peer else "-"]

    lines = []
    for name, line in _lines(cases, times).items():
        train, evaluated = row_of(cases["train"], name), row_of(cases.get("eval"), name)
        if train is not None:
            held = f"{evaluated['peak_bytes'] / pairs:.2f}" if evaluated else "-"
            memory = [f"{train['peak_bytes'] / pairs:.2f}", _mb(train["transient_bytes"]), held]
            lines.append([*line, *memory])
    for floor in cases["train"]["floors"]:
        known = (case["floors"].get(floor) for case in cases.values())
        parts = ([f"{row['median_ms']:.2f}" if row else "-", ""] for row in known)
        lines.append([f"floor: {floor}", *(cell for part in parts for cell in part), "", "", ""])
    header = [text for mode in cases for text in (f"{_TITLES[mode]}, ms", "x peer")]
    memory = ["extra memory, x N*K*4 B", "transient, MB", "extra in eval, x N*K*4 B"]
    return f"{table(['contestant', *header, *memory], lines)}\n\n{_reached(cases)}".strip()


def _reached(cases: Mapping[str, Row]) -> str:
    """What share of its floor the layer reaches: the time of the matrix products that it makes over its own."""
    shares = []
    for mode, case in cases.items():
        row = row_of(case, OURS)
        floor = row and case["floors"].get(f"matmul x {row['products']}")
        if row and floor:
            share = f"{100 * floor['median_ms'] / row['median_ms']:.0f} %"
            shares.append(f"{share} of matmul x {row['products']} in {_TITLES[mode]}")
    return f"Share of the floor that {OURS} reaches: {', '.join(shares)}." if shares else ""


def _codes(results: Row) -> str:
    cases = swept(results)
    if not cases:
        return ""

    def steepness(points: list[tuple[int, float]]) -> str:
        return f"{slope(points):.2f}" if len(points) > 1 else "-"

    found = _lines(cases, lambda row, _: [f"{_short(row['median_ms'])} / {_mb(row['peak_bytes'])}"])
    lines = [[*line, steepness(sweep(results, name))] for name, line in found.items()]
    for floor in ("matmul x 1", "matmul x 3", "bandwidth"):
        points = [(k, case["floors"][floor]["median_ms"]) for k, case in cases.items()]
        lines.append([f"floor: {floor}", *(f"{ms:.2f}" for _, ms in points), steepness(points)])
    header = ["contestant: ms / extra MB", *(f"K = {k}" for k in cases), "slope of time"]
    return f"N = {next(iter(cases.values()))['n']}.\n\n{table(header, lines)}"


def _large(results: Row) -> str:
    case, pairs = find(results, "train", **LARGE), 4 * LARGE["n"] * LARGE["k"]

    def cells(row: Row, case: Row) -> list[str]:
        floor = row["median_ms"] / case["floors"][f"matmul x {row['products']}"]["median_ms"]
        times = [_short(row["median_ms"]), f"{floor:.2f} ({row['products']} products)"]
        return [*times, f"{row['peak_bytes'] / pairs:.3f}"]

    header = ("contestant", "ms", "x matmul floor", "extra memory, x N*K*4 B")
    return table(header, _lines({"": case}, cells).values()) if case else ""


def _rows(results: Row) -> str:
    cases = _there((n, find(results, "train", n, MAIN["k"], MAIN["d"])) for n in sorted({*ROWS, MAIN["n"]}))
    names = ("peak_bytes", "kept_bytes", "transient_bytes")
    lines = _lines(cases, lambda row, _: [" / ".join(_mb(row[name]) for name in names)], least=2)
    header = ("MB: peak / outputs and gradients / transient", *(f"N = {n}" for n in cases))
    return table(header, lines.values()) if lines else ""


def _searches(results: Row) -> str:
    def cells(row: Row, case: Row) -> list[str]:
        ms, flat = row["median_ms"], row_of(case, "faiss IndexFlatL2")
        other = case["identity"].get(row["name"])
        return [
            _short(ms),
            f"{ms / flat['median_ms']:.2f}" if flat else "-",
            f"{ms / case['floors']['matmul x 1']['median_ms']:.2f}",
            f"{case['n'] / ms:.0f}",
            f"{other['differing']} ({other['theirs_closer']})" if other else "-",
        ]

    lines = []
    for size in (*SEARCH, *GPU_SEARCH):
        case = find(results, "search", **size)
        if case is not None:
            named = {name: {**row, "name": name} for name, row in case["contestants"].items()}
            found = _lines({"": {**case, "contestants": named}}, cells)
            lines += [[f"N={size['n']} K={size['k']} D={size['d']}", *line] for line in found.values()]
    header = ("size", "contestant", "ms", "x faiss IndexFlatL2", "x matmul floor", "thousand latents / s")
    return table((*header, "differing from gm-vq search (theirs closer)"), lines) if lines else ""


def _by_cells(results: Row) -> str:
    """The search as it comes, which takes cells where they pay, and that by all products."""
    lines = []
    for size in CELLS:
        case = find(results, "search", **size)
        ours, products = row_of(case, "gm-vq search"), row_of(case, ALL_PRODUCTS)
        if case is not None and ours is not None and products is not None:
            names = [size["data"], str(size["k"]), str(size["d"])]
            times = [_short(row["median_ms"]) for row in (products, ours)]
            faster = f"{products['median_ms'] / ours['median_ms']:.2f}"
            lines.append([*names, *times, faster, str(case["identity"][ALL_PRODUCTS]["differing"])])
    header = ("latents", "K", "D", "all products, ms", "gm-vq search, ms", "times faster", "differing")
    return table(header, lines) if lines else ""


def _steps(results: Row) -> str:
    """Forward and backward beside the exact search of one code."""
    lines = []
    for size in STEPS:
        step = row_of(find(results, "train", **size), "gm-vq")
        search = row_of(find(results, "search", **size), "gm-vq search")
        if step is not None and search is not None:
            times = [_short(row["median_ms"]) for row in (step, search)]
            ratio = f"{step['median_ms'] / search['median_ms']:.2f}"
            lines.append([str(size["k"]), str(size["d"]), *times, ratio, f"{step['peak_bytes'] / 2**30:.2f}"])
    header = ("K", "D", "forward+backward, ms", "gm-vq search, ms", "x search", "extra memory, GiB")
    return table(header, lines) if lines else ""


def _absent(results: Row) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in results["cases"]:
        for name, row in case["contestants"].items():
            reason = row.get("skipped") or (f"FAILED: {row['failed']}" if "failed" in row else None)
            if reason:
                reasons.setdefault((name, reason), []).append(case["name"])
    return "\n".join(f"- {name}: {reason} ({', '.join(cases)})" for (name, reason), cases in reasons.items())


def _noise(results: Row) -> str:
    """How far apart repetitions of one and the same matrix product were: what a ratio can be off by."""
    floors = [
        (f, case["name"]) for case in results["cases"] for f in case["floors"].values() if "max_ms" in f
    ]
    if not floors:
        return ""
    spreads = [(floor["max_ms"] / floor["min_ms"], name) for floor, name in floors]
    worst, where = max(spreads)
    text = (
        "Slowest over fastest repetition of the matmul floors: "
        f"{statistics.median_high(s for s, _ in spreads):.2f} in the median case, {worst:.2f} at most ({where})."
    )
    others = [
        (c["cores_of_others"], c["name"]) for c in results["cases"] if c.get("cores_of_others") is not None
    ]
    if others:
        most, where = max(others)
        text += f" Other processes kept {most:.2f} cores busy at most ({where})."
        wall = results["environment"].get("clock") != "CPU time"
        text += " These figures are not fit to be shown." if wall and most > DISTURBED else ""
    return text
