"""Fuzz every reader: model folders, checkpoints, configs, pictures, arrays, tables, sound, tokens; count the outcomes.

    python tests/hardening/fuzz.py --examples 3500 --json bench/results/fuzz.json

For every kind of input the results file has the number of those accepted (with the right result), of those refused by
each exception, and of those that ended in anything else, which are listed. Exit code 1 if there are any: also of those
that took 10 seconds, a gigabyte of memory, or wrote outside of their folder. The inputs are those of ``fuzz_inputs``;
the seed makes them anew. A file that failed is kept in tests/data/fuzz.

The work is done in rounds, after each of which the file is written. A call goes on with what the file has of its seed,
up to ``--examples`` inputs of each of its kinds; a kind that had something unexpected begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from fuzz_inputs import KINDS, Kind, UnexpectedError, outcome, shown
from fuzz_readers import Sample
from hypothesis import HealthCheck, Phase, given, seed, settings

from gmvq.files import write_bytes, write_json
from gmvq.reading import read_json

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "fuzz.json"
_SHOWN = 20
#: Inputs of a kind that are drawn together.
_ROUND = 250
_PACKAGES = (
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
    largest = 0

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
        nonlocal largest
        with tempfile.TemporaryDirectory() as folder:
            try:
                ending, more = watched(kind, case, Path(folder))
                counts[ending] += 1
                largest = max(largest, more)
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
        "unexpected": unexpected,
        "largest_memory_above_baseline_bytes": largest,
        "seconds": round(time.perf_counter() - began, 1),
    }


def watched(kind: Kind, case: Any, folder: Path) -> tuple[str, int]:
    """The outcome of one input, and the most bytes of memory that it took.

    Raises:
        UnexpectedError: also if that is too much, or a file was written outside.
    """
    writes.clear()
    before = memory(fresh=True)
    ending = outcome(kind, case, folder)
    more = memory() - before
    if more > _MOST_MEMORY:
        raise UnexpectedError(f"{more / 1e6:.0f} MB above the baseline for {shown(case)}")
    if outside := [path for path in writes if not path.startswith(_ALLOWED)]:
        raise UnexpectedError(f"wrote to {', '.join(outside[:3])} for {shown(case)}")
    return ending, more


def added(known: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """The figures of one more round added to those of a kind."""
    if not known:
        return {"rounds": 1, **found}
    largest = "largest_memory_above_baseline_bytes"
    return {
        "rounds": known["rounds"] + 1,
        "inputs": known["inputs"] + found["inputs"],
        "outcomes": dict(sorted((Counter(known["outcomes"]) + Counter(found["outcomes"])).items())),
        "unexpected": [*known["unexpected"], *found["unexpected"]][:_SHOWN],
        largest: max(known[largest], found[largest]),
        "seconds": round(known["seconds"] + found["seconds"], 1),
    }


def opened(file: Path, start: int) -> dict[str, Any]:
    """The results file, with what it has of this seed."""
    kept = read_json(file) if file.is_file() else {}
    same = kept.get("seed") == start
    command = shlex.join(["python", "tests/hardening/fuzz.py", *sys.argv[1:]])
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "kind": "fuzz",
        "commands": list(dict.fromkeys([*(kept["commands"] if same else ()), command])),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "seed": start,
        "kinds": {
            name: found
            for name, found in kept.get("kinds", {}).items()
            if same and "unexpected" not in found["outcomes"]
        },
    }


def main() -> int:
    """Fuzz in rounds of every kind that needs more, write the results after each; return the exit code."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
    sys.addaudithook(watch)
    results = opened(options.json, options.seed)
    kinds: dict[str, Any] = results["kinds"]

    def missing(name: str) -> int:
        return options.examples - (kinds[name]["inputs"] if name in kinds else 0)

    ended = set[str]()
    while todo := [name for name in options.kinds if missing(name) > 0 and name not in ended]:
        for name in todo:
            start = options.seed + 1000 * kinds.get(name, {"rounds": 0})["rounds"]
            found = fuzz(KINDS[name], min(missing(name), _ROUND), start)
            kinds[name] = added(kinds.get(name), found)
            if not found["inputs"]:
                ended.add(name)
            print(f"{name}: {kinds[name]}", flush=True)
            results["kinds"] = kinds = {name: kinds[name] for name in KINDS if name in kinds}
            results["inputs"] = sum(found["inputs"] for found in kinds.values())
            results["unexpected"] = sum(found["outcomes"].get("unexpected", 0) for found in kinds.values())
            write_json(options.json, results)
    print(f"{results['inputs']} inputs, {results['unexpected']} unexpected; written to {options.json}")
    return int(results["unexpected"] > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=3500, help="inputs of each kind (default: 3500)")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"results file (default: {RESULTS})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
