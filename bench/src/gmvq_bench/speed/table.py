"""A results file as tables: the comparison at the main size, the sweeps over K and N, the searches."""

from __future__ import annotations

from typing import Any

from ..markdown import table
from .contestants import CONTESTANTS
from .figures import PEER, find, row_of, slope, sweep
from .grid import CODES, LARGE, MAIN, ROWS, SEARCH, SWEEP

#: Cores that others may keep busy in a run that is to be shown.
DISTURBED = 0.1
_TITLES = {"train": "forward+backward", "forward": "forward", "eval": "eval", "search": "search"}


def render(results: dict[str, Any], *, provenance: bool = False) -> str:
    """All tables of a results file; ``provenance`` puts command, device and versions in front, for the docs."""
    parts = [_provenance(results)] if provenance else []
    parts += [f"### {title}\n\n{body}" for title, body in _sections(results) if body]
    return "\n\n".join(parts) + "\n"


def _sections(results: dict[str, Any]) -> list[tuple[str, str]]:
    main = f"N = {MAIN['n']}, K = {MAIN['k']}, D = {MAIN['d']}"
    return [
        (f"The layer at {main}, float32", _main(results, "fp32")),
        (f"The layer at {main}, bfloat16 latents in autocast", _main(results, "bf16")),
        (f"Forward+backward over K, D = {SWEEP['d']}", _codes(results)),
        (f"Forward+backward at K = {LARGE['k']}, N = {LARGE['n']}, D = {LARGE['d']}", _large(results)),
        (f"Memory of forward+backward over N, K = {MAIN['k']}, D = {MAIN['d']}", _rows(results)),
        ("Search: latents to indices", _searches(results)),
        ("Who took no part", _absent(results)),
        ("Noise", _noise(results)),
    ]


def _provenance(results: dict[str, Any]) -> str:
    env = results["environment"]
    names = ("torch", "gmvq", "vector-quantize-pytorch", "faiss-cpu", "triton")
    versions = ", ".join(f"{name} {env[name]}" for name in names if env.get(name))
    return (
        f"`{results['command']}`: {env['device']}, {env['threads']} threads; {versions}; source {env['source']}. "
        "Medians of interleaved repetitions."
    )


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _mb(value: float) -> str:
    return f"{value / 1e6:.1f}" if value < 1e8 else f"{value / 1e6:.0f}"


def _label(name: str, row: dict[str, Any]) -> str:
    return f"{name} (= {row['same_as']})" if "same_as" in row else name


def _main(results: dict[str, Any], dtype: str) -> str:
    """Time in ms and in multiples of the peer's, peak extra memory in N x K float32 tensors."""
    cases = {mode: find(results, mode, **MAIN, dtype=dtype) for mode in ("train", "eval", "forward")}
    cases = {mode: case for mode, case in cases.items() if case is not None}
    if "train" not in cases:
        return ""
    pairs = 4 * MAIN["n"] * MAIN["k"]
    header = ["contestant"]
    for mode in cases:
        header += [f"{_TITLES[mode]}, ms", "x peer"]
    header += ["extra memory, x N*K*4 B", "transient, MB", "extra in eval, x N*K*4 B", "runs on"]
    lines = []
    for name in CONTESTANTS:
        rows = {mode: row_of(case, name) for mode, case in cases.items()}
        train = rows["train"]
        if train is None:
            continue
        line = [_label(name, train)]
        for mode, row in rows.items():
            peer = row_of(cases[mode], PEER)
            line += [_ms(row["median_ms"]) if row else "-"]
            line += [f"{row['median_ms'] / peer['median_ms']:.2f}" if row and peer else "-"]
        line += [f"{train['peak_bytes'] / pairs:.2f}", _mb(train["transient_bytes"])]
        evaluated = rows.get("eval")
        line += [f"{evaluated['peak_bytes'] / pairs:.2f}" if evaluated else "-"]
        lines.append([*line, train.get("backend", "")])
    floors = cases["train"]["floors"]
    for floor in floors:
        line = [f"floor: {floor}"]
        for case in cases.values():
            line += [f"{case['floors'][floor]['median_ms']:.2f}" if floor in case["floors"] else "-", ""]
        lines.append([*line, "", "", "", ""])
    return table(header, lines)


