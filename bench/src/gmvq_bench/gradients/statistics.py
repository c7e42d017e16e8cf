"""Correlations of entropy and gradient error, and objectives against each other, over the runs of ``run_study``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..results import rounded
from ..statistics import mean_interval

Array = NDArray[np.float64]
MEASURES = ("absolute error", "absolute bias", "relative error", "relative bias", "1 - cosine")
#: The Gumbel-softmax at the layer's temperature of the time and at 0.5; the last with respect to the logits.
CELLS = ("layer", "0.5", "0.5, logits")
#: Over images and checkpoints; of mean H and median error over checkpoints alone; over images at each checkpoint.
CORRELATIONS = ("pearson", "pearson of logs", "spearman", "pearson of checkpoints", "spearman at one step")
BATCH_MEASURES = ("batch error", "batch bias", "batch cosine")
#: These are averaged and compared in log2.
RATIOS = ("absolute error", "relative error", "batch error")
_PAIRS = (("albo", "elbo"), ("albo, beta = 1", "elbo, beta = 1"), ("albo", "none"))
_POINTS = 150
#: Images whose exact gradient is smaller than this, in units of the batch's largest, are left out: their posterior is
#: one-hot for every purpose, and a relative error means nothing.
NEGLIGIBLE = 1e-9


def interval(values: Iterable[float]) -> dict[str, float | None]:
    """Mean and half-width of the 95 % t-interval over seeds; None for one seed."""
    return dict(zip(("mean", "half"), mean_interval(values), strict=True))


def correlation_interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean correlation over seeds with its 95 % interval: a t-interval of Fisher's z = artanh r, transformed back."""
    centre, half = mean_interval(np.arctanh(np.clip(values, -1 + 1e-9, 1 - 1e-9)))
    low, high = (None, None) if half is None else (math.tanh(centre - half), math.tanh(centre + half))
    return {"mean": math.tanh(centre), "low": low, "high": high}


def correlation(x: Array, y: Array, *, ranks: bool = False) -> float:
    """Pearson's or, by ranks, Spearman's correlation; 0 where one side is constant."""
    if x.size < 2 or not np.ptp(x) or not np.ptp(y):
        return 0.0
    found: Any = stats.spearmanr(x, y) if ranks else stats.pearsonr(x, y)
    return float(found.statistic)


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
    pooled = ["pooled"] if len(objectives) > 1 else []
    correlations, comparisons = [], []
    for support in supports:
        for objective in [*objectives, *pooled]:
            correlations += _correlations(runs, support, objective)
        for first, second in _PAIRS:
            if first in objectives and second in objectives:
                comparisons += _comparisons(curves, support, first, second)
    return rounded(
        {
            "runs": curves,
            "correlations": correlations,
            "comparisons": comparisons,
            "grid": _averaged(grid),
            "points": [_points(run) for run in runs if run["seed"] == runs[0]["seed"]],
        }
    )


def _values(run: dict[str, Any], cell: str, measure: str) -> Array:
    """(checkpoints, images), or (checkpoints,) of the batch."""
    return np.stack([point["cells"][cell][measure] for point in run["checkpoints"]])


def _entropies(run: dict[str, Any]) -> Array:
    return np.stack([point["entropy"] for point in run["checkpoints"]])


def _usable(run: dict[str, Any]) -> NDArray[np.bool_]:
    norm = _values(run, "0.5", "norm")
    return norm > NEGLIGIBLE * norm.max(-1, keepdims=True)


def _medians(values: Array, usable: NDArray[np.bool_]) -> list[float]:
    """Median over the usable images of each checkpoint, 0 where there are none."""
    return [float(np.median(row[use])) if use.any() else 0.0 for row, use in zip(values, usable, strict=True)]


def _curves(run: dict[str, Any]) -> dict[str, Any]:
    points, usable = run["checkpoints"], _usable(run)
    cells = {
        cell: {m: _medians(_values(run, cell, m), usable) for m in (*MEASURES, "norm")}
        | {m: _values(run, cell, m).tolist() for m in BATCH_MEASURES if m in points[0]["cells"][cell]}
        for cell in CELLS
    }
    return {
        **{key: run[key] for key in ("objective", "support", "seed")},
        **{key: [point[key] for point in points] for key in ("step", "temperature", "mse")},
        "entropy": _entropies(run).mean(-1).tolist(),
        "left out": (1.0 - usable.mean(-1)).tolist(),
        "cells": cells,
    }


