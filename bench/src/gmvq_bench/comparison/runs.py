"""The results file of a suite, and its final runs: which count, what they measured, and who is a rival."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from gmvq.environment import versions

from ..results import rounded
from ..statistics import mean_interval
from .suite import Suite

KIND = "gmvq compare"

Record = dict[str, Any]
#: Usable final runs of a setting: method -> seed -> record.
Finals = dict[str, dict[int, Record]]


def assemble(suite: Suite, records: list[Record], *, command: str, date: str) -> dict[str, Any]:
    """The content of a results file: the suite as it was run, its records rounded, the command and the machines."""
    # What the file of a record keeps, and the results file, which holds hundreds, says once or leaves out.
    dropped = ("protocol", "where")
    return {
        "kind": KIND,
        "suite": suite.to_dict(),
        "command": command,
        "date": date,
        "environment": environment_of(records),
        "runs": [{k: rounded(v) for k, v in r.items() if k not in dropped} for r in records],
    }


def environment_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Devices, threads and versions of the runs."""
    devices = sorted({r["environment"]["device"] for r in records})
    return {
        "device": ", ".join(devices),
        "threads": ", ".join(sorted({str(r["environment"]["threads"]) for r in records})),
        "torch": torch.__version__,
        **versions("python", "gmvq", "vector-quantize-pytorch"),
    }


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
