"""Rank correlation and AUROC with bootstrap intervals: every resample is a set of weights on one sorting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gmvq.evaluation.generation import Estimate

Values = NDArray[np.float64]
Weights = NDArray[np.float64]


class Ranking:
    """Midranks of fixed values under any whole-numbered weights, the sorting done once.

    A value that a resample drew three times is three equal values: they share the mean of their ranks.
    """

    def __init__(self, values: Values) -> None:
        distinct, self._group = np.unique(values, return_inverse=True)
        self._groups = distinct.size

    def midranks(self, weights: Weights) -> Values:
        """Rank of each value, from 1 to the sum of the weights; the mean of the ranks among equals."""
        totals = np.bincount(self._group, weights, minlength=self._groups)
        return (np.cumsum(totals) - totals + (totals + 1.0) / 2.0)[self._group]


def spearman(first: Ranking, second: Ranking, weights: Weights) -> float:
    """Spearman's rank correlation of two rankings under weights; NaN where one of them does not vary."""
    a, b = first.midranks(weights), second.midranks(weights)
    total = weights.sum()
    a, b = a - weights @ a / total, b - weights @ b / total
    norm = float(np.sqrt((weights @ a**2) * (weights @ b**2)))
    return float(weights @ (a * b)) / norm if norm > 0 else float("nan")


def auroc(ranking: Ranking, positive: NDArray[np.bool_], weights: Weights) -> float:
    """Area under the ROC curve under weights: the odds that a positive ranks above a negative, ties by half."""
    ranks, inside = ranking.midranks(weights), weights * positive
    positives = inside.sum()
    negatives = weights.sum() - positives
    return float((inside @ ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives))


def bootstrap(
    statistic: Callable[[Weights], float], groups: list[int], resamples: int, seed: int
) -> Estimate:
    """A statistic of weights with its percentile interval, 2.5 to 97.5 %.

    Args:
        statistic: of the weights, (N,).
        groups: sizes of the parts of the N that are drawn from separately, such as two sets of images.
        resamples: draws with replacement, of as many as there are.
        seed: of the draws: two statistics with one seed see the same resamples.
    """
    chance = np.random.default_rng(seed)
    whole = statistic(np.ones(sum(groups)))
    found = [
        statistic(
            np.concatenate([np.bincount(chance.integers(0, n, n), minlength=n).astype(float) for n in groups])
        )
        for _ in range(resamples)
    ]
    low, high = np.nanquantile(found, [0.025, 0.975]) if np.isfinite(found).any() else (np.nan, np.nan)
    return Estimate(whole, float(low), float(high))
