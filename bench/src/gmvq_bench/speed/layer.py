"""The benchmark of the layer: correctness first, then every case of a grid, kept in a results file as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..results import Results, environment
from .calls import products_of, step_of
from .contestants import CONTESTANTS, Case, NotPossibleError
from .floors import bandwidth, bytes_to_move, floor_calls
from .gate import check_all
from .grid import Entry, grid
from .measure import Call, busy, cores_of_others, extra_memory, interleaved

KIND = "gmvq bench layer"
_EXPECTED = (RuntimeError, ValueError, TypeError, AssertionError, MemoryError)


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Attributes:
        memory: bytes; a contestant whose estimate is above takes no part.
        seconds: of the repetitions of one case, beyond the first three.
        cpu_time: measure the CPU time of the process, which other work of the machine changes less, not the wall time.
    """

    memory: float
    seconds: float = 15.0
    cpu_time: bool = False


class IncorrectError(Exception):
    """A contestant of ours differs from the reference; nothing was timed."""


def run(
    path: Path,
    *,
    which: str = "default",
    device: torch.device = torch.device("cpu"),
    threads: int | None = None,
    limits: Limits | None = None,
    command: str = "",
    entries: list[Entry] | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """Run what ``path`` does not hold yet of a grid and return all it then holds.

    Args:
        path: results file, JSON.
        which: ``"default"``, ``"quick"`` or ``"cells"``; ``entries`` in its place.
        threads: of torch and faiss; default: torch's.
        limits: default 6 GB on a CPU, 80 % of the memory of a GPU.
        command: for the head of the file.

    Raises:
        IncorrectError: a contestant of ours is wrong.
        ValueError: ``path`` holds something else, or cases of another set-up.
    """
    torch.set_flush_denormal(True)  # for everybody, and before torch's threads exist, which inherit it
    if threads is not None:
        torch.set_num_threads(threads)
    limits = limits or Limits(memory_of(device))
    entries = grid(which, device) if entries is None else entries
    where = {**environment(device), "clock": "CPU time" if limits.cpu_time else "wall time"}
    head = {"kind": KIND, "command": command, "environment": where, "grid": which}
    results = Results(path, head)
    say("correctness of every contestant of ours against the reference")
    results.data["correctness"] = check_all(device)
    wrong = [check for check in results.data["correctness"] if not check["passed"]]
    if wrong:
        raise IncorrectError("\n".join(map(_complaint, wrong)))
    if "bandwidth" not in results.data:
        results.data["bandwidth"] = bandwidth(device)
    best = max(results.data["bandwidth"].values())
    for number, entry in enumerate(entries, 1):
        if results.has(entry.case.name, entry.names):
            continue
        with _number_type(entry.case):
            measured = measure(entry, limits, best)
        results.add(measured)
        say(f"[{number}/{len(entries)}] {_line(measured)}")
    return results.data


def memory_of(device: torch.device) -> float:
    """Bytes that contestants may take by default."""
    if device.type == "cuda":
        return 0.8 * torch.cuda.get_device_properties(device).total_memory
    return 6e9


@contextmanager
def _number_type(case: Case) -> Iterator[None]:
    """On a GPU, bfloat16 cases multiply float32 in bfloat16 or TF32 too, whoever does; float32 ones in IEEE float32."""
    before = torch.get_float32_matmul_precision()
    if case.device.type == "cuda":
        torch.set_float32_matmul_precision("medium" if case.dtype == "bf16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure(entry: Entry, limits: Limits, bytes_per_second: float) -> dict[str, Any]:
    """Measure one case: floors and contestants in the same rounds, then the memory of each contestant."""
    case, device = entry.case, entry.case.device
    torch.manual_seed(0)
    latents = case.latents()
    entrants, calls = _enter(entry, limits, latents)
    floors, tiles = floor_calls(case)
    started = busy()
    clock = time.process_time if limits.cpu_time else time.perf_counter
    timings, failures = interleaved({**floors, **calls}, device, seconds=limits.seconds, clock=clock)
    others = cores_of_others(started, busy())
    for name, reason in failures.items():
        entrants[name] = {"failed": reason}
    for name, call in calls.items():
        if name not in failures:
            entrants[name] |= asdict(timings[name])
            if case.mode != "search":
                entrants[name] |= extra_memory(call, device).to_json()
    moved = bytes_to_move(case)
    result: dict[str, Any] = {
        "name": case.name, "mode": case.mode, "n": case.n, "k": case.k, "d": case.d, "dtype": case.dtype,
        "data": case.data,
        "cores_of_others": others,
        "floors": {
            **{name: {**asdict(timings[name]), "tile": list(tiles[name])} for name in floors},
            "bandwidth": {"bytes": moved, "median_ms": 1e3 * moved / bytes_per_second},
        },
        "contestants": entrants,
    }  # fmt: skip
    if case.mode == "search":
        result["identity"] = _identity(case, latents, {n: c for n, c in calls.items() if n not in failures})
    return result


def _enter(
    entry: Entry, limits: Limits, latents: Tensor
) -> tuple[dict[str, dict[str, Any]], dict[str, Call]]:
    """What is known of every contestant before the timing, and the calls of those that take part."""
    entrants: dict[str, dict[str, Any]] = {}
    calls: dict[str, Call] = {}
    same: dict[str, str] = {}
    for name in entry.names:
        contestant, case = CONTESTANTS[name], entry.case
        reason = contestant.obstacle(case, limits.memory)
        if reason:
            entrants[name] = {"skipped": reason}
            continue
        try:
            built = contestant.build(case)
        except NotPossibleError as error:
            entrants[name] = {"skipped": str(error)}
            continue
        except _EXPECTED as error:
            entrants[name] = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
            continue
        entrants[name] = {"products": products_of(built, case)}
        if contestant.ours:
            key = str(built.to_config())
            if key in same:
                entrants[name] |= {"same_as": same[key]}
                continue
            same[key] = name
        calls[name] = step_of(built, case, latents)
    return entrants, calls


def _identity(case: Case, latents: Tensor, calls: dict[str, Call]) -> dict[str, dict[str, Any]]:
    """Every search against ours: how many indices differ, and who is closer by distances in float64."""
    mine_name = "gm-vq search"
    if mine_name not in calls:
        return {}
    found = {name: call()[0].to(case.device) for name, call in calls.items()}
    codes, z, ours = case.codes().double(), latents.double(), found.pop(mine_name)
    report = {}
    for name, theirs in found.items():
        rows = (ours != theirs).nonzero()[:, 0]
        mine, other = ((z[rows] - codes[index[rows]]).square().sum(-1) for index in (ours, theirs))
        report[name] = {"differing": len(rows), "theirs_closer": int((other < mine).sum())}
    return report


def _complaint(check: dict[str, Any]) -> str:
    return (
        "{contestant}, {size}: {worst} is off the reference by {error:.2g} of its largest value, "
        "{allowed:.2g} is allowed"
    ).format(**check)


def _line(case: dict[str, Any]) -> str:
    """A case as one line of progress."""
    parts = [
        f"{name} {row['median_ms']:.1f} ms" for name, row in case["contestants"].items() if "median_ms" in row
    ]
    return f"{case['name']}: {', '.join(parts)}"
