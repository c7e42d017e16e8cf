"""The study of gradient estimators as Markdown tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gmvq.files import save_figure

from .statistics import CORRELATIONS, MEASURES, RATIOS

_MEASURED = {"all": "all codes", "4": "4 codes"}


def table(study: dict[str, Any]) -> str:
    """The findings as Markdown: correlations, ALBO against the others, objectives, estimators."""
    seeds = len(study["settings"]["seeds"])
    parts = [
        f"{seeds} seeds; ± and brackets are 95 % intervals over seeds. Errors are root mean squares per image; in the "
        "tables after the correlations, medians over images. `layer`: the Gumbel-softmax at the layer's temperature of "
        "the step. A bias of 0 is one that Monte Carlo noise hides.",
        "**Correlation with H(q(c|x)), all objectives and checkpoints**",
        _pooled(study),
        "**The same per objective: Spearman, Gumbel-softmax at 0.5**",
        _per_objective(study),
    ]
    if study["comparisons"]:
        parts += [
            "**One objective against another, mean over training.** Errors as ratios, the rest as differences.",
            _comparisons(study),
        ]
    parts += ["**Objectives, mean over training, Gumbel-softmax at 0.5**", _objectives(study)]
    parts += ["**Estimators, default objective, end of training**", _estimators(study)]
    return "\n\n".join(parts) + "\n"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _r(value: dict[str, Any]) -> str:
    if value["low"] is None:
        return f"{value['mean']:.2f}"
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _pm(value: dict[str, Any], digits: int = 3) -> str:
    half = "" if value["half"] is None else f" ± {value['half']:.{digits}g}"
    return f"{value['mean']:.{digits}g}{half}"


def _ratio(value: dict[str, Any]) -> str:
    """A ratio with its interval, from log2 of it."""
    mean, half = value["mean"], value["half"]
    return f"{2**mean:.2f}" + (
        "" if half is None else f" [{2 ** (mean - half):.2f}, {2 ** (mean + half):.2f}]"
    )


def _pooled(study: dict[str, Any]) -> str:
    whole = {row["objective"] for row in study["correlations"]}
    rows = [
        [_MEASURED[row["support"]], row["temperature"], row["measure"]]
        + [_r(row[name]) if name in row else "-" for name in CORRELATIONS]
        for row in study["correlations"]
        if row["objective"] == "pooled" or len(whole) == 1
    ]
    return _rows(["q(c|x) on", "temperature", "of", *(name.capitalize() for name in CORRELATIONS)], rows)


def _per_objective(study: dict[str, Any]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for row in study["correlations"]:
        if row["temperature"] == "0.5" and row["objective"] != "pooled":
            groups.setdefault((row["support"], row["objective"]), []).append(_r(row["spearman"]))
    rows = [[_MEASURED[support], objective, *found] for (support, objective), found in groups.items()]
    return _rows(["q(c|x) on", "objective", *MEASURES], rows)


def _comparisons(study: dict[str, Any]) -> str:
    gaps = ("relative bias", "1 - cosine", "batch bias", "batch cosine")
    rows = [
        [_MEASURED[row["support"]], row["pair"], row["temperature"], _pm(row["entropy"]["mean"])]
        + [_ratio(row[name]["mean"]) if name in row else "-" for name in RATIOS]
        + [_pm(row[name]["mean"], 2) if name in row else "-" for name in gaps]
        for row in study["comparisons"]
    ]
    return _rows(["q(c|x) on", "pair", "temperature", "H(q), nats", *RATIOS, *gaps], rows)


def _objectives(study: dict[str, Any]) -> str:
    names = ("absolute error", "relative error", "relative bias", "1 - cosine", "batch bias", "batch cosine")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in study["runs"]:
        groups.setdefault((run["support"], run["objective"]), []).append(run)
    rows = []
    for (support, objective), runs in groups.items():
        means = [np.mean([np.mean(run["cells"]["0.5"][name]) for run in runs]) for name in names]
        entropies = [
            np.mean([run["entropy"][i] for run in runs]) for i in (0, len(runs[0]["entropy"]) // 2, -1)
        ]
        mse = np.mean([run["mse"][-1] for run in runs]) * 1e3
        rows.append(
            [_MEASURED[support], objective, *[f"{h:.2f}" for h in entropies], f"{mse:.1f}"]
            + [f"{mean:.3g}" for mean in means]
        )
    head = [
        "q(c|x) on",
        "objective",
        "H(q) at the start",
        "half of the checkpoints",
        "end",
        "test MSE x 1e-3",
    ]
    return _rows([*head, *names], rows)


def _estimators(study: dict[str, Any]) -> str:
    names = ("relative bias", "relative error", "1 - cosine", "batch bias", "batch error", "batch cosine")
    rows = [
        [
            f"{_MEASURED[row['support']]}, against {row['against']}",
            _MEASURED[row["trained on"]],
            *(row["estimator"], f"{row['temperature']:g}"),
            *(_ratio(row[name]) if name in RATIOS else _pm(row[name], 2) for name in names),
        ]
        for row in study["grid"]
        if row["step"] == study["settings"]["steps"]
    ]
    return _rows(["q(c|x) on", "trained on", "estimator", "tau", *names], rows)


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
