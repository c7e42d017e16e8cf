"""Fuzz model folders, checkpoints, configs, images and latents, and count how each input ended.

    python tests/hardening/fuzz.py --examples 2000

writes bench/results/fuzz.json: for every kind the number of inputs that were accepted (with the right result), of
those refused by each exception, and of those that ended in anything else, which are listed. Exit code 1 if there are
any. The inputs are those of ``fuzz_inputs``; the seed makes them anew.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from fuzz_inputs import KINDS, Kind, UnexpectedError, outcome
from hypothesis import HealthCheck, Phase, given, seed, settings

from gmvq.files import write_json

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "fuzz.json"
_SHOWN = 20


def fuzz(kind: Kind, examples: int, start: int) -> dict[str, Any]:
    """Run ``examples`` inputs of a kind; counts by outcome, and what was unexpected."""
    counts: Counter[str] = Counter()
    unexpected: list[str] = []

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(kind.cases)
    def run(case: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                counts[outcome(kind, case, Path(folder))] += 1
            except UnexpectedError as error:
                counts["unexpected"] += 1
                unexpected.append(str(error)[:2000])

    began = time.perf_counter()
    run()
    return {
        "inputs": sum(counts.values()),
        "outcomes": dict(sorted(counts.items())),
        "unexpected": unexpected[:_SHOWN],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> int:
    """Fuzz, print a table, write the results; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=2000, help="inputs of each kind (default: 2000)")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"results file (default: {RESULTS})")
    options = parser.parse_args()
    torch.set_num_threads(1)
    packages = ("gmvq", "hypothesis", "numpy", "pillow", "safetensors", "jsonargparse", "pyyaml")
    results: dict[str, Any] = {
        "kind": "fuzz",
        "command": " ".join(["python", "tests/hardening/fuzz.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "seed": options.seed,
        "kinds": {},
    }
    for name in options.kinds:
        found = fuzz(KINDS[name], options.examples, options.seed)
        results["kinds"][name] = found
        counts = ", ".join(f"{count} {ending}" for ending, count in found["outcomes"].items())
        print(f"{name}: {found['inputs']} inputs in {found['seconds']} s: {counts}", flush=True)
        for text in found["unexpected"]:
            print(f"  {text}", flush=True)
    results["inputs"] = sum(found["inputs"] for found in results["kinds"].values())
    wrong = sum(found["outcomes"].get("unexpected", 0) for found in results["kinds"].values())
    results["unexpected"] = wrong
    write_json(options.json, results)
    print(f"{results['inputs']} inputs, {wrong} unexpected; written to {options.json}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
