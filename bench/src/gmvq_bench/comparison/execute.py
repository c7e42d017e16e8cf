"""Run a suite: what is not known yet, several runs at a time, each result a file as it comes.

Workers are processes of their own, each fed one run at a time: a worker that dies takes its run with it, whose record
says so, and is replaced. They end with the process that started them, however that ends.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from gmvq.cli.doctor import processor
from gmvq.environment import versions
from gmvq.files import inside, remove_leftovers, write_json
from gmvq.reading import read_json

from ..results import failure
from .methods import build_quantizer
from .suite import Run, Suite, point_of

Record = dict[str, Any]
Say = Callable[[str], None]
TrainOne = Callable[[Run, str], dict[str, Any]]
#: Entries that every record has, and their kinds.
_ENTRIES: dict[str, Any] = {
    **dict.fromkeys(("key", "setting", "method", "phase"), str),
    **{"error": str | None, "seed": int, "lr": int | float, "options": dict},
}


class Records(dict[str, Record]):
    """Records by key, in a folder of JSON files; those of a results file may be added."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        # Refuses a link in its place.
        inside(folder.parent, folder.name, "any.json")
        self.folder = folder
        for place in (folder, folder.parent):
            remove_leftovers(place)
        for file in sorted(folder.glob("*.json")):
            try:
                self.add_known([read_json(file)])
            except ValueError as error:
                raise ValueError(
                    f"{file} is no record of a run: {error}; delete it, and its run is made again"
                ) from error

    def add_known(self, records: Any) -> None:
        """Take over records that another file holds; ValueError where they are none."""
        for record in records if isinstance(records, list) else [records]:
            kinds = record if isinstance(record, dict) else {}
            wrong = [name for name, kind in _ENTRIES.items() if not isinstance(kinds.get(name), kind)]
            if wrong:
                raise ValueError(f"the entry {wrong[0]!r} is missing or of another kind")
            self[record["key"]] = record

    def put(self, record: Record) -> None:
        name = f"{record['setting']}--{record['method']}--{record['phase']}-{record['seed']}-{record['key']}.json"
        write_json(inside(self.folder, name.replace("/", "_").replace(" ", "_")), record)
        self[record["key"]] = record


