"""Correlations of entropy and gradient error, and objectives against each other, over the runs of ``run_study``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MEASURES = ("absolute error", "absolute bias", "relative error", "relative bias", "1 - cosine")
#: The Gumbel-softmax at the layer's temperature of the time and at 0.5; the last with respect to the logits.
CELLS = ("layer", "0.5", "0.5, logits")
#: Over images and checkpoints; of mean H and median error over checkpoints alone; over images at each checkpoint.
CORRELATIONS = ("pearson", "pearson of logs", "spearman", "pearson of checkpoints", "spearman at one step")
BATCH_MEASURES = ("batch error", "batch bias", "batch cosine")
RATIOS = (
    "absolute error",
    "relative error",
    "batch error",
)  # are averaged and compared in log2
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_POINTS = 150
#: Images whose exact gradient is smaller than this, in units of the batch's largest, are left out: their posterior is
#: one-hot for every purpose, and a relative error means nothing.
NEGLIGIBLE = 1e-9


def interval(values: Iterable[float]) -> dict[str, float | None]:
    """Mean and half-width of the 95 % t-interval over seeds; None for one seed."""
    numbers = np.array([*values], dtype=float)
    half = None
    if len(numbers) > 1:
        half = _T.get(len(numbers) - 1, 2.2) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return {"mean": float(numbers.mean()), "half": half}


def correlation_interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean correlation over seeds with its 95 % interval: a t-interval of Fisher's z = artanh r, transformed back."""
    z = interval(np.arctanh(np.clip(values, -1 + 1e-9, 1 - 1e-9)))
    centre, half = z["mean"] or 0.0, z["half"]
    low, high = (None, None) if half is None else (math.tanh(centre - half), math.tanh(centre + half))
    return {"mean": math.tanh(centre), "low": low, "high": high}


def pearson(x: Array, y: Array) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def ranks(x: Array) -> Array:
    """Ranks from 0, ties sharing their mean."""
    _, group, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[group]


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation."""
    return pearson(ranks(x), ranks(y))


def summarise(runs: list[dict[str, Any]], grid: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything of the study but its settings, JSON-able and rounded to five digits, from the runs' arrays.

    Returns:
        ``runs``: per run its curves over checkpoints, of each measure the median over images.
        ``correlations``: of H(q(c|x)) with each measure, per objective and over all of them (``pooled``).
        ``comparisons``: ALBO against ELBO of equal beta, seed and step, and against no KL: log2 of the ratio of errors,
        differences of the others and of entropies, mean over checkpoints and at the last.
        ``grid``, averaged over seeds (of errors log2).
        ``points``, some (entropy, relative error, absolute error) per objective.
    """
    objectives = list(dict.fromkeys(run["objective"] for run in runs))
    supports = list(dict.fromkeys(run["support"] for run in runs))
    curves = [_curves(run) for run in runs]
    found = {
        "runs": curves,
        "correlations": [
            row
            for support in supports
            for objective in [*objectives, *(["pooled"] if len(objectives) > 1 else [])]
            for row in _correlations(runs, support, objective)
        ],
        "comparisons": [
            row
            for support in supports
            for first, second in (("albo", "elbo"), ("albo, beta = 1", "elbo, beta = 1"), ("albo", "none"))
            if first in objectives and second in objectives
            for row in _comparisons(curves, support, first, second)
        ],
        "grid": _averaged(grid),
        "points": [_points(run) for run in runs if run["seed"] == runs[0]["seed"]],
    }
    return _rounded(found)


