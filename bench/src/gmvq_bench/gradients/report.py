"""The study of gradient estimators as Markdown tables and as a picture."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gmvq.files import save_figure

from ..markdown import render
from .statistics import CORRELATIONS, MEASURES, RATIOS

_MEASURED = {"all": "all codes", "4": "4 codes"}
_OF_OBJECTIVES = (
    "absolute error",
    "relative error",
    "relative bias",
    "1 - cosine",
    "batch bias",
    "batch cosine",
)


def table(study: dict[str, Any]) -> str:
    """The findings as Markdown: correlations, ALBO against the others, objectives, estimators."""
    rows = study["correlations"]
    whole = len({row["objective"] for row in rows}) == 1
    single = [row for row in rows if row["temperature"] == "0.5" and row["objective"] != "pooled"]
    groups = itertools.groupby(single, lambda row: (row["support"], row["objective"]))
    return render(
        "gradients.md.j2",
        study=study,
        measured=_MEASURED,
        measures=MEASURES,
        ratios=RATIOS,
        correlations=CORRELATIONS,
        pooled=[row for row in rows if whole or row["objective"] == "pooled"],
        single=[(*key, list(found)) for key, found in groups],
        objectives={"names": _OF_OBJECTIVES, "rows": _objectives(study["runs"])},
    )


def _objectives(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of every objective on every support."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["support"], run["objective"]), []).append(run)
    rows = []
    for (support, objective), found in groups.items():
        entropy = np.mean([run["entropy"] for run in found], axis=0)
        rows.append(
            {
                "support": support,
                "objective": objective,
                "entropy": [entropy[0], entropy[len(entropy) // 2], entropy[-1]],
                "mse": 1e3 * np.mean([run["mse"][-1] for run in found]),
                "means": [np.mean([run["cells"]["0.5"][name] for run in found]) for name in _OF_OBJECTIVES],
            }
        )
    return rows


def plot(study: dict[str, Any], path: Path) -> None:
    """Draw the study to ``path``; the ending says the format."""
    figure = Figure(figsize=(16, 8), layout="constrained")
    supports = list(dict.fromkeys(run["support"] for run in study["runs"]))
    panels = figure.subplots(len(supports), 3, squeeze=False)
    objectives = list(dict.fromkeys(run["objective"] for run in study["runs"]))
    colours = {name: f"C{number}" for number, name in enumerate(objectives)}
    for support, (entropy, scatter, estimators) in zip(supports, panels, strict=True):
        for objective in objectives:
            runs = [r for r in study["runs"] if (r["support"], r["objective"]) == (support, objective)]
            curves = np.array([run["entropy"] for run in runs])
            style = {"color": colours[objective], "label": objective}
            entropy.plot(runs[0]["step"], curves.mean(0), marker="o", markersize=3, **style)
            entropy.fill_between(
                runs[0]["step"], curves.min(0), curves.max(0), color=style["color"], alpha=0.15
            )
        for cloud in (c for c in study["points"] if c["support"] == support):
            scatter.loglog(cloud["entropy"], cloud["relative error"], ".", markersize=3, alpha=0.5,
                           color=colours[cloud["objective"]], label=cloud["objective"])  # fmt: skip
        _draw_estimators(study, support, estimators)
        titles = (
            "over training; band: range over seeds",
            "one dot per image and checkpoint",
            "end of training, ALBO",
        )
        labels = (("step", "H(q(c|x)), nats"), ("H(q(c|x)), nats", "relative error at 0.5"),
                  ("temperature", "root squared bias, standard deviation, relative"))  # fmt: skip
        for axes, title, (x, y) in zip((entropy, scatter, estimators), titles, labels, strict=True):
            axes.set(title=f"q(c|x) on {_MEASURED[support]}: {title}", xlabel=x, ylabel=y)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        scatter.set(xlim=(1e-6, 3.0), ylim=(0.3, 1e4))
        estimators.legend(fontsize=6, loc="lower center")
    save_figure(path, figure)


def _draw_estimators(study: dict[str, Any], support: str, axes: Any) -> None:
    """Bias and standard deviation over temperature, medians over images, at the last step."""
    rows = [
        r for r in study["grid"] if r["trained on"] == support and r["step"] == study["settings"]["steps"]
    ]
    series = dict.fromkeys((row["estimator"], row["support"], row["against"]) for row in rows)
    for number, key in enumerate(series):
        name, measured, against = key
        mine = [row for row in rows if (row["estimator"], row["support"], row["against"]) == key]
        label = name if measured == support else f"{name} on {_MEASURED[measured]} against {against}"
        bias = [(row["temperature"], row["relative bias"]["mean"]) for row in mine]
        squares = [4 ** row["relative error"]["mean"] - b**2 for row, (_, b) in zip(mine, bias, strict=True)]
        spread = [(tau, square**0.5) for (tau, _), square in zip(bias, squares, strict=True) if square > 0]
        shown = [(tau, b) for tau, b in bias if b > 0]  # Monte Carlo noise hides the others
        for points, style, what in ((shown, "o-", "bias"), (spread, "s--", "standard deviation")):
            axes.loglog(
                [x for x, _ in points],
                [y for _, y in points],
                style,
                color=f"C{number}",
                label=f"{label}: {what}",
            )
