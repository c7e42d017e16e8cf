"""What a few seeds can show: t-intervals, paired differences, Holm's correction, and who the best rival is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

Record = dict[str, Any]
#: Usable final runs of a setting: method -> seed -> record.
Finals = dict[str, dict[int, Record]]


def mean_interval(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % t-interval, t(n - 1) s / sqrt(n); one value has no width.

    Raises:
        ValueError: no values.
    """
    x = np.asarray(list(values), dtype=float)
    if not x.size:
        raise ValueError("a mean needs at least one value")
    mean = float(x.mean())
    if x.size == 1:
        return mean, None
    return mean, _t_quantile(x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)


@dataclass(frozen=True)
class Paired:
    """How far a is from b, seed by seed.

    Args:
        difference: mean of a - b.
        half_width: of its 95 % t-interval; None with one seed.
        percent: 100 (mean a / mean b - 1).
        percent_interval: 95 %, by Fieller: the ratios r that a paired t test of a - r b does not reject, so it
            leaves out 0 exactly where p < 0.05. None with one seed, or when the mean of b may be zero.
        p: of the two-sided paired t test of a = b, not corrected; None with one seed.
        seeds: that both have.
    """

    difference: float
    half_width: float | None
    percent: float
    percent_interval: tuple[float, float] | None
    p: float | None
    seeds: tuple[int, ...]

    @property
    def significant(self) -> bool:
        """Whether the interval in percent leaves out 0."""
        return (
            self.percent_interval is not None
            and not self.percent_interval[0] <= 0 <= self.percent_interval[1]
        )


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two methods over the seeds they share.

    Raises:
        ValueError: they share no seed.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(a)} and {sorted(b)}")
    x, y = np.array([a[s] for s in seeds], dtype=float), np.array([b[s] for s in seeds], dtype=float)
    difference, half = mean_interval(x - y)
    percent = 100 * (x.mean() / y.mean() - 1)
    return Paired(difference, half, float(percent), _fieller(x, y), _p_value(x - y), seeds)


def _p_value(differences: np.ndarray) -> float | None:
    n = differences.size
    if n < 2:
        return None
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return 1.0 if differences[0] == 0 else 0.0
    t = abs(float(differences.mean())) / error
    return 2 * float(special.stdtr(n - 1, -t))


def _fieller(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Interval of 100 (mean x / mean y - 1): where (mean x - r mean y)^2 <= t^2 var(x - r y) / n."""
    if x.size < 2:
        return None
    c = _t_quantile(x.size - 1) ** 2 / x.size
    (xx, xy), (_, yy) = np.cov(x, y)
    square = y.mean() ** 2 - c * yy
    if square <= 0:
        return None
    middle = x.mean() * y.mean() - c * xy
    root = math.sqrt(max(0.0, middle**2 - square * (x.mean() ** 2 - c * xx)))
    return float(100 * ((middle - root) / square - 1)), float(100 * ((middle + root) / square - 1))


def _t_quantile(freedom: int) -> float:
    return float(special.stdtrit(freedom, 0.975))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values, in the order given, that hold for all comparisons together."""
    corrected, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = worst
    return corrected


def finals(results: dict[str, Any], setting: str) -> Finals:
    """Final runs of a setting with a finite test MSE, every method that takes part there in the suite's order."""
    suite = results["suite"]
    found: Finals = {name: {} for name, method in suite["methods"].items() if takes_part(method, setting)}
    for run in results["runs"]:
        known = run["setting"] == setting and run["phase"] == "final" and run["method"] in found
        if known and run["seed"] in suite["seeds"] and problem(run) is None:
            found[run["method"]][run["seed"]] = run
    return {name: dict(sorted(runs.items())) for name, runs in found.items()}


def takes_part(method: dict[str, Any], setting: str) -> bool:
    return not method.get("settings") or setting in method["settings"]


def problem(run: Record) -> str | None:
    """Why a run has no figures; None if it has."""
    if run.get("error"):
        return str(run["error"])
    split = "test" if run["phase"] == "final" else "validation"
    mse = (run.get(split) or {}).get("mse")
    if mse is None or not math.isfinite(mse):
        return f"its {split} MSE is {mse}"
    return None


def figures(runs: Mapping[int, Record], name: str) -> dict[int, float]:
    """A figure of the test split by seed, as far as it is there."""
    values = {seed: run["test"].get(name) for seed, run in runs.items()}
    return {seed: float(v) for seed, v in values.items() if v is not None and math.isfinite(v)}


def is_rival(suite: dict[str, Any], name: str) -> bool:
    """Whether a method has codes and is neither ours nor a variant of ours (the same quantizer)."""
    methods = suite["methods"]
    ours = methods[suite["ours"]]
    return not methods[name].get("ceiling") and methods[name]["quantizer"] != ours["quantizer"]


def complete(suite: dict[str, Any], runs: Mapping[int, Record]) -> bool:
    """Whether all seeds are there."""
    return len(runs) == len(suite["seeds"])


def mean_mse(runs: Mapping[int, Record]) -> float:
    """Mean test MSE over seeds."""
    return mean_interval(figures(runs, "mse").values())[0]


def best_rival(runs: Finals, suite: dict[str, Any]) -> str | None:
    """The rival with the lowest mean test MSE among those with all seeds; None if there is none."""
    names = [name for name in runs if is_rival(suite, name) and complete(suite, runs[name])]
    return min(names, key=lambda name: mean_mse(runs[name]), default=None)
