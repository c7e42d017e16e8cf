"""Several processes of one run: when one is lost, the others say which and how to go on, and end.

Without this they wait for the lost one, half an hour and more, or are killed without a word by Lightning's own
observer, which is put aside. The processes of one machine are known from /proc (Linux): those that the same torchrun
started, or that Lightning started from rank 0. Elsewhere only what the backend reports ends a run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from ..reading import read_text

_SECONDS = 0.2
_over = threading.Event()
#: How long an error of a collective waits for the processes' ends to become visible.
_PATIENCE = 5.0


@contextmanager
def watching_ranks(trainer: Any, command: str, go_on: Callable[[], str]) -> Iterator[None]:
    """End this process with a message when another of the run is lost while the body runs."""
    if trainer.world_size == 1:
        yield
        return
    from lightning.pytorch.strategies.launchers import subprocess_script

    _over.clear()
    watch = _Watch(command, go_on)
    threading.Thread(target=watch.run, daemon=True).start()
    # Lightning's own observer kills all processes without a word when one that it started is lost.
    no_observer = mock.patch.object(subprocess_script, "_launch_process_observer", create=True)
    try:
        with _asked_to_end(watch), no_observer:
            try:
                yield
            except RuntimeError:
                # A collective reports a lost connection at once; the thread finds out whose it was, and ends the
                # process, or the handler does, where torchrun asks to end before that.
                time.sleep(_PATIENCE)
                raise
    finally:
        end_watch()


def end_watch() -> None:
    """The processes end by agreement from here on, each in its time."""
    _over.set()


class _Watch:
    """Whether a process that was there is gone; if so, say so and end."""

    def __init__(self, command: str, go_on: Callable[[], str]) -> None:
        self._command, self._go_on = command, go_on
        self._rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
        # At once: with torchrun the others are there already, and may be gone at the next look.
        self._known = _family(self._rank)
        if os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ:
            # Lightning started this process from rank 0.
            self._known[os.getppid()] = 0

    def run(self) -> None:
        while not _over.wait(_SECONDS):
            self.look()

    def look(self) -> None:
        self._known |= _family(self._rank)
        lost = {pid: rank for pid, rank in self._known.items() if not _is_alive(pid)}
        if not lost or _over.is_set():
            return
        rest = [rank for pid, rank in self._known.items() if pid not in lost]
        if self._rank < min(rest, default=self._rank + 1):
            names = ", ".join(f"rank {rank} (process {pid})" for pid, rank in sorted(lost.items()))
            print(
                f"{self._command}: error: {names} was lost: it was killed, or it failed and says above why; this run "
                f"ends. {self._go_on()}",
                file=sys.stderr,
                flush=True,
            )
        os._exit(1)


@contextmanager
def _asked_to_end(watch: _Watch) -> Iterator[None]:
    """Look first when SIGTERM comes: torchrun sends it to the others as soon as it sees that one was lost."""

    def look(number: int, frame: Any) -> None:
        watch.look()
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, look)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _family(own: int) -> dict[int, int]:
    """The ranks of this process's children and siblings that are other processes of the run, by their pid."""
    found: dict[int, int] = {}
    for parent in (os.getpid(), os.getppid()):
        for file in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for pid in map(int, read_text(file).split()):
                    rank = _rank_of(pid)
                    if rank not in (None, own):
                        found[pid] = rank
    return found


def _rank_of(pid: int) -> int | None:
    """The rank that a process was started as, in its environment; None if it is none of a run."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        text = read_text(f"/proc/{pid}/environ", "replace")
        entries = dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
        if entries["MASTER_PORT"] == os.environ["MASTER_PORT"]:
            return int(entries["RANK"] if "RANK" in entries else entries["LOCAL_RANK"])
    return None


def _is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended: one that nobody has waited for yet has."""
    try:
        return read_text(f"/proc/{pid}/stat", "replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False
