"""What the templates of docs/uncertainty.md need beside the records, and the page's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gmvq.evaluation.generation import Estimate
from gmvq.files import save_figure

from ..markdown import at
from ..statistics import mean_interval, paired
from ..uncertainty.measure import LABELS, Bin
from ..uncertainty.plot import draw_calibration, draw_estimates

OURS = ("gm-vq", "gm-vq, D = 16")
PROBES = {
    "linear_latents": "linear, latents",
    "linear_codes": "linear, codes",
    "linear_histogram": "linear, histogram",
    "knn_latents": "kNN, latents",
    "knn_latents_cosine": "kNN, cosine",
    "knn_codes": "kNN, codes",
}


def values(part: str, found: dict[str, Any], pictures: Path) -> dict[str, Any]:
    """Values of the template of a part; draws the pictures of part ``uncertainty``."""
    records = found["records"]
    if part == "bottleneck":
        return {"probes": PROBES, **_duels([r for r in records if r["seed"] >= 0])}
    ratios = {}
    for setting in dict.fromkeys(at(records, "setting")):
        own = [r for r in records if (r["setting"], r["method"]) == (setting, OURS[0])]
        _draw(pictures / f"{setting}.png", own)
        ends = (at(own, "uncertainty", "bins", i, "error", "value") for i in (0, -1))
        ratios[setting] = [last / first for first, last in zip(*ends, strict=True)]
    return {"labels": LABELS, "ratios": ratios}


def _duels(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Ours less the rival that is best in the mean, for each figure, paired by seed."""
    methods = list(dict.fromkeys(at(records, "method")))
    ours = [name for name in OURS if name in methods]
    duels = {}
    for name in PROBES:
        by_seed = {
            m: {r["seed"]: 100 * r["probe"][name] for r in records if r["method"] == m} for m in methods
        }
        rivals = [m for m in methods if m not in OURS]
        best = max(rivals, key=lambda m: mean_interval(by_seed[m].values())[0])
        tests = [paired(by_seed[mine], by_seed[best]) for mine in ours]
        halves = ["" if t.half_width is None else f" ± {t.half_width:.1f}" for t in tests]
        duels[name] = best, [f"{t.difference:+.1f}{half}" for t, half in zip(tests, halves, strict=True)]
    return {"ours": ours, "duels": duels}


def _draw(path: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(12.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    found = at(records, "uncertainty")
    curves = [
        (f"seed {seed}", [Bin(b["log_variance"], Estimate(**b["error"])) for b in u["bins"]])
        for seed, u in zip(at(records, "seed"), found, strict=True)
    ]
    draw_calibration(axes[0], curves)
    for ax, part, label, nothing in (
        (axes[1], "local", "rank correlation with the error, per position", 0.0),
        (axes[2], "auroc", f"AUROC against {records[0]['other']}", 0.5),
    ):
        estimates = {}
        for name in found[0][part]:
            mean, half = mean_interval(at(found, part, name, "value"))
            estimates[name] = Estimate(mean, mean - (half or 0.0), mean + (half or 0.0))
        draw_estimates(ax, estimates, label, nothing)
    save_figure(path, figure)
