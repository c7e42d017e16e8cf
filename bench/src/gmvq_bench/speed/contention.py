"""How much of the machine other processes took while a case was measured: the first thing to look at in odd figures."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
#: Of the first line of /proc/stat after its name: user, nice, system, idle, iowait, irq, softirq, steal.
_BUSY = (0, 1, 2, 5, 6, 7)


@dataclass(frozen=True)
class Clock:
    """CPU seconds of all processes and of this one, and the time they were read."""

    everyone: float
    own: float
    wall: float

    @staticmethod
    def now() -> Clock | None:
        """Read the clocks; None where the system does not have them."""
        try:
            fields = _STAT.read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        everyone = sum(int(fields[i]) for i in _BUSY if i < len(fields)) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return Clock(everyone, own.user + own.system, time.perf_counter())


def cores_of_others(start: Clock | None, end: Clock | None) -> float | None:
    """Cores that others kept busy between two readings, on average; None where unknown."""
    if start is None or end is None or end.wall <= start.wall:
        return None
    others = (end.everyone - start.everyone) - (end.own - start.own)
    return max(0.0, others / (end.wall - start.wall))
