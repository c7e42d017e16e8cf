"""Plots for the report as SVG to put inside HTML: they take the page's text colour, in light and dark.

Figures are built without pyplot, so neither the backend nor any setting of the importing program is touched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .history import thin

Series = tuple[str, list[float], list[float]]
"""A label, the steps and the values."""

COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#0ea5b7")
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_SIZE = (5.6, 2.9)  # inches
_DASHED: dict[str, Any] = {"color": _INK, "alpha": 0.5, "linewidth": 1.0, "linestyle": (0, (4, 3))}


def line_chart(
    series: Sequence[Series], *, label: str, log: bool = False, limit: tuple[str, float] | None = None
) -> str:
    """Draw curves over training steps.

    A logarithmic axis has no room for zeros, which is what terms are before there is a codebook: they are left out.
    """
    figure, axes = _figure()
    positive = [_positive(one) for one in series]
    log = log and all(value >= 0 for one in series for value in one[2]) and all(one[2] for one in positive)
    series = positive if log else series
    for number, (name, steps, values) in enumerate(series):
        steps, values = thin(steps, values)
        colour = COLOURS[number % len(COLOURS)]
        marker = "o" if len(steps) < 3 else None
        axes.plot(steps, values, label=name, color=colour, linewidth=1.6, marker=marker, markersize=4)
    if limit is not None:
        axes.axhline(limit[1], **_DASHED, label=limit[0])
    if log:
        axes.set_yscale("log")
    else:
        _cut_start(axes, series, limit)
    _finish(axes, "step", label, legend=len(series) + (limit is not None) > 1)
    return _svg(figure)


def waveform_chart(series: Sequence[Series], *, time: str, label: str) -> str:
    """Draw curves over time, every point of them; the labels are of the axes."""
    figure, axes = _figure()
    for number, (name, times, values) in enumerate(series):
        axes.plot(times, values, label=name, color=COLOURS[number % len(COLOURS)], linewidth=0.8, alpha=0.85)
    axes.margins(x=0.0)
    _finish(axes, time, label, legend=True)
    return _svg(figure)


def usage_chart(histogram: NDArray[np.int64]) -> str:
    """Draw how often each code is used, most used first, on a logarithmic axis; unused codes are blank."""
    figure, axes = _figure()
    counts = np.sort(histogram)[::-1].astype(float)
    ranks = np.arange(1, counts.size + 1)
    used = counts > 0
    if used.any():
        axes.fill_between(
            ranks[used], counts[used], 0.5, step="mid", color=COLOURS[0], alpha=0.75, linewidth=0
        )
        mean = counts.sum() / counts.size
        axes.axhline(mean, **_DASHED, label=f"if all were used alike: {mean:,.3g}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5, top=max(counts.max(), 1.0) * 1.6)
    axes.set_xlim(0.5, counts.size + 0.5)
    _finish(axes, "code, most used first", "positions with the code", legend=bool(used.any()))
    return _svg(figure)


def distance_chart(nearest: NDArray[np.float64], *, label: str, mark: tuple[str, float] | None = None) -> str:
    """Draw the histogram of distances to the nearest other codeword, with a dashed mark."""
    figure, axes = _figure()
    top = float(nearest.max()) * 1.02 if nearest.max() > 0 else 1.0
    bins = min(48, max(8, int(1.5 * np.sqrt(nearest.size))))
    axes.hist(nearest, bins=bins, range=(0.0, top), color=COLOURS[0], alpha=0.75)
    if mark is not None:
        axes.axvline(mark[1], color=COLOURS[1], linewidth=1.4, linestyle=(0, (4, 3)), label=mark[0])
    axes.set_xlim(left=0.0, right=max(top, mark[1] * 1.3 if mark else 0.0))
    _finish(axes, label, "codewords", legend=mark is not None)
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    figure = require("matplotlib.figure", "train").Figure(figsize=_SIZE)
    figure.patch.set_alpha(0.0)
    figure.subplots_adjust(left=0.125, right=0.985, bottom=0.165, top=0.93)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    return figure, axes


def _positive(series: Series) -> Series:
    kept = [(step, value) for step, value in zip(*series[1:], strict=True) if value > 0]
    return series[0], [step for step, _ in kept], [value for _, value in kept]


def _cut_start(axes: Any, series: Sequence[Series], limit: tuple[str, float] | None) -> None:
    """Where the first tenth of training would squeeze the rest flat, cut the axis to the rest, and say so."""
    late = [v for _, _, values in series for v in values[len(values) // 10 :]]
    late += [limit[1]] if limit is not None else []
    everything = [v for _, _, values in series for v in values]
    low, high = min(late), max(late)
    if max(everything) - min(everything) > 3 * (high - low) > 0:
        margin = 0.06 * (high - low)
        axes.set_ylim(low - margin, high + margin)
        axes.set_title("axis cut: the start lies outside", color=_INK, alpha=0.7, fontsize=8, loc="right")


def _finish(axes: Any, x_label: str, y_label: str, *, legend: bool) -> None:
    axes.set_xlabel(x_label, color=_INK, fontsize=9)
    axes.set_ylabel(y_label, color=_INK, fontsize=9)
    axes.tick_params(which="both", colors=_INK, labelsize=8.5, length=3)
    axes.tick_params(which="minor", length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
        spine.set_alpha(0.4)
    axes.grid(visible=True, color=_INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="best")


def _svg(figure: Any) -> str:
    """Write a figure as an SVG element without addresses, fixed size or colours of its own for text."""
    canvas = require("matplotlib.backends.backend_svg", "train").FigureCanvasSVG(figure)
    buffer = io.StringIO()
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    return f'<svg {box.group(0)} role="img">{body}'.replace(_INK, "currentColor").strip()