def _rounded(value: Any) -> Any:
    """Floats to five digits."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _values(run: dict[str, Any], cell: str, measure: str) -> Array:
    """(checkpoints, images), or (checkpoints,) of the batch."""
    return np.stack([point["cells"][cell][measure] for point in run["checkpoints"]])


def _entropies(run: dict[str, Any]) -> Array:
    return np.stack([point["entropy"] for point in run["checkpoints"]])


def _logs(values: Array) -> Array:
    return np.log(np.maximum(values, 1e-30))


def _usable(run: dict[str, Any]) -> NDArray[np.bool_]:
    norm = _values(run, "0.5", "norm")
    return norm > NEGLIGIBLE * norm.max(-1, keepdims=True)


def _medians(values: Array, usable: NDArray[np.bool_]) -> list[float]:
    """Median over the usable images of each checkpoint, 0 where there are none."""
    return [float(np.median(row[use])) if use.any() else 0.0 for row, use in zip(values, usable, strict=True)]


def _curves(run: dict[str, Any]) -> dict[str, Any]:
    points = run["checkpoints"]
    curves = {key: [point[key] for point in points] for key in ("step", "temperature", "mse")}
    usable = _usable(run)
    cells = {
        cell: {m: _medians(_values(run, cell, m), usable) for m in (*MEASURES, "norm")}
        | {m: _values(run, cell, m).tolist() for m in BATCH_MEASURES if m in points[0]["cells"][cell]}
        for cell in CELLS
    }
    names = {key: run[key] for key in ("objective", "support", "seed")}
    entropy = {"entropy": _entropies(run).mean(-1).tolist(), "left out": (1.0 - usable.mean(-1)).tolist()}
    return {**names, **curves, **entropy, "cells": cells}


def _correlations(runs: list[dict[str, Any]], support: str, objective: str) -> list[dict[str, Any]]:
    chosen = [r for r in runs if r["support"] == support and objective in (r["objective"], "pooled")]
    by_seed = [[r for r in chosen if r["seed"] == seed] for seed in dict.fromkeys(r["seed"] for r in chosen)]
    rows = []
    for cell in CELLS:
        for measure in MEASURES:
            found: dict[str, list[float]] = {name: [] for name in CORRELATIONS}
            if not measure.endswith("error"):  # a bias may be zero
                del found["pearson of logs"]
            for group in by_seed:
                entropy = np.concatenate([_entropies(r) for r in group], axis=1)
                values = np.concatenate([_values(r, cell, measure) for r in group], axis=1)
                usable = np.concatenate([_usable(r) for r in group], axis=1)
                found["pearson"].append(pearson(entropy[usable], values[usable]))
                found["spearman"].append(spearman(entropy[usable], values[usable]))
                if "pearson of logs" in found:
                    found["pearson of logs"].append(pearson(_logs(entropy[usable]), _logs(values[usable])))
                means = np.concatenate([_entropies(r).mean(-1) for r in group])
                medians = np.concatenate([_medians(_values(r, cell, measure), _usable(r)) for r in group])
                found["pearson of checkpoints"].append(pearson(means, medians))
                steps = [
                    spearman(h[u], v[u]) for h, v, u in zip(entropy, values, usable, strict=True) if u.any()
                ]
                found["spearman at one step"].append(float(np.mean(steps)) if steps else 0.0)
            names = {"support": support, "objective": objective, "temperature": cell, "measure": measure}
            rows.append(names | {name: correlation_interval(values) for name, values in found.items()})
    return rows


def _comparisons(curves: list[dict[str, Any]], support: str, first: str, second: str) -> list[dict[str, Any]]:
    def pick(name: str) -> list[dict[str, Any]]:
        return [run for run in curves if run["support"] == support and run["objective"] == name]

    pairs = list(zip(pick(first), pick(second), strict=True))
    rows = []
    for cell in CELLS:
        row: dict[str, Any] = {"support": support, "pair": f"{first} / {second}", "temperature": cell}
        gaps = [np.subtract(a["entropy"], b["entropy"]) for a, b in pairs]
        row["entropy"] = {"mean": interval(g.mean() for g in gaps), "last": interval(g[-1] for g in gaps)}
        for measure in (*MEASURES, *BATCH_MEASURES):
            if measure not in pairs[0][0]["cells"][cell]:
                continue
            scale = _scaled(measure)
            gaps = [scale(a["cells"][cell][measure]) - scale(b["cells"][cell][measure]) for a, b in pairs]
            row[measure] = {"mean": interval(g.mean() for g in gaps), "last": interval(g[-1] for g in gaps)}
        rows.append(row)
    return rows


def _scaled(measure: str) -> Callable[[Any], Any]:
    return np.log2 if measure in RATIOS else np.asarray


def _averaged(grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the grid that differ in the seed alone, as one with intervals."""
    names = ("trained on", "support", "against", "step", "estimator", "temperature")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in grid:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    figures = (*MEASURES, *BATCH_MEASURES)
    return [
        dict(zip(names, key, strict=True))
        | {name: interval(_scaled(name)(row[name]) for row in rows) for name in figures}
        for key, rows in groups.items()
    ]


def _points(run: dict[str, Any]) -> dict[str, Any]:
    usable = _usable(run)
    entropy = _entropies(run)[usable]
    chosen = np.random.default_rng(0).permutation(len(entropy))[:_POINTS]
    names = {"objective": run["objective"], "support": run["support"], "entropy": entropy[chosen].tolist()}
    values = {
        m: _values(run, "0.5", m)[usable][chosen].tolist() for m in ("relative error", "absolute error")
    }
    return names | values
