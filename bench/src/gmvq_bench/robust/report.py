"""The report of a robust suite in Markdown: ours against the best rival, what losing settings share, every setting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ..markdown import render as filled
from ..markdown import table
from ..statistics import mean_interval
from .methods import ABLATIONS, DRESSED, METHODS, MORE, OURS, PUBLISHED, TUNED

#: Ours, and the group of rivals whose best it is compared with.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "as published": (OURS, PUBLISHED),
    "rivals started as our layer is": (OURS, DRESSED),
    "SimVQ, CVQ and FSQ": (OURS, MORE),
    "EMA VQ, both at the best of three rates": (TUNED[0], TUNED[1:]),
}
_MAIN = tuple(GROUPS)[:2]
#: How far below the rival's usage ours may lie.
_USAGE_SLACK = 0.005
_SUMMARY = "number|MSE ratio, geometric mean|worst|in|above 1|perplexity ratio, median|usage kept"


def scores(results: dict[str, Any]) -> pd.DataFrame:
    """A row for each setting and method that ran: geometric mean of the MSE over seeds, means of the rest, failed runs.

    A run that diverged or failed, or is worse, counts as a network that always shows the mean training example: its
    MSE, one code.
    """
    ceilings = {r["setting"]: r["mse_of_mean"] for r in reversed(results["runs"]) if "mse_of_mean" in r}
    rows = []
    for run in results["runs"]:
        ceiling = ceilings.get(run["setting"])
        if ceiling is not None:
            size = results["settings"][run["setting"]]["codebook_size"]
            test = run.get("test") or {"mse": ceiling, "perplexity": 1.0, "usage": 1.0 / size}
            log_mse = np.log(min(test["mse"], ceiling))
            figures = (log_mse, test["perplexity"], test["usage"], bool(run["error"]))
            rows.append((run["setting"], run["method"], *figures))
    columns = ["setting", "method", "mse", "perplexity", "usage", "failed"]
    by: Any = pd.DataFrame(rows, columns=columns).groupby(["setting", "method"], sort=False)
    return by.mean().assign(mse=np.exp(by["mse"].mean()), failed=by["failed"].sum())


def duels(found: pd.DataFrame, ours: str, rivals: Iterable[str], settings: Iterable[str]) -> pd.DataFrame:
    """Ours against the rival of the lowest MSE in each of the settings where both have run, a row each."""
    rows = {}
    for setting in settings:
        there = [name for name in rivals if (setting, name) in found.index]
        if (setting, ours) in found.index and there:
            rival = min(there, key=lambda name: found.loc[(setting, name), "mse"])
            mine, best = found.loc[(setting, ours)], found.loc[(setting, rival)]
            ratios = (mine.mse / best.mse, mine.perplexity / best.perplexity)
            rows[setting] = (rival, *ratios, mine.usage >= best.usage - _USAGE_SLACK)
    names = ["rival", "ratio", "perplexity_ratio", "usage_kept"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def geometric_mean(values: Any) -> float:
    return float(np.exp(np.log(values).mean()))


def summary(found: Any) -> list[str]:
    """Duels of at least one setting in a line, with the columns of ``_SUMMARY``."""
    ratio = found["ratio"]
    cells = [str(len(found)), f"{geometric_mean(ratio):.3f}", f"{ratio.max():.2f}", str(ratio.idxmax())]
    cells += [str(int((ratio > 1.0).sum())), f"{found['perplexity_ratio'].median():.2f}"]
    return [*cells, f"{found['usage_kept'].mean():.0%}"]


def render(results: dict[str, Any]) -> str:
    """The report of a results file."""
    there, found = {run["method"] for run in results["runs"]}, scores(results)
    methods = [name for name in (*METHODS, *ABLATIONS) if name in there]
    number = {name: setting["number"] for name, setting in results["settings"].items()}
    parities = {
        parity: [name for name in number if number[name] % 2 == rest]
        for rest, parity in enumerate(("even", "odd"))
    }
    lines = [
        [group, parity, *summary(fought)]
        for group, (ours, rivals) in GROUPS.items()
        for parity, settings in {**parities, "all": list(number)}.items()
        if len(fought := duels(found, ours, rivals, settings))
    ]
    ablations = ablation_table(results)
    text = filled(
        "robust.md.j2",
        results=results,
        ablations=ablations,
        summaries=table(["rivals", "settings", *_SUMMARY.split("|")], lines),
        common="" if ablations else _common(results, found),
        parities={parity: settings for parity, settings in parities.items() if settings},
        fought=[duels(found, *GROUPS[group], number)["ratio"].to_dict() for group in _MAIN],
        found=found.to_dict("index"),
        methods=methods,
    )
    return text.rstrip("\n") + "\n"


def properties(setting: dict[str, Any]) -> dict[str, list[str]]:
    """What a setting has in common with others: values by property; numbers in coarse classes."""
    side = 1 if setting["network"] == "sound" else 2
    rows = setting["batch"] * (setting["size"] // setting["downsample"]) ** side
    share = rows / setting["codebook_size"]
    plain = ("network", "data", "loss", "optimizer", "dim", "codebook_size", "downsample")
    return {
        "ending": list(setting["endings"]) or ["none"],
        **{name: [str(setting[name])] for name in plain},
        "steps": ["up to 500" if setting["steps"] <= 500 else "more than 500"],
        "rate": ["below 0.001" if setting["lr"] < 1e-3 else "0.001 or more"],
        "latents per code and batch": ["below 4" if share < 4 else "4 to 16" if share < 16 else "16 or more"],
    }


def _common(results: dict[str, Any], found: pd.DataFrame) -> str:
    """For every value of every property the geometric mean ratio over the settings that have it, the worst first."""
    frame: Any = pd.DataFrame(
        [
            (what, value, group, ratio)
            for group in _MAIN
            for setting, ratio in duels(found, *GROUPS[group], results["settings"])["ratio"].items()
            for what, values in properties(results["settings"][setting]).items()
            for value in values
        ],
        columns=["property", "value", "group", "ratio"],
    )
    head = ["property", "value", "settings", "ratio as published", "ratio in our dress", "above 1"]
    if frame.empty:
        return table(head, [])
    by = frame.groupby(["property", "value", "group"], sort=False)["ratio"]
    means = by.agg(geometric_mean).unstack(sort=False).reindex(columns=list(_MAIN))
    counts = by.agg(["size", lambda ratios: (ratios > 1.0).sum()]).groupby(level=[0, 1], sort=False).max()
    rows = [
        [
            *key,
            str(settings),
            *("–" if np.isnan(mean) else f"{mean:.3f}" for mean in means.loc[key]),
            str(lost),
        ]
        for key in means.max(axis=1).sort_values(ascending=False, kind="stable").index
        for settings, lost in [counts.loc[key]]
    ]
    return table(head, rows)


def ablation_table(results: dict[str, Any]) -> str:
    """Every changed layer against the layer, the most harmful change first; empty where there is none."""
    found, there, rows = scores(results), {run["method"] for run in results["runs"]}, []
    for name in (name for name in ABLATIONS if name in there):
        fought = duels(found, name, [OURS], results["settings"])
        mean, half = mean_interval(np.log(fought["ratio"]))
        interval = "" if half is None else f" [{np.exp(mean - half):.2f}, {np.exp(mean + half):.2f}]"
        odd = [results["settings"][setting]["number"] % 2 for setting in fought.index]
        halves = [fought["ratio"][[one == parity for one in odd]] for parity in (0, 1)]
        cells = [f"{geometric_mean(ratios):.2f}" if len(ratios) else "–" for ratios in halves]
        perplexity = f"{fought['perplexity_ratio'].median():.2f}"
        most = f"{fought['ratio'].max():.2f}"
        rows.append(
            (mean, [name, str(len(fought)), f"{np.exp(mean):.2f}{interval}", *cells, most, perplexity])
        )
    head = [
        "change",
        "settings",
        "MSE over the layer's [95 % interval]",
        "even",
        "odd",
        "most",
        "perplexity, median",
    ]
    return table(head, [cells for _, cells in sorted(rows, key=lambda row: -row[0])]) if rows else ""
