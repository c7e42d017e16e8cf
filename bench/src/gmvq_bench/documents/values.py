"""What some templates need beside the records of their results file, and the pictures of docs/uncertainty.md."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gmvq.evaluation.generation import Estimate
from gmvq.evaluation.plots import COLOURS
from gmvq.files import save_figure

from ..markdown import at
from ..statistics import mean_interval, paired
from ..uncertainty.measure import LABELS, Bin

OURS = ("gm-vq", "gm-vq, D = 16")
PROBES = {
    "linear_latents": "linear, latents",
    "linear_codes": "linear, codes",
    "linear_histogram": "linear, histogram",
    "knn_latents": "kNN, latents",
    "knn_latents_cosine": "kNN, cosine",
    "knn_codes": "kNN, codes",
}
_FIXED = "fixed grid"


def bottleneck(found: dict[str, Any], pictures: Path) -> dict[str, Any]:
    """Ours less the rival that is best in the mean, for each figure, paired by seed."""
    records = [r for r in found["records"] if r["seed"] >= 0]
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
    return {"probes": PROBES, "ours": ours, "duels": duels}


def uncertainty(found: dict[str, Any], pictures: Path) -> dict[str, Any]:
    """How many times as large the error is in the last bin as in the first, by setting and seed; draws the pictures."""
    records, ratios = found["records"], {}
    for setting in dict.fromkeys(at(records, "setting")):
        own = [r for r in records if (r["setting"], r["method"]) == (setting, OURS[0])]
        _draw(pictures / f"{setting}.png", own)
        ends = (at(own, "uncertainty", "bins", i, "error", "value") for i in (0, -1))
        ratios[setting] = [last / first for first, last in zip(*ends, strict=True)]
    return {"labels": LABELS, "ratios": ratios}


def _draw(path: Path, records: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(12.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    found = at(records, "uncertainty")
    curves = [
        (f"seed {seed}", [Bin(b["log_variance"], Estimate(**b["error"])) for b in u["bins"]])
        for seed, u in zip(at(records, "seed"), found, strict=True)
    ]
    _draw_calibration(axes[0], curves)
    for ax, part, label, nothing in (
        (axes[1], "local", "rank correlation with the error, per position", 0.0),
        (axes[2], "auroc", f"AUROC against {records[0]['other']}", 0.5),
    ):
        estimates = {}
        for name in found[0][part]:
            mean, half = mean_interval(at(found, part, name, "value"))
            estimates[name] = Estimate(mean, mean - (half or 0.0), mean + (half or 0.0))
        _draw_estimates(ax, estimates, label, nothing)
    save_figure(path, figure)


def _draw_calibration(ax: Any, series: Sequence[tuple[str, Sequence[Bin]]]) -> None:
    """Error around a position against log s^2, one curve for each (label, bins); dashed: proportional to s^2."""
    for number, (label, bins) in enumerate(series):
        x = [b.log_variance for b in bins]
        y = [b.error.value for b in bins]
        spread = [[b.error.value - b.error.low for b in bins], [b.error.high - b.error.value for b in bins]]
        colour = COLOURS[number % len(COLOURS)]
        ax.errorbar(
            x, y, spread, color=colour, marker="o", markersize=3.5, linewidth=1.3, label=label or None
        )
        if number == 0:
            middle = len(bins) // 2
            ax.plot(x, y[middle] * np.exp(np.array(x) - x[middle]), color="grey", linewidth=1, linestyle="--")
    values = [b.error.value for _, bins in series for b in bins]
    if min(values) > 0:
        ax.set_yscale("log")
        ax.set_ylim(min(values) / 2, max(values) * 2)
    ax.set_xlabel("mean log s² of the bin (dashed: error proportional to s²)", fontsize=8)
    ax.set_ylabel("mean squared error around the position", fontsize=8)
    if any(label for label, _ in series):
        ax.legend(fontsize=7, frameon=False)
    _plain(ax)


def _draw_estimates(ax: Any, values: Mapping[str, Estimate], label: str, nothing: float) -> None:
    """Scores with intervals as horizontal bars from ``nothing``, the value of a score that says nothing."""
    names = list(values)[::-1]
    for place, estimate in enumerate(values[name] for name in names):
        ax.barh(place, estimate.value - nothing, left=nothing, height=0.55, color=COLOURS[0], alpha=0.75)
        ax.plot([estimate.low, estimate.high], [place, place], color="black", linewidth=1.2)
    ax.set_yticks(range(len(names)), [LABELS[name].split(" (")[0] for name in names], fontsize=8)
    ax.axvline(nothing, color="grey", linewidth=0.8)
    ax.set_xlabel(label, fontsize=8)
    _plain(ax)


def _plain(ax: Any) -> None:
    ax.tick_params(which="both", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)


def ragged(found: dict[str, Any], pictures: Path) -> dict[str, Any]:
    """Of each method, size and spending the figures of all seeds; what is saved is None where one of them is."""
    records, rows = found["records"], []
    fixed: dict[int, list[dict[str, Any]]] = {}
    for r in records:
        fixed.setdefault(r["seed"], []).extend(r["points"][:1] if r["method"] == _FIXED else [])
    for method, size in dict.fromkeys((r["method"], r["codebook_size"]) for r in records):
        own = [r for r in records if (r["method"], r["codebook_size"]) == (method, size)]
        for number, first in enumerate(own[0]["points"]):
            points = at(own, "points", number)
            row = {name: at(points, name) for name in ("codes", "tree_bits", "bits", "bits_entropy", "psnr")}
            row |= {"method": method, "codebook_size": size, "spending": _spending(method, first["spending"])}
            for name, bits in (("saved", "bits"), ("saved_entropy", "bits_entropy")):
                shares = [saved(fixed[r["seed"]], p, bits) for r, p in zip(own, points, strict=True)]
                row[name] = None if method == _FIXED or None in shares else shares
            rows.append(row)
    return {"rows": rows}


def saved(fixed: list[dict[str, Any]], one: dict[str, Any], bits: str = "bits") -> float | None:
    """Share of the bits of the fixed grid at the same PSNR, linear between its points, that a point saves.

    None where its PSNR lies outside of theirs.
    """
    curve = sorted((each["psnr"], each[bits]) for each in fixed)
    for (low, less), (high, more) in itertools.pairwise(curve):
        if low <= one["psnr"] <= high:
            there = less + (more - less) * (one["psnr"] - low) / (high - low)
            return 1 - one[bits] / there
    return None


def _spending(method: str, spending: dict[str, Any]) -> str:
    if method != "ragged":
        return "-"
    if "error" in spending:
        return f"error {spending['error']} for every image"
    return ", ".join(f"{name} {value}" for name, value in spending.items()) or "a code for each position"
