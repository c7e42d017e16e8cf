"""The final runs of a results file: which count, what they measured, and who the best rival is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..statistics import mean_interval

Record = dict[str, Any]
#: Usable final runs of a setting: method -> seed -> record.
Finals = dict[str, dict[int, Record]]


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
