"""One picture of an ``Uncertainty``: error by quantile of log s^2, rank correlations, and AUROCs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gmvq.evaluation.generation import Estimate
from gmvq.evaluation.plots import COLOURS
from gmvq.files import save_figure

from .measure import LABELS, Bin, Uncertainty

_HEIGHT = 3.2  # inches


def plot_uncertainty(path: str | os.PathLike[str], found: Uncertainty) -> Path:
    """Write the picture; the suffix says the format. The folder is created; the file appears whole or not at all."""
    detect = found.auroc is not None
    figure = Figure(figsize=(4.2 * (3 if detect else 2), _HEIGHT), layout="constrained")
    axes = figure.subplots(1, 3 if detect else 2)
    draw_calibration(axes[0], [("", found.bins)])
    draw_estimates(axes[1], found.local, "rank correlation with the error, per position", 0.0)
    if found.auroc is not None:
        draw_estimates(
            axes[2],
            found.auroc,
            f"AUROC against {re.split('[(,:]', found.out_dataset)[0].strip() or 'others'}",
            0.5,
        )
    save_figure(Path(path), figure)
    return Path(path)


def draw_calibration(ax: Any, series: Sequence[tuple[str, Sequence[Bin]]]) -> None:
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


def draw_estimates(ax: Any, values: Mapping[str, Estimate], label: str, nothing: float) -> None:
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
