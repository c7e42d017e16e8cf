"""A long run compared with itself, stopped and resumed ten times: every tensor, and every line of the history.

OMP_NUM_THREADS=1 nice -n 15 python tests/hardening/resumed.py --json bench/results/resumed.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from gmvq.files import write_json
from gmvq.training import read_checkpoint
from gmvq_bench.results import environment

KIND = "gmvq resumed"
_LAST = Path("checkpoints", "last.ckpt")


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        rng = np.random.default_rng(0)
        coarse = rng.uniform(0, 255, (200, 2, 2, 3))
        np.save(work / "images.npy", np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8))
        _finish(_start(work, "straight", options.steps))
        stops = list[int]()
        for number in range(options.stops):
            process = _start(work, "resumed", options.steps)
            _wait_for(
                work / "resumed" / "history.jsonl",
                options.steps * (number + 1) // (options.stops + 1),
                process,
            )
            process.send_signal(signal.SIGTERM if number % 2 else signal.SIGKILL)
            process.wait()
            stops.append(int(read_checkpoint(work / "resumed" / _LAST)["global_step"]))
            print(f"stop {number + 1}: the checkpoint is of step {stops[-1]}", file=sys.stderr, flush=True)
        _finish(_start(work, "resumed", options.steps))
        differ = _differences(work / "straight", work / "resumed")
    results: dict[str, Any] = {
        "kind": KIND,
        "command": shlex.join(["python", "tests/hardening/resumed.py", *sys.argv[1:]]),
        "environment": environment(torch.device("cpu")),
        "steps": options.steps,
        "went_on_from": stops,
        "differences": differ,
    }
    print(json.dumps(results, indent=1))
    if options.json:
        write_json(Path(options.json), results)
    return int(bool(differ))


def _start(work: Path, name: str, steps: int) -> subprocess.Popen[bytes]:
    """Begin the run of this name, or go on with it."""
    fit = ["--data.path", "images.npy", "--data.size", "8", "--data.batch_size", "8", "--model.dim", "4"]
    fit += ["--model.codebook_size", "16", "--trainer.accelerator", "cpu", "--trainer.max_steps", str(steps)]
    fit += ["--trainer.enable_progress_bar", "false", "--logger", "none", "--save_every", "50"]
    fit += ["--ckpt_path" if (work / name / _LAST).is_file() else "--out", name]
    command = [sys.executable, "-m", "gmvq", "fit", *fit]
    with (work / f"{name}.txt").open("ab") as said:
        return subprocess.Popen(command, cwd=work, stdout=said, stderr=said)


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"{process.args} ended with {process.returncode}")


def _wait_for(history: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has logged this step."""
    while process.poll() is None:
        lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
        if len(lines) > 1 and json.loads(lines[-2])["step"] >= step:
            return
        time.sleep(0.05)
    raise RuntimeError(f"the run ended with {process.returncode} before it was stopped")


def _differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two finished runs."""
    ends = [read_checkpoint(run / _LAST) for run in (one, other)]
    found = [
        key
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "gmvq")
        if _digest(ends[0][key]) != _digest(ends[1][key])
    ]
    for name in ("history.jsonl", "metrics.json"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    # Not by its bytes: safetensors writes its metadata in the order of a hash table, another in every process.
    weights = "model/model.safetensors"
    if len({_digest(sorted(load_file(run / weights).items())) for run in (one, other)}) > 1:
        found.append(weights)
    return found


def _digest(value: Any) -> str:
    """SHA-256 over nested containers of tensors and values."""
    sha = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            sha.update(f"{part.dtype} {tuple(part.shape)}".encode())
            sha.update(part.contiguous().view(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, dict):
            for key in part:
                sha.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for entry in part:
                add(entry)
        else:
            sha.update(repr(part).encode())

    add(value)
    return sha.hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A run against itself resumed.")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--work", help="folder for temporary files; default: the system's")
    parser.add_argument("--json", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
