"""Kill every command that writes at random moments, and fill the disk under it; then see what is there, and go on.

OMP_NUM_THREADS=1 python tests/hardening/broken_writes.py --json bench/results/broken_writes.json

*Kill.* A command is killed with SIGKILL at a random moment of the time that it takes undisturbed. What lies there then
has to be valid (``broken_files.py``), and after going on (the same command, or for a run that has a checkpoint
``--ckpt_path``) the files have to be those of an undisturbed run, byte for byte, and nothing half-written may be left.

*Full.* The largest file that the command may write is limited (RLIMIT_FSIZE: the system refuses more bytes, as on a
full disk), to a size at which another of its files fails each time. The command has to end with exit code 2 and one
line that names the file and the cause, to leave nothing half-written, and to end as undisturbed when given again.

Results of cases that the file has already are kept, but for those of this call.

Commands run in a process that is forked from one that has imported everything, so that a moment is one of work.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from broken_cases import CASES, Case, prepare
from broken_files import contents, leftovers, problems

from gmvq.files import write_json
from gmvq_bench.results import environment

KIND = "gmvq broken writes"
_PRELOAD = [
    "gmvq.cli.main",
    "gmvq.cli.fit",
    "gmvq.cli.options",
    "gmvq.training.trainer",
    "gmvq.prior.opening",
]
_PRELOAD += ["gmvq.export", "gmvq_bench.rate_distortion.report", "gmvq_bench.comparison.execute"]


@dataclass
class Ended:
    """A command that has ended, or was ended: its exit code (-9: killed), what it said, its seconds."""

    code: int
    text: str
    seconds: float


def main() -> int:
    options = _parser().parse_args()
    command = shlex.join(["python", "tests/hardening/broken_writes.py", *sys.argv[1:]])
    results: dict[str, Any] = {
        "kind": KIND,
        "commands": [command],
        "environment": environment(torch.device("cpu")),
        "cases": {},
    }
    if options.json and Path(options.json).is_file():
        kept = json.loads(Path(options.json).read_text(encoding="utf-8"))
        results |= {"commands": list(dict.fromkeys([*kept["commands"], command])), "cases": kept["cases"]}
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        prepare(work, run)
        for case in CASES:
            if options.cases and case.name not in options.cases:
                continue
            found = examine(case, work, options.kills, options.full, options.seed)
            known = {**results["cases"], case.name: found}
            results["cases"] = {one.name: known[one.name] for one in CASES if one.name in known}
            print(f"{case.name}: {found}", file=sys.stderr, flush=True)
            if options.json:
                write_json(Path(options.json), results)
    return int(any(found["problems"] for found in results["cases"].values()))


def examine(case: Case, work: Path, kills: int, full: int, seed: int = 0) -> dict[str, Any]:
    """Kill a command so many times, fill the disk under it so many times; count, and list every problem."""
    chance, out, bad = random.Random(f"{seed} {case.name}"), work / "out", list[str]()
    whole = run(case.start(work), work)
    if whole.code:
        raise RuntimeError(f"{case.name} ended with {whole.code}: {whole.text}")
    expected = contents(out, case)
    killed = refused = 0
    for number in range(kills):
        shutil.rmtree(out)
        ended = run(case.start(work), work, kill_after=chance.random() * whole.seconds)
        killed += ended.code == -signal.SIGKILL
        bad += [f"kill {number + 1}: {one}" for one in _after(case, work, expected)]
    sizes = sorted({path.stat().st_size for path in out.rglob("*") if path.is_file()} - {0})
    for number in range(full):
        shutil.rmtree(out)
        size = sizes[round(number * (len(sizes) - 1) / max(full - 1, 1))]
        ended = run(case.start(work), work, limit=chance.randint(size // 2, size - 1))
        refused += ended.code != 0
        bad += [f"full {number + 1}: {one}" for one in _said(ended) + _after(case, work, expected)]
    shutil.rmtree(out)
    return {
        "kills": kills,
        "killed": killed,
        "full": full,
        "refused": refused,
        "seconds": round(whole.seconds, 2),
        "files": len(expected),
        "problems": bad,
    }


def _said(ended: Ended) -> list[str]:
    """What is wrong with how a command ended on a full disk."""
    last = (ended.text.strip().splitlines() or [""])[-1]
    if ended.code == 0:
        return []
    if ended.code != 2 or "Traceback" in ended.text:
        return [f"exit code {ended.code}, {ended.text[-1500:]!r}"]
    known = "could not be written" in last and ("disk is full" in last or "limit on its use" in last)
    return [] if known else [f"says {last!r}"]


def _after(case: Case, work: Path, expected: dict[str, str]) -> list[str]:
    """What is wrong with what a broken command left, and with what it is after going on."""
    out = work / "out"
    bad = problems(out)
    if out.is_dir() and not leftovers(out) and contents(out, case) == expected:
        return bad  # it had ended before it was broken
    ended = run(case.again(work), work)
    if ended.code:
        return [*bad, f"going on ended with {ended.code}: {ended.text[-1500:]}"]
    found = contents(out, case)
    differ = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    bad += [f"not as undisturbed: {', '.join(differ)}"] * bool(differ)
    return bad + [f"left behind: {name}" for name in leftovers(out)]


def run(argv: list[str], folder: Path, *, kill_after: float | None = None, limit: int | None = None) -> Ended:
    """Run ``gmvq`` with these arguments in a folder; kill it and all that it started after some seconds."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__, *_PRELOAD])
    here, there = forks.Pipe(duplex=False)
    process = forks.Process(target=_child, args=(argv, str(folder), limit, there))
    process.start()
    there.close()
    assert here.recv_bytes() == b"ready"
    start = time.monotonic()
    if kill_after is not None:
        process.join(kill_after)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
    parts = list[bytes]()
    while part := os.read(here.fileno(), 1 << 16):
        parts.append(part)
    process.join()
    seconds = time.monotonic() - start
    here.close()
    return Ended(process.exitcode or 0, b"".join(parts).decode("utf-8", "replace"), seconds)


def _child(argv: list[str], folder: str, limit: int | None, out: Connection) -> None:
    """What the forked process does: one command, everything that it says into the pipe."""
    os.setsid()
    os.chdir(folder)
    out.send_bytes(b"ready")
    for number in (1, 2):
        os.dup2(out.fileno(), number)
    out.close()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from gmvq.cli.main import main as gmvq

    torch.set_num_threads(1)
    code = gmvq(argv)
    sys.stdout.flush()
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Break every command that writes, and go on.")
    parser.add_argument("--cases", nargs="+", help="of broken_cases.py; default: all")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--full", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and limits")
    parser.add_argument("--work", help="folder for temporary files; default: the system's")
    parser.add_argument("--json", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
