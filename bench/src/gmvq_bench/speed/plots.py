"""Cost against K on log-log axes: time with its floors, and extra memory, for every contestant of the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gmvq.files import save_figure

from .contestants import CONTESTANTS
from .grid import SWEEP
from .table import slope, sweep, swept

_FLOORS = {"matmul x 1": ":", "matmul x 3": "--", "bandwidth": "-."}


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the sweep over K of a results file to ``path``; the ending says the format."""
    if len(sweep(results, "gm-vq")) < 2:
        raise ValueError(
            "nothing to plot: the results hold fewer than two codebook sizes of the sweep over K"
        )
    figure = Figure(figsize=(12, 5), layout="constrained")
    time, memory = figure.subplots(1, 2)
    shown = [name for name in CONTESTANTS if sweep(results, name) and not _is_copy(results, name)]
    for number, name in enumerate(shown):
        ours = CONTESTANTS[name].ours
        style = {"marker": "os"[number >= 10], "markersize": 4, "color": f"C{number % 10}"}
        style |= {"linewidth": 2.2} if ours else {"linewidth": 1.0, "alpha": 0.8}
        points = sweep(results, name)
        steepness = f" (slope {slope(points):.2f})" if len(points) > 1 else ""
        time.loglog(*zip(*points, strict=True), **style, label=name + steepness)
        held = sweep(results, name, "peak_bytes")
        memory.loglog([k for k, _ in held], [b / 1e6 for _, b in held], **style, label=name)
    cases = swept(results)
    n = next(iter(cases.values()))["n"]
    for floor, line in _FLOORS.items():
        points = [(k, case["floors"][floor]["median_ms"]) for k, case in cases.items()]
        time.loglog(*zip(*points, strict=True), linestyle=line, color="black", label=f"floor: {floor}")
    pairs = [(k, 4 * n * k / 1e6) for k, _ in sweep(results, "gm-vq")]
    memory.loglog(*zip(*pairs, strict=True), linestyle="--", color="black", label="one N x K float32 tensor")
    where = results["environment"]["device"]
    for axes, label in ((time, "forward+backward, ms"), (memory, "extra memory, MB")):
        axes.set(xlabel="K, codes", ylabel=label, title=f"N = {n}, D = {SWEEP['d']}")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(where, fontsize=9)
    save_figure(path, figure)


def _is_copy(results: dict[str, Any], name: str) -> bool:
    """Whether a contestant was the same as another one wherever it took part."""
    rows = [
        c["contestants"][name] for c in results["cases"] if name in c["contestants"] and c["mode"] == "train"
    ]
    return all("same_as" in row or "median_ms" not in row for row in rows)
