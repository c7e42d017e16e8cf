"""From records to comparisons: the figures of a method in a setting, and ours against the best of some rivals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: How far below the rival's usage ours may lie.
_USAGE_SLACK = 0.005


@dataclass(frozen=True)
class Figures:
    """A method in a setting, over its seeds: geometric mean of the MSE, means of the rest; ``failed`` runs."""

    mse: float
    perplexity: float
    usage: float
    seconds: float
    failed: int


@dataclass(frozen=True)
class Duel:
    """Ours against the rival with the lowest MSE in a setting."""

    setting: str
    rival: str
    ratio: float
    perplexity_ratio: float
    usage_kept: bool


def figures(results: dict[str, Any], setting: str, method: str) -> Figures | None:
    """The figures of a method in a setting; None if it has no runs.

    A run that diverged or failed, or is worse, counts as a network that always shows the mean training example: its
    MSE, one code.
    """
    runs = [r for r in results["runs"] if (r["setting"], r["method"]) == (setting, method)]
    ceiling = _mse_of_mean(results, setting)
    if not runs or ceiling is None:
        return None
    size = results["settings"][setting]["codebook_size"]
    tests = [r.get("test") or {"mse": ceiling, "perplexity": 1.0, "usage": 1.0 / size} for r in runs]
    return Figures(
        mse=geometric_mean(min(t["mse"], ceiling) for t in tests),
        perplexity=statistics.fmean(t["perplexity"] for t in tests),
        usage=statistics.fmean(t["usage"] for t in tests),
        seconds=statistics.fmean(r.get("seconds", 0.0) for r in runs),
        failed=sum(bool(r["error"]) for r in runs),
    )


def _mse_of_mean(results: dict[str, Any], setting: str) -> float | None:
    known = [r["mse_of_mean"] for r in results["runs"] if r["setting"] == setting and "mse_of_mean" in r]
    return known[0] if known else None


def duel(results: dict[str, Any], setting: str, ours: str, rivals: Iterable[str]) -> Duel | None:
    """Ours against the best of these rivals in a setting; None unless both have run."""
    mine = figures(results, setting, ours)
    theirs = {name: found for name in rivals if (found := figures(results, setting, name)) is not None}
    if mine is None or not theirs:
        return None
    rival, best = min(theirs.items(), key=lambda item: item[1].mse)
    return Duel(
        setting=setting,
        rival=rival,
        ratio=mine.mse / best.mse,
        perplexity_ratio=mine.perplexity / best.perplexity,
        usage_kept=mine.usage >= best.usage - _USAGE_SLACK,
    )


@dataclass(frozen=True)
class Summary:
    """Duels of many settings in a line."""

    settings: int
    ratio: float
    worst: float
    worst_setting: str
    lost: int
    perplexity_ratio: float
    usage_kept: float


def summary(duels: list[Duel]) -> Summary:
    """The line of at least one duel."""
    worst = max(duels, key=lambda d: d.ratio)
    return Summary(
        settings=len(duels),
        ratio=geometric_mean(d.ratio for d in duels),
        worst=worst.ratio,
        worst_setting=worst.setting,
        lost=sum(d.ratio > 1.0 for d in duels),
        perplexity_ratio=statistics.median(d.perplexity_ratio for d in duels),
        usage_kept=statistics.fmean(d.usage_kept for d in duels),
    )


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def properties(setting: dict[str, Any]) -> dict[str, list[str]]:
    """What a setting has in common with others: values by property; numbers in coarse classes."""
    side = 1 if setting["network"] == "sound" else 2
    rows = setting["batch"] * (setting["size"] // setting["downsample"]) ** side
    plain = ("network", "data", "loss", "optimizer", "dim", "codebook_size", "downsample")
    return {
        "ending": list(setting["endings"]) or ["none"],
        **{name: [str(setting[name])] for name in plain},
        "steps": ["up to 500" if setting["steps"] <= 500 else "more than 500"],
        "rate": ["below 0.001" if setting["lr"] < 1e-3 else "0.001 or more"],
        "latents per code and batch": [_class(rows / setting["codebook_size"])],
    }


def _class(share: float) -> str:
    return "below 4" if share < 4 else "4 to 16" if share < 16 else "16 or more"
