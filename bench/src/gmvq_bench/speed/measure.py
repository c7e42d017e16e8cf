"""Time and memory of a call: medians over interleaved repetitions, and bytes that the allocator reports.

A call runs one step of a contestant and returns the tensors that the step leaves to its user (outputs, gradients),
which stay alive until the memory is counted.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch._C._profiler import _EventType  # pyright: ignore[reportPrivateUsage]

from gmvq.reading import read_text

from ..results import failure

Call = Callable[[], Any]
#: What a call may raise: out of memory, say.
EXPECTED = (RuntimeError, ValueError, TypeError, AssertionError, MemoryError)

#: Pause before a timed call: idle threads of another library's pool spin for a while and would take its cores.
_PAUSE = 0.005


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contestant."""

    median_ms: float
    min_ms: float
    max_ms: float
    repetitions: int

    @staticmethod
    def of(seconds: list[float]) -> Timing:
        ms = [1e3 * s for s in seconds]
        return Timing(statistics.median(ms), min(ms), max(ms), len(ms))


@dataclass(frozen=True)
class Memory:
    """Bytes that a call adds to its inputs: the most at once; what stays when it has returned, outputs and gradients;
    the most at once of what does not stay, from single allocations on a CPU, peak - kept on an accelerator.
    """

    peak: int
    kept: int
    transient: int


def interleaved(
    calls: dict[str, Call],
    device: torch.device,
    *,
    seconds: float,
    at_least: int = 3,
    at_most: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time calls in turn, each once a round, after one round of warm-up that does not count.

    Every round has an order of its own, so that none always follows the same one. Rounds end when they took
    ``seconds``, between ``at_least`` and ``at_most`` rounds. ``clock`` tells the time of a call. The second result has
    the errors of calls that failed.
    """
    failures: dict[str, str] = {}
    for name, call in calls.items():
        try:
            for _ in range(2):
                first = timed(call, device, clock)
                if first > 0.5:  # long enough for one to warm up
                    break
        except EXPECTED as error:
            failures[name] = failure(error)
    names = [name for name in calls if name not in failures]
    taken: dict[str, list[float]] = {name: [] for name in names}
    order, started = random.Random(0), time.perf_counter()
    for round_ in range(at_most if names else 0):
        if round_ >= at_least and time.perf_counter() - started > seconds:
            break
        gc.collect()
        gc.disable()
        try:
            for name in order.sample(names, len(names)):
                taken[name].append(timed(calls[name], device, clock))
        finally:
            gc.enable()
    return {name: Timing.of(values) for name, values in taken.items()}, failures


def timed(call: Call, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call; what it returns is released after."""
    _wait(device)
    if device.type == "cpu":
        time.sleep(_PAUSE)
    start = clock()
    result = call()
    _wait(device)
    elapsed = clock() - start
    del result
    return elapsed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def extra_memory(call: Call, device: torch.device) -> Memory:
    """Bytes that ``call`` allocates through torch; run it once before, so that nothing is a first time."""
    gc.collect()
    if device.type == "cuda":
        return _cuda_memory(call, device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes lines of its own to stderr
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=False
    ) as profile:
        result = call()
    changes = _changes(profile)
    del result
    return from_changes(changes)


def _cuda_memory(call: Call, device: torch.device) -> Memory:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    kept = torch.cuda.memory_allocated(device) - before
    del result
    return Memory(peak, kept, peak - kept)


def _changes(profile: Any) -> list[tuple[int, int]]:
    """(address, bytes) of every allocation (positive) and release (negative) of CPU memory, in order of time.

    From the profiler's own tree, as its memory timeline has it: the trace of a step with a million codes is
    a file of 700 MB.
    """
    events, found = list(profile.profiler.kineto_results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == _EventType.Allocation and event.extra_fields.device.type == "cpu":
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    return [(address, size) for _, address, size in sorted(found, key=itemgetter(0))]


def from_changes(changes: Iterable[tuple[int, int]]) -> Memory:
    """Sum up (address, bytes) of allocations and releases in order; releases of older memory count as negative."""
    changes = list(changes)
    alive: dict[int, int] = {}
    """Address -> number of the change that allocated it."""
    for number, (address, size) in enumerate(changes):
        if size > 0:
            alive[address] = number
        else:
            alive.pop(address, None)
    stays = set(alive.values())
    now = peak = passing = transient = 0
    ours: set[int] = set()
    for number, (address, size) in enumerate(changes):
        now += size
        peak = max(peak, now)
        if size > 0 and number not in stays:
            ours.add(address)
            passing += size
            transient = max(transient, passing)
        elif size < 0 and address in ours:
            ours.discard(address)
            passing += size
    return Memory(peak, now, transient)


def busy() -> tuple[float, float, float] | None:
    """CPU seconds of all processes, of this one, and the time; None where the system does not say."""
    try:
        fields = read_text("/proc/stat").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    # All but idle and waiting for a disk: user, nice, system, interrupts, what a hypervisor took.
    ticks = sum(int(value) for i, value in enumerate(fields[:8]) if i not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:2]), time.perf_counter()


def cores_of_others(
    start: tuple[float, float, float] | None, end: tuple[float, float, float] | None
) -> float | None:
    """Cores that other processes kept busy between two readings: the first thing to look at in odd figures."""
    if start is None or end is None or end[2] <= start[2]:
        return None
    everyone, own, wall = (after - before for before, after in zip(start, end, strict=True))
    return max(0.0, (everyone - own) / wall)
