"""``Progress``: how far a long command is, how fast, and how long it will take, on standard error."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any, Self

_SECONDS = 15.0  # between two lines where there is no terminal


class Progress:
    """A bar of ``rich`` on a terminal, and a line every quarter of a minute elsewhere, or without that package.

    Call it with what is done.

    The first call sets the place that the rate is measured from: what an earlier run did does not count.

    Args:
        unit: of what is counted.
        quiet: show nothing.

    Example:
        >>> with Progress("images") as progress:
        ...     for done in range(1, 101):
        ...         progress(done, 100)
    """

    def __init__(self, unit: str = "images", *, quiet: bool = False) -> None:
        self._unit, self._quiet = unit, quiet
        self._bar: Any = None
        self._task: Any = None
        self._first: int | None = None
        self._started = self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show that ``done`` of ``total`` are done, and a note; a line only if the last one is some time ago."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._first is None:
            self._first, self._started, self._shown = done, now, now
            if sys.stderr.isatty() and find_spec("rich"):
                self._bar, self._task = _started_bar(self._unit, done, total)
            return
        rate = (done - self._first) / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=f"{rate:,.0f}/s  {note}")
        elif done > self._first and (done == total or now - self._shown >= _SECONDS):
            self._shown = now
            print(_line(done, total, self._unit, note, rate), file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _line(done: int, total: int | None, unit: str, note: str, rate: float) -> str:
    parts = [
        f"{done:,}{f' of {total:,}' if total else ''} {unit}",
        note,
        f"{rate:,.{0 if rate >= 100 else 1}f}/s",
    ]
    if total and rate > 0 and done < total:
        left = (total - done) / rate
        parts.append(
            f"{left:.0f} s left"
            if left < 100
            else f"{left / 60:.1f} min left"
            if left < 6000
            else f"{left / 3600:.1f} h left"
        )
    return "  ".join(part for part in parts if part)


def _started_bar(unit: str, done: int, total: int | None) -> tuple[Any, Any]:
    from rich import console
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
    )
    # Drawing takes about 10 ms of the interpreter, which a training step then waits for.
    screen = console.Console(stderr=True)
    bar = rich.Progress(*columns, console=screen, refresh_per_second=2)
    bar.start()
    return bar, bar.add_task(unit, total=total, completed=done, note="")
