"""Fuzz model folders, checkpoints, configs, images and latents, and count how each input ended.

    nice -n 15 python tests/hardening/fuzz.py --examples 3500

writes bench/results/fuzz.json: for every kind the number of inputs that were accepted (with the right result), of
those refused by each exception, and of those that ended in anything else, which are listed. Exit code 1 if there are
any: also of those that took 10 seconds, a gigabyte of memory, or wrote outside of their folder. The inputs are those of
``fuzz_inputs`` and ``fuzz_readers``; the seed makes them anew. A file that failed is kept in tests/data/fuzz.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
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
from fuzz_readers import Sample
from hypothesis import HealthCheck, Phase, given, seed, settings

from gmvq.files import write_bytes, write_json

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "fuzz.json"
_SHOWN = 20
#: Bytes above the baseline that no input may take.
_MOST_MEMORY = 1 << 30
#: Where files may be written to: the folder of a case and the copies of ``datasets``; and no files.
_ALLOWED = (tempfile.gettempdir(), "/dev/", "/proc/self/")
#: What once failed is kept here, by the kind of input, and read by the tests.
CORPUS = Path(__file__).resolve().parents[1] / "data" / "fuzz"
writes: list[str] = []


def memory(*, fresh: bool = False) -> int:
    """Most bytes that this process has held since the last ``fresh`` call; with it, what it holds (Linux; else 0)."""
    try:
        if fresh:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmRSS:" if fresh else "VmHWM:"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration):
        return 0


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Keep the names of files that are opened for writing, made or renamed."""
    place = {"os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1, "os.remove": 0}.get(event)
    if place is not None and isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "os.mkdir":
        # By a folder that is open, as the removal of a tree does.
        return
    if (
        event == "open"
        and isinstance(arguments[2], int)
        and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        place = 0
    if place is not None and isinstance(arguments[place], str | bytes | os.PathLike):
        writes.append(os.path.abspath(os.fsdecode(arguments[place])))


def fuzz(kind: Kind, examples: int, start: int) -> dict[str, Any]:
    """Run ``examples`` inputs of a kind; counts by outcome, and what was unexpected."""
    counts: Counter[str] = Counter()
    unexpected: list[str] = []
    largest = [0]

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
            writes.clear()
            before = memory(fresh=True)
            try:
                counts[outcome(kind, case, Path(folder))] += 1
                more = memory() - before
                largest[0] = max(largest[0], more)
                if more > _MOST_MEMORY:
                    raise UnexpectedError(f"{case!r} takes {more / 1e6:.0f} MB above the baseline")
                outside = [path for path in writes if not path.startswith(_ALLOWED)]
                if outside:
                    raise UnexpectedError(f"{case!r} wrote to {', '.join(outside[:3])}")
            except UnexpectedError as error:
                counts["unexpected"] += 1
                unexpected.append(str(error)[:2000])
                if isinstance(case, Sample):
                    name = f"{hashlib.sha256(case.data).hexdigest()[:12]}-{case.name}"
                    write_bytes(CORPUS / kind.name / name, case.data)

    began = time.perf_counter()
    run()
    return {
        "inputs": sum(counts.values()),
        "outcomes": dict(sorted(counts.items())),
        "unexpected": unexpected[:_SHOWN],
        "largest_memory_above_baseline_bytes": largest[0],
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
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
    sys.addaudithook(watch)
    packages = (
        "gmvq",
        "hypothesis",
        "numpy",
        "pillow",
        "safetensors",
        "jsonargparse",
        "pyyaml",
        "pyarrow",
        "fonttools",
    )
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
