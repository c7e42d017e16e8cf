"""The pictures of a results file: MSE against perplexity, and learning curves, a panel for each setting."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from gmvq.files import save_figure

from ..statistics import mean_interval
from .runs import Finals, figures, finals, mean_mse

_OURS = "#D55E00"
_BEST = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for the colour-blind
_GREY = "#8c8c8c"
_SHAPES = "sD^vP*X"
#: Steps from which curves are drawn.
_LONG = 2000
_WIDTH, _HEIGHT = 6.0, 4.3  # inches, of a panel


def plot_all(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the results hold to ``folder`` as PNG, of long trainings learning curves too; return the files."""
    suite = results["suite"]
    found = {setting: finals(results, setting) for setting in suite["settings"]}
    found = {setting: {name: r for name, r in runs.items() if r} for setting, runs in found.items()}
    by_setting = {setting: runs for setting, runs in found.items() if runs}
    kinds = {"mse_perplexity": _mse_perplexity} if by_setting else {}
    if by_setting and min(setting["steps"] for setting in suite["settings"].values()) >= _LONG:
        kinds["curves"] = _curves
    return [_plot(results, by_setting, kind, draw, folder) for kind, draw in kinds.items()]


def _plot(
    results: dict[str, Any], by_setting: dict[str, Finals], kind: str, draw: Callable[..., Any], folder: Path
) -> Path:
    """One figure with a panel for each setting and a legend for all."""
    suite, device = results["suite"], results["environment"]["device"]
    columns = min(len(by_setting), 3)
    rows = math.ceil(len(by_setting) / columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    looks, shown = _looks(suite, by_setting), {}
    for ax, (setting, runs) in zip(axes, by_setting.items(), strict=False):
        drawn, heights = draw(ax, runs, looks)
        shown |= drawn
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        _log_ticks(ax, [height for height in heights if height > 0 and math.isfinite(height)])
        ax.set_title(setting, fontsize=10, parse_math=False)
    for spare in axes[len(by_setting) :]:
        spare.remove()
    handles = {name.replace("$", r"\$"): shown[name] for name in looks if name in shown}
    place = {"loc": "outside right upper", "fontsize": 7.5, "frameon": False}
    figure.legend(list(handles.values()), list(handles), **place)
    seeds = len(suite["seeds"])
    title = f"{suite['name']}: {seeds} seed{'s' * (seeds != 1)}, {device}"
    figure.suptitle(title, fontsize=9, parse_math=False)
    path = folder / (re.sub(r"[^\w.-]+", "_", suite["name"]) + f"_{kind}.png")
    save_figure(path, figure)
    return path


def _looks(suite: dict[str, Any], by_setting: dict[str, Finals]) -> dict[str, dict[str, Any]]:
    """How every method is drawn, in the legend's order: ours, by MSE with the best few in colour, ceilings black."""

    def height(name: str) -> float:
        """Mean over settings of the logarithm of MSE against the best there."""
        logs = [
            math.log(mean_mse(runs[name]) / max(min(map(mean_mse, runs.values())), 1e-30))
            for runs in by_setting.values()
            if name in runs
        ]
        return sum(logs) / len(logs) if logs else math.inf

    ceilings = sorted(name for name, method in suite["methods"].items() if method.get("ceiling"))
    others = sorted((n for n in suite["methods"] if n != suite["ours"] and n not in ceilings), key=height)
    own = {"color": _OURS, "marker": "o", "markersize": 10, "markeredgecolor": "black", "zorder": 30}
    looks = {suite["ours"]: own}
    for i, name in enumerate(others):
        color, marker = _BEST[i] if i < len(_BEST) else _GREY, _SHAPES[i % len(_SHAPES)]
        looks[name] = {"color": color, "marker": marker, "markersize": 6, "zorder": 29 - min(i, 19)}
    return looks | {name: {"color": "black"} for name in ceilings}


#: What was drawn, by name, and its heights.
_Drawn = tuple[dict[str, Any], list[float]]


def _mse_perplexity(ax: Any, runs: Finals, looks: dict[str, dict[str, Any]]) -> _Drawn:
    """A marker for each method with 95 % intervals, of methods without codes a line."""
    drawn, heights = {}, []
    for name, found in runs.items():
        y, dy = mean_interval(1e3 * v for v in figures(found, "mse").values())
        widths = figures(found, "perplexity")
        heights += [y - (dy or 0), y + (dy or 0)]
        if "marker" not in looks[name] or not widths:
            drawn[name] = ax.axhline(y, color=looks[name]["color"], linestyle=":", linewidth=1.2)
            continue
        x, dx = mean_interval(widths.values())
        # The error bar stays above zero on a log axis.
        error = None if dy is None else [[min(dy, 0.9 * y)], [dy]]
        drawn[name] = ax.errorbar(x, y, error, dx, linestyle="none", elinewidth=1, capsize=2, **looks[name])
    ax.set(xlabel="perplexity of the codes, test", ylabel="MSE x 1e-3, test (log)")
    ax.margins(x=0.06)
    return drawn, heights


def _curves(ax: Any, runs: Finals, looks: dict[str, dict[str, Any]]) -> _Drawn:
    """The training MSE over steps, mean over seeds, each point over the steps since the one before."""
    drawn, heights = {}, []
    for name, found in runs.items():
        curves = [run.get("curve") or {} for run in found.values()]
        points: Any = pd.concat(pd.Series(curve.get("mse"), curve.get("step"), float) for curve in curves)
        mean = 1e3 * points.groupby(level=0).mean()
        look = {key: looks[name][key] for key in ("color", "zorder") if key in looks[name]}
        drawn[name] = ax.plot(mean.index, mean, linewidth=1.5, **look)[0]
        heights += [height for height in mean if math.isfinite(height)]
    ax.set(xlabel="step (log)", ylabel="MSE x 1e-3, training (log)")
    if heights:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
        for which in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            which(ticker.FuncFormatter(lambda x, _: f"{x:,g}"))
    return drawn, heights


def _log_ticks(ax: Any, heights: list[float]) -> None:
    """A log axis around ``heights`` with plain numbers at the ticks; a plain axis without any."""
    if not heights:
        return
    ax.set_yscale("log")
    low, high = min(heights), max(heights)
    pad = max(1.02, (high / low) ** 0.06)
    ax.set_ylim(low / pad, high * pad)
    if high / low < 8:
        major = ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    else:
        major = ticker.LogLocator(subs=(1, 2, 3, 5, 7) if high / low < 40 else (1, 2, 5))
    ax.yaxis.set_major_locator(major)
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
