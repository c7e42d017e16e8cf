"""Pictures of a results file: MSE against perplexity, learning curves, entropy over steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gmvq.files import save_figure

from ..statistics import mean_interval
from .plot_style import Style, log_ticks, name_methods, panels, styles
from .runs import Finals, figures, finals

Panel = Callable[[Any, Finals, dict[str, Style]], None]


def plot_all(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the results hold to ``folder`` as PNG; return the files."""
    suite = results["suite"]
    by_setting = {name: finals(results, name) for name in suite["settings"]}
    by_setting = {name: runs for name, runs in by_setting.items() if any(runs.values())}
    if not by_setting:
        return []
    look = styles(suite, by_setting)
    figures_by_name = {
        "mse_perplexity": _per_setting(results, by_setting, look, _mse_perplexity),
        "learning_curves": _per_setting(results, _with_curve(by_setting, "mse"), look, _learning_curves),
        "conditional_entropy": _per_setting(
            results, _with_curve(by_setting, "conditional_entropy"), look, _conditional_entropy
        ),
    }
    start = re.sub(r"[^\w.-]+", "_", suite["name"])
    files = {folder / f"{start}_{name}.png": figure for name, figure in figures_by_name.items() if figure}
    for path, figure in files.items():
        save_figure(path, figure)
    return list(files)


def _per_setting(
    results: dict[str, Any], by_setting: dict[str, Finals], look: dict[str, Style], draw: Panel
) -> Any:
    """A figure with one panel per setting; None without settings."""
    if not by_setting:
        return None
    figure, axes = panels(len(by_setting))
    for ax, (setting, runs) in zip(axes, by_setting.items(), strict=True):
        draw(ax, {name: found for name, found in runs.items() if found}, look)
        ax.set_title(setting, fontsize=10)
    name_methods(figure, list({name for runs in by_setting.values() for name in runs if runs[name]}), look)
    _caption(figure, results)
    return figure


def _caption(figure: Any, results: dict[str, Any]) -> None:
    suite, env = results["suite"], results["environment"]
    seeds = len(suite["seeds"])
    figure.suptitle(f"{suite['name']}: {seeds} seed{'s' * (seeds != 1)}, {env['device']}", fontsize=9)


def _mse_perplexity(ax: Any, runs: Finals, look: dict[str, Style]) -> None:
    """A marker per method with 95 % intervals; methods without codes as lines."""
    heights = []
    for name, found in runs.items():
        style = look[name]
        y, dy = mean_interval(1e3 * v for v in figures(found, "mse").values())
        widths = figures(found, "perplexity")
        heights += [y - (dy or 0), y + (dy or 0)]
        if style.ceiling or not widths:
            ax.axhline(y, color=style.color, linestyle=":", linewidth=1.2)
            continue
        x, dx = mean_interval(widths.values())
        ax.errorbar(x, y, xerr=dx, yerr=_error(y, dy), **style.marker(), elinewidth=1, capsize=2)
    ax.set(xlabel="perplexity of the codes, test", ylabel="MSE x 1e-3, test (log)")
    ax.margins(x=0.06)
    log_ticks(ax, heights)


def _error(y: float, half: float | None) -> Any:
    """An error bar that stays above zero on a log axis."""
    return None if half is None else [[min(half, 0.9 * y)], [half]]


def _learning_curves(ax: Any, runs: Finals, look: dict[str, Style]) -> None:
    _curves(ax, runs, look, "mse", 1e3, log=True)
    ax.set(xlabel="step", ylabel="training MSE x 1e-3 (log)")


def _conditional_entropy(ax: Any, runs: Finals, look: dict[str, Style]) -> None:
    _curves(ax, runs, look, "conditional_entropy", 1, log=False)
    ax.set(xlabel="step", ylabel="H(q), nats per position")


def _curves(ax: Any, runs: Finals, look: dict[str, Style], field: str, factor: float, *, log: bool) -> None:
    """Median over seeds and the band between the extremes."""
    late = []
    for name in sorted(runs, key=lambda name: look[name].order, reverse=True):
        steps, values = _stacked(runs[name], field)
        if not steps.size:
            continue
        style, values = look[name], factor * values
        middle = np.median(values, axis=0)
        ax.plot(steps, middle, **style.line())
        if len(values) > 1 and style.coloured:
            ax.fill_between(
                steps, values.min(axis=0), values.max(axis=0), color=style.color, alpha=0.18, lw=0
            )
        late += list(middle[len(middle) // 8 :])  # the first steps would squeeze the rest
    ax.margins(x=0)
    if log:
        log_ticks(ax, late)


def _stacked(runs: dict[int, dict[str, Any]], field: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and a row per seed, over the steps where every seed that has the curve has a finite value."""
    rows = []
    for run in runs.values():
        curve = run.get("curve") or {}
        pairs = zip(curve.get("step") or [], curve.get(field) or [], strict=False)
        row = {step: value for step, value in pairs if value is not None and math.isfinite(value)}
        rows += [row] if row else []
    steps = sorted(set.intersection(*map(set, rows))) if rows else []
    return np.array(steps, dtype=float), np.array(
        [[row[step] for step in steps] for row in rows], dtype=float
    )


def _with_curve(by_setting: dict[str, Finals], field: str) -> dict[str, Finals]:
    """Only the settings and methods that have a curve of this."""
    kept = {
        setting: {name: found for name, found in runs.items() if _stacked(found, field)[0].size}
        for setting, runs in by_setting.items()
    }
    return {setting: runs for setting, runs in kept.items() if runs}
