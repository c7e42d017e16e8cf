"""The benchmark of the layer: correctness first, then every case of a grid, kept in a results file as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..results import Results, environment, failure
from .contestants import CONTESTANTS, Case
from .floors import bandwidth, bytes_to_move, floor_calls
from .gate import check_all
from .grid import Entry
from .measure import EXPECTED, Call, busy, cores_of_others, extra_memory, interleaved

KIND = "gmvq bench layer"
#: Weight of the sum of the quantized latents in the loss of a training step.
SMALL = 1e-3


@dataclass(frozen=True)
class Limits:
    """Bytes, above which a contestant takes no part by its estimate; seconds of the repetitions of one case, beyond the
    first three; and whether to measure CPU time, which other work of the machine changes less, not the wall time.
    """

    memory: float
    seconds: float = 15.0
    cpu_time: bool = False


class IncorrectError(Exception):
    """A contestant of ours differs from the reference; nothing was timed."""


def run(
    path: Path,
    entries: list[Entry],
    *,
    which: str,
    device: torch.device,
    threads: int | None,
    limits: Limits,
    command: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run the entries that the results file ``path`` does not hold yet, and return all it then holds.

    ``which`` grid they are, and the ``command``, are for the head of the file; ``threads`` are of torch and faiss.

    Raises:
        IncorrectError: a contestant of ours is wrong.
        ValueError: ``path`` holds something else, or cases of another set-up.
    """
    torch.set_flush_denormal(True)  # for everybody, and before torch's threads exist, which inherit it
    if threads is not None:
        torch.set_num_threads(threads)
    where = {**environment(device), "clock": "CPU time" if limits.cpu_time else "wall time"}
    head = {"kind": KIND, "command": command, "environment": where, "grid": which}
    results = Results(path, head)
    say("correctness of every contestant of ours against the reference")
    results.data["correctness"] = check_all(device)
    wrong = [check for check in results.data["correctness"] if not check["passed"]]
    if wrong:
        raise IncorrectError(
            "\n".join(
                "{contestant}, {size}: {worst} is off the reference by {error:.2g} of its largest value, "
                "{allowed:.2g} is allowed".format(**check)
                for check in wrong
            )
        )
    if "bandwidth" not in results.data:
        results.data["bandwidth"] = bandwidth(device)
    best = max(results.data["bandwidth"].values())
    for number, entry in enumerate(entries, 1):
        if results.has(entry.case.name, entry.names):
            continue
        with _number_type(entry.case):
            measured = measure(entry, limits, best)
        results.add(measured)
        rows = measured["contestants"].items()
        times = [f"{name} {row['median_ms']:.1f} ms" for name, row in rows if "median_ms" in row]
        say(f"[{number}/{len(entries)}] {entry.case.name}: {', '.join(times)}")
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
                memory = asdict(extra_memory(call, device))
                entrants[name] |= {f"{part}_bytes": value for part, value in memory.items()}
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


def products_of(built: Any, case: Case) -> int:
    """N x K x D matrix products that no implementation of this layer avoids: 3 for a training step that gives every
    code a gradient (logits, and the gradients of both sides), 1 if all but a search is on few codes.
    """
    support = getattr(built, "support", None)
    return 3 if case.mode == "train" and (support is None or support >= case.k) else 1


def step_of(built: Any, case: Case, latents: Tensor) -> Callable[[], list[Any]]:
    """The callable that is measured, from latents to what the step leaves to its user: outputs, in training gradients.

    * ``forward``: training mode, the graph of the backward is built;
    * ``train``: forward and backward of ``quantized.sum() * small + loss``, gradients of latents and parameters made
      new, moving averages updated where the layer has them;
    * ``eval``: eval mode without gradients;
    * ``search``: from latents to indices alone.

    bfloat16 latents come as they do in mixed precision: within autocast.
    """
    if case.mode == "search":
        return lambda: [built(latents)]

    def context() -> Any:
        mixed = case.dtype == "bf16"
        return torch.autocast(case.device.type, torch.bfloat16) if mixed else nullcontext()

    built.train(case.mode != "eval")
    source = latents.detach().requires_grad_()
    parameters = [source, *(p for p in built.parameters() if p.requires_grad)]

    def step() -> list[Any]:
        if case.mode == "eval":
            with torch.no_grad(), context():
                return [built(latents)]
        with context():
            out = built(source)
            quantized, *rest = out
            losses = [x.float().sum() for x in rest if isinstance(x, Tensor) and x.is_floating_point()]
            loss = sum(losses, start=quantized.new_zeros((), dtype=torch.float32)) + quantized.sum() * SMALL
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if case.mode == "train" else ()
        return [out, *gradients]

    return step


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
        except ValueError as error:
            entrants[name] = {"skipped": str(error)}
            continue
        except EXPECTED as error:
            entrants[name] = {"failed": failure(error)}
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
