"""A study as Markdown and as a plot: PSNR and SSIM over bits per pixel, coded tokens beside JPEG and WebP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gmvq.files import save_figure

from ..markdown import render

_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STYLES = {"jpeg": ("#7f7f7f", "--"), "webp": ("#0072B2", ":")}
_RATES = {
    "fixed": ("#E69F00", "gm-vq, codes of one length"),
    "entropy": ("#009E73", "gm-vq, entropy of the codes"),
    "coded": ("#D55E00", "gm-vq, range-coded with the prior"),
}


def tables(results: dict[str, Any]) -> str:
    """The points, the bounds of those with the default beta, and the codecs."""
    means = _means(results)
    default = means[means["point.beta"].isna()]
    return render(
        "rd.md.j2",
        results=results,
        points=means.to_dict("records"),
        default=default.to_dict("records"),
        seeds=sorted({point["point"]["seed"] for point in results["points"]}),
        exact=sum(point["exact"] for point in results["points"]),
    )


def _means(results: dict[str, Any]) -> Any:
    """Means over seeds by K and beta; a beta of NaN is the default."""
    points: Any = pd.json_normalize(results["points"])
    points["point.beta"] = pd.to_numeric(points["point.beta"])
    keys = ["point.codebook_size", "point.beta"]
    return points.groupby(keys, dropna=False).mean(numeric_only=True).reset_index()


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw PSNR and SSIM over bits per pixel (logarithmic) to ``path``."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    means = _means(results)
    default, others = means[means["point.beta"].isna()], means[means["point.beta"].notna()]
    for axes, name, label in zip(figure.subplots(1, 2), ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for codec, points in results["codecs"].items():
            (colour, dash), curve = _STYLES[codec], pd.DataFrame(points)
            style = {"color": colour, "marker": "s", "markersize": 3, "label": codec.upper()}
            axes.semilogx(curve["bits_per_pixel"], curve[name], dash, **style)
        for rate, (colour, text) in _RATES.items():
            curve = default.sort_values(f"rates.{rate}")
            axes.semilogx(curve[f"rates.{rate}"], curve[name], "-o", color=colour, markersize=4, label=text)
        if len(others):
            text = "gm-vq, other beta, range-coded"
            axes.semilogx(others["rates.coded"], others[name], "x", color="#CC79A7", label=text)
        low, high = axes.get_xlim()
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="bits per pixel", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7.5)
    save_figure(path, figure)
