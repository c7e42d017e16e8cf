"""``Rate``: how far a long command is, how fast, and how long it will take, on standard error."""

from __future__ import annotations

import sys
import time

_TERMINAL, _LOG = 0.2, 15.0  # seconds between two lines


class Rate:
    """A line that is redrawn on a terminal, and a line every quarter of a minute elsewhere.

    The first call sets the place that the rate is measured from: what an earlier run did does not count.

    Args:
        unit: of what is counted.
    """

    def __init__(self, unit: str = "images") -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._first: int | None = None
        self._started = self._shown = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` of ``total`` are done, unless it was shown a moment ago."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started, self._shown = done, now, now
            return
        last = done == total
        if now - self._shown < (_TERMINAL if self._terminal else _LOG) and not last:
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        text = f"{done:,} of {total:,} {self._unit}" if total else f"{done:,} {self._unit}"
        text += f"  {rate:,.0f}/s"
        if total and rate > 0 and not last:
            text += f"  {_duration((total - done) / rate)} left"
        if self._terminal:
            print(f"\r{text:<70}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif done > self._first:
            print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
