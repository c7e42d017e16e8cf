"""How methods look in every picture: colours for the colour-blind, panels, a legend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .runs import Finals, mean_mse

_OURS = "#D55E00"
_BEST = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
_GREY = "#8c8c8c"
_SHAPES = "osD^vP*X"
_FONT = 7.5  # points
_WIDTH, _HEIGHT = 6.0, 4.3  # inches, of a panel


@dataclass(frozen=True)
class Style:
    """Look of a method; ``order`` 0 is ours, then by MSE."""

    color: str
    shape: str
    order: int
    ours: bool
    ceiling: bool

    @property
    def coloured(self) -> bool:
        return self.color not in (_GREY, "black")

    def marker(self) -> dict[str, Any]:
        """Arguments of an error bar with a marker."""
        size, edge = (10, "black") if self.ours else (6, self.color)
        face = {"markerfacecolor": self.color, "markeredgecolor": edge, "zorder": 30 - min(self.order, 20)}
        return {"color": self.color, "marker": self.shape, "markersize": size, "linestyle": "none", **face}

    def line(self) -> dict[str, Any]:
        """Arguments of a curve."""
        width = 2.6 if self.ours else 1.6 if self.coloured else 0.9
        dash = ":" if self.ceiling else "-"
        return {
            "color": self.color,
            "linewidth": width,
            "linestyle": dash,
            "zorder": 30 - min(self.order, 20),
        }


def styles(suite: dict[str, Any], by_setting: dict[str, Finals]) -> dict[str, Style]:
    """One look per method for all pictures: ours, the best few in colour, the rest grey, ceilings black."""
    ours = suite["ours"]

    def height(name: str) -> float:
        """Mean over settings of the logarithm of MSE against the best there."""
        logs = []
        for runs in by_setting.values():
            if runs.get(name):
                best = min(mean_mse(found) for found in runs.values() if found)
                logs.append(math.log(mean_mse(runs[name]) / best) if best > 0 else 0.0)
        return sum(logs) / len(logs) if logs else math.inf

    ceilings = {name for name, method in suite["methods"].items() if method.get("ceiling")}
    ranked = sorted((n for n in suite["methods"] if n != ours and n not in ceilings), key=height)
    look = {ours: Style(_OURS, "o", 0, True, ours in ceilings)}
    for i, name in enumerate(ranked):
        color = _BEST[i] if i < len(_BEST) else _GREY
        look[name] = Style(color, _SHAPES[1 + i % (len(_SHAPES) - 1)], 1 + i, False, False)
    for i, name in enumerate(sorted(ceilings - {ours})):
        look[name] = Style("black", "_", 1 + len(ranked) + i, False, True)
    return look


def panels(number: int, columns: int = 3) -> tuple[Any, list[Any]]:
    """A figure with so many axes in rows."""
    columns = min(number, columns)
    rows = math.ceil(number / columns)
    make = Figure
    figure = make(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[number:]:
        spare.remove()
    for ax in axes[:number]:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[:number]


def log_ticks(ax: Any, heights: list[float]) -> None:
    """A log axis around ``heights`` with plain numbers at the ticks."""
    heights = [h for h in heights if h > 0 and math.isfinite(h)]
    ax.set_yscale("log")
    if not heights:
        return
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


def name_methods(figure: Any, names: list[str], look: dict[str, Style]) -> None:
    """One legend to the right of all panels, ours first, then by MSE."""
    shown: dict[str, Any] = {name: look[name].line() | {"marker": look[name].shape} for name in names}
    handles = [
        Line2D([], [], **shown[name], label=name) for name in sorted(names, key=lambda name: look[name].order)
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=_FONT, frameon=False)