def _correlations(runs: list[dict[str, Any]], support: str, objective: str) -> list[dict[str, Any]]:
    chosen = [r for r in runs if r["support"] == support and objective in (r["objective"], "pooled")]
    groups = [[r for r in chosen if r["seed"] == seed] for seed in dict.fromkeys(r["seed"] for r in chosen)]
    names = {"support": support, "objective": objective}
    rows = []
    for cell in CELLS:
        for measure in MEASURES:
            found = [_correlations_of(group, cell, measure) for group in groups]
            values = {name: correlation_interval([one[name] for one in found]) for name in found[0]}
            rows.append({**names, "temperature": cell, "measure": measure, **values})
    return rows


def _correlations_of(group: list[dict[str, Any]], cell: str, measure: str) -> dict[str, float]:
    """Every correlation of one seed."""
    entropy = np.concatenate([_entropies(r) for r in group], axis=1)
    values = np.concatenate([_values(r, cell, measure) for r in group], axis=1)
    usable = np.concatenate([_usable(r) for r in group], axis=1)
    h, v = entropy[usable], values[usable]
    means = np.concatenate([_entropies(r).mean(-1) for r in group])
    medians = np.concatenate([_medians(_values(r, cell, measure), _usable(r)) for r in group])
    steps = [
        correlation(a[u], b[u], ranks=True)
        for a, b, u in zip(entropy, values, usable, strict=True)
        if u.any()
    ]
    found = {"pearson": correlation(h, v), "spearman": correlation(h, v, ranks=True)}
    if measure.endswith("error"):
        # A bias may be zero, an error not.
        found["pearson of logs"] = correlation(*(np.log(np.maximum(x, 1e-30)) for x in (h, v)))
    found["pearson of checkpoints"] = correlation(means, medians)
    found["spearman at one step"] = float(np.mean(steps)) if steps else 0.0
    return found


def _comparisons(curves: list[dict[str, Any]], support: str, first: str, second: str) -> list[dict[str, Any]]:
    pick = {
        name: [c for c in curves if (c["support"], c["objective"]) == (support, name)]
        for name in (first, second)
    }
    pairs = list(zip(pick[first], pick[second], strict=True))

    def compared(values: Any, measure: str = "") -> dict[str, Any]:
        gaps = [_scaled(values(a), measure) - _scaled(values(b), measure) for a, b in pairs]
        return {"mean": interval(g.mean() for g in gaps), "last": interval(g[-1] for g in gaps)}

    rows = []
    for cell in CELLS:
        row: dict[str, Any] = {"support": support, "pair": f"{first} / {second}", "temperature": cell}
        row["entropy"] = compared(lambda curve: curve["entropy"])
        for measure in (*MEASURES, *BATCH_MEASURES):
            if measure in pairs[0][0]["cells"][cell]:
                row[measure] = compared(lambda c, cell=cell, m=measure: c["cells"][cell][m], measure)
        rows.append(row)
    return rows


def _scaled(values: Any, measure: str) -> Any:
    return np.log2(values) if measure in RATIOS else np.asarray(values)


def _averaged(grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the grid that differ in the seed alone, as one with intervals."""
    names = ("trained on", "support", "against", "step", "estimator", "temperature")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in grid:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    figures = (*MEASURES, *BATCH_MEASURES)
    return [
        dict(zip(names, key, strict=True))
        | {name: interval(float(_scaled(row[name], name)) for row in rows) for name in figures}
        for key, rows in groups.items()
    ]


def _points(run: dict[str, Any]) -> dict[str, Any]:
    usable = _usable(run)
    entropy = _entropies(run)[usable]
    chosen = np.random.default_rng(0).permutation(len(entropy))[:_POINTS]
    values = {
        m: _values(run, "0.5", m)[usable][chosen].tolist() for m in ("relative error", "absolute error")
    }
    names = {key: run[key] for key in ("objective", "support")}
    return {**names, "entropy": entropy[chosen].tolist(), **values}
