"""A study as Markdown and as a plot: PSNR over bits per pixel, coded tokens beside JPEG and WebP."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gmvq.files import save_figure

_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STYLES = {"jpeg": ("#7f7f7f", "--"), "webp": ("#0072B2", ":")}


def table(results: dict[str, Any]) -> str:
    """The points, means over seeds, as a Markdown table."""
    columns = (
        "K", "beta", "MSE x 1e-3", "PSNR, dB", "SSIM", "perplexity", "I(x; c), bits",
        "fixed", "H(qbar)", "entropy", "prior", "coded", "coded / prior",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for (size, beta), rows in sorted(
        grouped(results).items(), key=lambda item: (item[0][0], str(item[0][1]))
    ):
        rates = {name: _mean([row["rates"][name] for row in rows]) for name in rows[0]["rates"]}
        information = _mean([row["information"] for row in rows])
        cells = [
            str(size),
            "default" if beta is None else f"{beta:g}",
            f"{1e3 * _mean([row['mse'] for row in rows]):.2f}",
            f"{_mean([row['psnr'] for row in rows]):.2f}",
            f"{_mean([row['ssim'] for row in rows]):.3f}",
            f"{_mean([row['perplexity'] for row in rows]):.0f}",
            f"{information / math.log(2):.2f}",
            *(f"{rates[name]:.4f}" for name in ("fixed", "aggregate", "entropy", "prior", "coded")),
            f"{rates['coded'] / rates['prior']:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    points, where = results["points"], results["environment"]
    seeds = ", ".join(map(str, sorted({row["point"]["seed"] for row in points})))
    exact = sum(row["exact"] for row in points)
    note = (
        f"`{results['command']}`; {results['images']:,} test images of {results['data']}; means over seeds {seeds}; "
        f"rates in bits per pixel. The round trip was exact in {exact} of {len(points)} points. "
        f"{where['device']}, torch {where['torch']}."
    )
    return "\n".join([*lines, "", note, ""])


def bounds_table(results: dict[str, Any]) -> str:
    """Bits per dimension of the points with the default beta, means over seeds, as a Markdown table."""
    lines = ["| K | ELBO | ELBO with z = mu_c | importance-weighted bound |", "| --- | --- | --- | --- |"]
    for (size, beta), rows in sorted(grouped(results).items(), key=lambda item: item[0][0]):
        if beta is None:
            names = ("elbo", "elbo_discrete", "importance_weighted")
            cells = [f"{_mean([row['bits_per_dimension'][name] for row in rows]):.4f}" for name in names]
            lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def codec_table(results: dict[str, Any]) -> str:
    """JPEG and WebP as a Markdown table."""
    lines = [
        "| codec | quality | bits per pixel | MSE x 1e-3 | PSNR, dB | SSIM |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for codec, points in results["codecs"].items():
        for p in points:
            figures = f"{p['bits_per_pixel']:.4f} | {1e3 * p['mse']:.2f} | {p['psnr']:.2f} | {p['ssim']:.3f}"
            lines.append(f"| {codec} | {p['quality']} | {figures} |")
    return "\n".join([*lines, ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw PSNR and SSIM over bits per pixel (logarithmic) to ``path``."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, name, label in zip(figure.subplots(1, 2), ("psnr", "ssim"), ("PSNR, dB", "SSIM"), strict=True):
        for codec, points in results["codecs"].items():
            colour, dash = _STYLES[codec]
            x = [p["bits_per_pixel"] for p in points]
            axes.semilogx(
                x,
                [p[name] for p in points],
                dash,
                color=colour,
                marker="s",
                markersize=3,
                label=codec.upper(),
            )
        default = [(key, rows) for key, rows in sorted(grouped(results).items(), key=str) if key[1] is None]
        for rate, colour, text in (
            ("fixed", "#E69F00", "gm-vq, codes of one length"),
            ("entropy", "#009E73", "gm-vq, entropy of the codes"),
            ("coded", "#D55E00", "gm-vq, range-coded with the prior"),
        ):
            points = sorted(
                (_mean([r["rates"][rate] for r in rows]), _mean([r[name] for r in rows]))
                for _, rows in default
            )
            axes.semilogx(*zip(*points, strict=True), "-o", color=colour, markersize=4, label=text)
        others = [rows for key, rows in grouped(results).items() if key[1] is not None]
        if others:
            x = [_mean([r["rates"]["coded"] for r in rows]) for rows in others]
            y = [_mean([r[name] for r in rows]) for rows in others]
            axes.semilogx(x, y, "x", color="#CC79A7", label="gm-vq, other beta, range-coded")
        low, high = axes.get_xlim()
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7.5)
    save_figure(path, figure)


def grouped(results: dict[str, Any]) -> dict[tuple[int, float | None], list[dict[str, Any]]]:
    """The points by (K, beta)."""
    groups: dict[tuple[int, float | None], list[dict[str, Any]]] = {}
    for row in results["points"]:
        groups.setdefault((row["point"]["codebook_size"], row["point"]["beta"]), []).append(row)
    return groups


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
