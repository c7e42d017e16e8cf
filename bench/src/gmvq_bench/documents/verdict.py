"""The first table of the results: ours against the best rival in every comparison that was made, a line for each kind.

Each compares MSE and perplexity on test data with the rival of the least MSE in the same setting: means over the seeds
that both have, then the geometric mean over settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from ..comparison.runs import figures, finals, is_rival
from ..markdown import table
from ..robust.report import GROUPS, duels, geometric_mean, scores
from ..statistics import mean_interval

_HEAD = "compared in|settings|seeds|MSE over the best rival's|worst|above it in|perplexity over its"
#: Suites with a line of their own; all others are of our own networks.
APART = {
    "long": "a conv network without a path from patch to latent, 6,000 steps, tuned alike",
    "paper": "the published network and recipe, 8,000 steps",
}
#: (ratio of MSE, ratio of perplexity) of a setting.
_Pair = tuple[float, float]


def verdict(found: dict[str, Any], suites: Iterable[dict[str, Any]]) -> str:
    """The table, of the results files by name and the suites of ``gmvq compare``."""
    lines = [*_of_random_networks(found), *_of_suites(suites)]
    return table(_HEAD.split("|"), lines)


def _of_random_networks(found: dict[str, Any]) -> Iterator[list[str]]:
    published, *others = GROUPS
    for name, what in (
        ("robust", "random networks and data, nothing tuned"),
        ("robust_fresh", "the same, a later draw"),
    ):
        if name in found:
            pairs = _robust(found[name], published)
            yield [what, *_cells([pair for number in (0, 1) for pair in pairs[number]], 1)]
            names = ("on which defaults were chosen", "only reported")
            yield from ([f"– {names[n]}", *_cells(pairs[n], 1)] for n in (0, 1) if pairs[0] and pairs[1])
            for group in others:
                fought = [pair for part in _robust(found[name], group) for pair in part]
                if fought:
                    yield [f"– against {group}", *_cells(fought, 1)]
    if "plain_conv" in found:
        for steps, (pairs, seeds) in _plain_conv(found["plain_conv"]).items():
            yield [f"a plain conv network, {steps:,} steps, the best of four rates", *_cells(pairs, seeds)]


def _of_suites(suites: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    """Suites of ``APART`` in their order, then our own networks by size; seeds are the fewest of a setting."""
    found: dict[tuple[int, str], list[tuple[_Pair, int]]] = {}
    for suite in suites:
        name = suite["suite"]["name"]
        for setting, options in suite["suite"]["settings"].items():
            size = 0 if name in APART else options["codebook_size"]
            if (fought := _suite(suite, setting)) is not None:
                what = APART.get(name, f"our own networks, tuned, K = {size:,}")
                found.setdefault((size, what), []).append(fought)
    for (_, what), fought in sorted(found.items(), key=lambda item: item[0][0]):
        pairs, seeds = zip(*fought, strict=True)
        yield [what, *_cells(list(pairs), min(seeds))]


def _cells(pairs: list[_Pair], seeds: int) -> list[str]:
    ratios = [ratio for ratio, _ in pairs]
    above, perplexity = sum(ratio > 1.0 for ratio in ratios), pd.Series([p for _, p in pairs]).median()
    mean = f"**{geometric_mean(ratios):.2f}**"
    return [str(len(pairs)), str(seeds), mean, f"{max(ratios):.2f}", str(above), f"{perplexity:.2f}"]


def _robust(results: dict[str, Any], group: str) -> tuple[list[_Pair], list[_Pair]]:
    """The even and the odd settings against the best rival of a group."""
    parts: tuple[list[_Pair], list[_Pair]] = ([], [])
    fought: Any = duels(scores(results), *GROUPS[group], results["settings"])
    for setting, row in fought.iterrows():
        number = results["settings"][setting]["number"]
        parts[number % 2].append((float(row["ratio"]), float(row["perplexity_ratio"])))
    return parts


def _plain_conv(results: dict[str, Any]) -> dict[int, tuple[list[_Pair], int]]:
    """The codebook sizes of each length, against the method of the least mean error over the seeds that all methods
    have, and how many these are; runs that failed are left out.
    """
    records: Any = pd.DataFrame(
        [r for r in results["records"] if r["phase"] == "final" and r["error"] is None]
    )
    found: dict[int, tuple[list[_Pair], int]] = {}
    for steps, runs in records.groupby("steps"):
        seeds = set.intersection(*(set(cell["seed"]) for _, cell in runs.groupby(["codes", "method"])))
        means = runs[runs["seed"].isin(seeds)].groupby(["codes", "method"])[["mse", "perplexity"]].mean()
        pairs: list[_Pair] = []
        for _, cell in means.groupby(level="codes"):
            one = cell.droplevel("codes")
            if "gm-vq" in one.index and len(one) > 1:
                ratio: Any = one.loc["gm-vq"] / one.loc[one.drop("gm-vq")["mse"].idxmin()]
                pairs.append((float(ratio["mse"]), float(ratio["perplexity"])))
        if pairs:
            found[int(steps)] = pairs, len(seeds)
    return found


def _suite(results: dict[str, Any], setting: str) -> tuple[_Pair, int] | None:
    """Ours against the rival that it is least ahead of, on the seeds that both have, and how many these are; None where
    there is no such rival.
    """
    suite, runs = results["suite"], finals(results, setting)
    ours, fought = runs.get(suite["ours"], {}), list[tuple[_Pair, int]]()
    for name in (name for name in runs if is_rival(suite, name)):
        shared = ours.keys() & runs[name].keys()
        if shared:
            mine, theirs = ({seed: found[seed] for seed in shared} for found in (ours, runs[name]))
            fought.append(((_ratio("mse", mine, theirs), _ratio("perplexity", mine, theirs)), len(shared)))
    return max(fought, default=None)


def _ratio(figure: str, mine: Mapping[int, Any], theirs: Mapping[int, Any]) -> float:
    first, second = (mean_interval(figures(runs, figure).values())[0] for runs in (mine, theirs))
    return first / second