def _codes(results: dict[str, Any]) -> str:
    n = SWEEP["n"] if len(sweep(results, "gm-vq")) and find(results, "train", k=CODES[0], **SWEEP) else 1024
    cases = {k: find(results, "train", n, k, SWEEP["d"]) for k in CODES}
    cases = {k: case for k, case in cases.items() if case is not None}
    if not cases:
        return ""
    lines = []
    for name in CONTESTANTS:
        rows = {k: row_of(case, name) for k, case in cases.items()}
        known = [row for row in rows.values() if row is not None]
        if not known:
            continue
        points = [(k, row["median_ms"]) for k, row in rows.items() if row is not None]
        cells = [f"{_ms(r['median_ms'])} / {_mb(r['peak_bytes'])}" if r else "-" for r in rows.values()]
        steepness = f"{slope(points):.2f}" if len(points) > 1 else "-"
        lines.append([_label(name, known[0]), *cells, steepness])
    for floor in ("matmul x 1", "matmul x 3", "bandwidth"):
        points = [(k, case["floors"][floor]["median_ms"]) for k, case in cases.items()]
        steepness = f"{slope(points):.2f}" if len(points) > 1 else "-"
        lines.append([f"floor: {floor}", *(f"{ms:.2f}" for _, ms in points), steepness])
    header = ["contestant: ms / extra MB", *(f"K = {k}" for k in cases), "slope of time"]
    return f"N = {n}.\n\n{table(header, lines)}"


def _large(results: dict[str, Any]) -> str:
    case = find(results, "train", **LARGE)
    if case is None:
        return ""
    pairs = 4 * LARGE["n"] * LARGE["k"]
    lines = []
    for name in case["contestants"]:
        row = row_of(case, name)
        if row is not None:
            floor = case["floors"][f"matmul x {row['products']}"]["median_ms"]
            lines.append(
                [
                    _label(name, row),
                    _ms(row["median_ms"]),
                    f"{row['median_ms'] / floor:.2f} ({row['products']} products)",
                    f"{row['peak_bytes'] / pairs:.3f}",
                ]
            )
    return table(("contestant", "ms", "x matmul floor", "extra memory, x N*K*4 B"), lines)


def _rows(results: dict[str, Any]) -> str:
    cases = {n: find(results, "train", n, MAIN["k"], MAIN["d"]) for n in sorted({*ROWS, MAIN["n"]})}
    cases = {n: case for n, case in cases.items() if case is not None}
    if len(cases) < 2:
        return ""
    lines = []
    for name in CONTESTANTS:
        rows = [row_of(case, name) for case in cases.values()]
        if sum(row is not None for row in rows) > 1:
            label = _label(name, next(row for row in rows if row is not None))
            cells = [
                f"{_mb(r['peak_bytes'])} / {_mb(r['kept_bytes'])} / {_mb(r['transient_bytes'])}" if r else "-"
                for r in rows
            ]
            lines.append([label, *cells])
    return table(("MB: peak / outputs and gradients / transient", *(f"N = {n}" for n in cases)), lines)


def _searches(results: dict[str, Any]) -> str:
    lines = []
    for size in SEARCH:
        case = find(results, "search", **size)
        flat = row_of(case, "faiss IndexFlatL2")
        for name in CONTESTANTS:
            row = row_of(case, name)
            if case is None or row is None:
                continue
            ms, other = row["median_ms"], case["identity"].get(name)
            lines.append(
                [
                    f"N={size['n']} K={size['k']} D={size['d']}",
                    name,
                    _ms(ms),
                    f"{ms / flat['median_ms']:.2f}" if flat else "-",
                    f"{ms / case['floors']['matmul x 1']['median_ms']:.2f}",
                    f"{size['n'] / ms:.0f}",
                    f"{other['differing']} ({other['theirs_closer']})" if other else "-",
                ]
            )
    header = ("size", "contestant", "ms", "x faiss IndexFlatL2", "x matmul floor", "thousand latents / s")
    return table((*header, "differing from gm-vq search (theirs closer)"), lines) if lines else ""


def _absent(results: dict[str, Any]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in results["cases"]:
        for name, row in case["contestants"].items():
            reason = row.get("skipped") or (f"FAILED: {row['failed']}" if "failed" in row else None)
            if reason:
                reasons.setdefault((name, reason), []).append(case["name"])
    return "\n".join(f"- {name}: {reason} ({', '.join(cases)})" for (name, reason), cases in reasons.items())


def _noise(results: dict[str, Any]) -> str:
    """How far apart repetitions of one and the same matrix product were: what a ratio can be off by."""
    spreads = [
        (floor["max_ms"] / floor["min_ms"], case["name"])
        for case in results["cases"]
        for floor in case["floors"].values()
        if "max_ms" in floor
    ]
    if not spreads:
        return ""
    middle = sorted(spread for spread, _ in spreads)[len(spreads) // 2]
    worst, where = max(spreads)
    text = (
        f"Slowest over fastest repetition of the matmul floors: {middle:.2f} in the median case, {worst:.2f} at most "
        f"({where})."
    )
    others = [
        (c["cores_of_others"], c["name"]) for c in results["cases"] if c.get("cores_of_others") is not None
    ]
    if others:
        most, where = max(others)
        text += f" Other processes kept {most:.2f} cores busy at most ({where})."
        text += " These figures are not fit to be shown." if most > DISTURBED else ""
    return text
