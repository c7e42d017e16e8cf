"""What a few seeds can show: t-intervals, paired differences, ratios of means, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats


def mean_interval(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % t-interval, t(n - 1) s / sqrt(n); one value has no width."""
    x = np.asarray(list(values), dtype=float)
    if not x.size:
        raise ValueError("a mean needs at least one value")
    half = None if x.size == 1 else float(stats.t.ppf(0.975, x.size - 1) * stats.sem(x))
    return float(x.mean()), half


@dataclass(frozen=True)
class Paired:
    """How far a is from b over the seeds that both have; what one seed cannot tell is None.

    Attributes:
        difference, half_width: mean of a - b, and half of its 95 % t-interval.
        percent: 100 (mean a / mean b - 1).
        percent_interval: 95 %, by Fieller: the ratios r that a paired t test of a - r b does not reject, so it
            leaves out 0 exactly where p < 0.05. None as well when the mean of b may be zero.
        p: of the two-sided paired t test of a = b, not corrected.
    """

    difference: float
    half_width: float | None
    percent: float
    percent_interval: tuple[float, float] | None
    p: float | None
    seeds: tuple[int, ...]


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two methods over the seeds they share."""
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(a)} and {sorted(b)}")
    x, y = np.array([a[s] for s in seeds], dtype=float), np.array([b[s] for s in seeds], dtype=float)
    difference, half = mean_interval(x - y)
    percent = 100 * (x.mean() / y.mean() - 1)
    return Paired(difference, half, float(percent), _fieller(x, y), _p_value(x - y), seeds)


def _p_value(differences: np.ndarray) -> float | None:
    if differences.size < 2:
        return None
    if not np.ptp(differences):
        return float(differences[0] == 0)
    test: Any = stats.ttest_1samp(differences, 0.0)
    return float(test.pvalue)


def _fieller(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Interval of 100 (mean x / mean y - 1): where (mean x - r mean y)^2 <= t^2 var(x - r y) / n."""
    if x.size < 2:
        return None
    c = stats.t.ppf(0.975, x.size - 1) ** 2 / x.size
    (xx, xy), (_, yy) = np.cov(x, y)
    square = y.mean() ** 2 - c * yy
    if square <= 0:
        return None
    middle = x.mean() * y.mean() - c * xy
    root = math.sqrt(max(0.0, middle**2 - square * (x.mean() ** 2 - c * xx)))
    return float(100 * ((middle - root) / square - 1)), float(100 * ((middle + root) / square - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values, in the order given, that hold for all comparisons together."""
    corrected, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = worst
    return corrected