def key_of(run: Run) -> str:
    """Digest of a run with the quantizer that it builds today, whatever they are called; or why it cannot be built."""
    try:
        with torch.random.fork_rng(devices=[]):
            config: dict[str, Any] = build_quantizer(run).to_config()  # pyright: ignore[reportCallIssue]
    except (ValueError, ImportError) as error:
        config = {"impossible": str(error)}
    same = {name: value for name, value in run.items() if name not in ("setting", "method", "options")}
    text = json.dumps({**same, "config": config}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def execute(
    runs: list[Run],
    records: Records,
    *,
    devices: list[str],
    threads: int = 1,
    say: Say = print,
    train_one: TrainOne | None = None,
    key: Callable[[Run], str] = key_of,
) -> list[Record]:
    """Make every run that ``records`` does not hold; return the records of all, in order.

    ``devices`` has one worker for each entry, such as ``["cpu", "cpu"]``, with so many CPU ``threads``; none: nothing
    is run. ``say`` is told about every run that ends. ``train_one`` is (run, device) -> figures, default
    ``train.train_run``.
    """
    keys = [key(run) for run in runs]
    todo = {name: run for name, run in zip(keys, runs, strict=True) if not _usable(records.get(name))}
    workers = [_Worker(device, threads) for device in devices[: len(todo)]]
    idle = queue.SimpleQueue[_Worker]()
    for worker in workers:
        idle.put(worker)

    def make(name: str, run: Run) -> Record:
        worker = idle.get()
        try:
            figures = worker.run(train_one, run)
        finally:
            idle.put(worker)
        return {**run, **figures, "key": name, "environment": _environment(worker.device, threads)}

    feeders = ThreadPoolExecutor(max(1, len(workers)))
    try:
        made = [feeders.submit(make, *one) for one in todo.items()] if workers else []
        for number, future in enumerate(concurrent.futures.as_completed(made), 1):
            records.put(future.result())
            say(f"[{number}/{len(todo)}] {_line(future.result())}")
    finally:  # an interrupt ends the runs at hand, and no other begins
        feeders.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()
    return _named(runs, map(records.get, keys))


def _named(runs: list[Run], records: Iterable[Record | None]) -> list[Record]:
    """Records with the names of their runs, as an equal run of another suite may have others."""
    names = ("setting", "method", "options")
    pairs = zip(records, runs, strict=True)
    return [{**record, **{name: run[name] for name in names}} for record, run in pairs if record is not None]


def _usable(record: Record | None) -> bool:
    """Whether a record stands: it has figures, or the method diverged; any other error is tried again."""
    return record is not None and (not record["error"] or record["error"].startswith("DivergedError"))


class _Worker:
    """A process that makes runs one after another, and a new one when it has died."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self._threads = device, threads
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._threads,))

    def run(self, train_one: TrainOne | None, run: Run) -> dict[str, Any]:
        try:
            return self._pool.submit(_guarded, train_one, run, self.device).result()
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = self._start()
            return {"error": "the process died: killed, or out of memory"}

    def close(self) -> None:
        """End the process, in the middle of a run if it must be: its record is then made by the next call."""
        for process in list((self._pool._processes or {}).values()):
            process.terminate()  # else the interpreter would wait for the run's end, which may take hours
        self._pool.shutdown(wait=False, cancel_futures=True)


def _begin(threads: int) -> None:
    """What a worker does first."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent does: a worker would go on with a run that nobody writes down, then wait for another."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _guarded(train_one: TrainOne | None, run: Run, device: str) -> dict[str, Any]:
    """The figures of a run, or its error: one failing row must not take the others down."""
    if train_one is None:
        from .train import train_run as train_one
    try:
        return {"error": None, **train_one(run, device)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": failure(error), "where": f"{Path(where.filename).name}:{where.lineno}"}


def _environment(device: str, threads: int) -> dict[str, Any]:
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": threads,
        "torch": torch.__version__,
        **versions("gmvq", "vector-quantize-pytorch"),
    }


def _line(record: Record) -> str:
    """A record as one line of progress."""
    own = " ".join(
        f"{name}={value:g}" for name, value in record["options"].items() if isinstance(value, int | float)
    )
    name = f"{record['setting']} {record['method']} lr={record['lr']:g} {own} seed {record['seed']}"
    if record["error"]:
        return f"{name}: {record['error']}"
    figures = record.get("test") or record["validation"]
    return (
        f"{name}: {'test' if 'test' in record else 'validation'} MSE {figures['mse'] * 1e3:.3f}e-3, "
        f"perplexity {figures['perplexity']:.0f}, {record['seconds']:.0f} s"
    )


def run_suite(suite: Suite, records: Records, **options: Any) -> list[Record]:
    """Tune every method on the validation split, then make its final runs, with options of ``execute``; all records."""
    tuning = [run for setting, method in suite.pairs() for run in suite.grid_of(setting, method)]
    # Settings may share their tuning.
    tuning = list({json.dumps(run, sort_keys=True): run for run in tuning}.values())
    tuned = execute(tuning, records, **options)
    finals: list[Run] = []
    for setting, method in suite.pairs():
        choice = chosen(suite, tuned, setting, method)
        finals += [] if choice is None else suite.finals(setting, method, choice)
    return tuned + execute(finals, records, **options)


def chosen(suite: Suite, tuned: list[Record], setting: str, method: str) -> dict[str, Any] | None:
    """The point of a method's grid with the lowest validation MSE; None if every one failed."""
    choices = suite.methods[method].choices()
    if len(choices) == 1:
        return choices[0]
    place = suite.settings[setting].tuned_as or setting
    runs = [r for r in tuned if (r["setting"], r["method"]) == (place, method) and not r["error"]]
    best = min(runs, key=lambda r: r["validation"]["mse"], default=None)
    return None if best is None else point_of(best, suite.methods[method].grid)
