"""How methods look in every picture: colours for the colour-blind, panels, labels that do not overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

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


def draw_labels(ax: Any, points: list[tuple[str, float | None, float]], look: dict[str, Style]) -> None:
    """Names in a column to the right, at the height of their points where there is room, tied to them by a line.

    Args:
        points: (method, x, y); x None is the right edge.
    """
    ax.autoscale_view()
    right = ax.get_xlim()[1]
    places = [(name, right if x is None else x, y) for name, x, y in points]
    heights = [_fraction(ax, x, y) for _, x, y in places]
    room = min(1.45 * _FONT / (72 * 0.78 * _HEIGHT), 1.1 / max(1, len(places)))
    for (name, x, y), height in zip(places, spread(heights, room), strict=True):
        style = look[name]
        weight = {"fontweight": "bold"} if style.ours else {}
        slant = {"fontstyle": "italic"} if style.ceiling else {}
        ax.annotate(
            name,
            xy=(x, y),
            xytext=(1.05, height),
            textcoords="axes fraction",
            fontsize=_FONT + style.ours,
            color=style.color if style.coloured else "#444444",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style.color,
                "alpha": 0.45,
                "linewidth": 0.6,
                "relpos": (0, 0.5),
            },
            **weight,
            **slant,
        )


def _fraction(ax: Any, x: float, y: float) -> float:
    """Height of a point in its axes, 0 to 1."""
    height = ax.transLimits.transform(ax.transScale.transform((x, y)))[1]
    return min(1.0, max(0.0, float(height)))


def spread(heights: list[float], room: float) -> list[float]:
    """Move heights apart to at least ``room``, in their order, within 0 to 1 as far as they fit.

    A block of neighbours stays centred on what it holds.
    """
    blocks: list[tuple[list[int], float]] = []  # members, lowest position
    for i in sorted(range(len(heights)), key=heights.__getitem__):
        members, low = [i], heights[i]
        while blocks and blocks[-1][1] + len(blocks[-1][0]) * room > low:
            members = blocks.pop()[0] + members
            centre = sum(heights[j] for j in members) / len(members)
            length = room * (len(members) - 1)
            low = max(0.0, min(centre - length / 2, 1 - length))
        blocks.append((members, low))
    moved = [0.0] * len(heights)
    for members, low in blocks:
        for place, i in enumerate(members):
            moved[i] = low + place * room
    return moved
