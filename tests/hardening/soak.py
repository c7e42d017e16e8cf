"""Memory over time: encode, verify and decode a million small images, and train ten thousand steps.

OMP_NUM_THREADS=1 nice -n 15 python tests/hardening/soak.py --json bench/results/soak.json

Each part is a command of its own, whose memory is read from /proc while it runs: what it has allocated (RssAnon; pages
of mapped files, which the system takes back when it wants, are left out). A part is steady if the memory at nine tenths
of its time is not above that at half of it, when everything has long been loaded, by more than a twentieth. Parts that
the results file has from an earlier call, and this call leaves out, are kept.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmvq.files import write_json
from gmvq.models import build_autoencoder
from gmvq_bench.results import environment

KIND = "gmvq soak"
_SIZE = 8
_CHUNK = 1 << 16
#: The growth of memory that is no growth.
_SHARE = 0.05


def main() -> int:
    options = _parser().parse_args()
    results: dict[str, Any] = {
        "kind": KIND,
        "command": shlex.join(["python", "tests/hardening/soak.py", *sys.argv[1:]]),
        "environment": environment(torch.device("cpu")),
        "parts": {},
    }
    if options.json and Path(options.json).is_file():
        results["parts"] = json.loads(Path(options.json).read_text(encoding="utf-8"))["parts"]
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        for part, command in commands(work, options.images, options.steps).items():
            found = {"images": options.images, "steps": options.steps}
            found |= watched(command, work / f"{part}.txt", options.seconds)
            if part in options.parts:
                results["parts"][part] = found
                print(f"{part}: {found}", file=sys.stderr, flush=True)
            if part == options.parts[-1]:
                break
    if options.json:
        write_json(Path(options.json), results)
    return int(not all(part["steady"] and part["returncode"] == 0 for part in results["parts"].values()))


def commands(work: Path, images: int, steps: int) -> dict[str, list[str]]:
    """Write the images and an untrained model, and return the arguments of ``gmvq`` by the name of the part."""
    data, tokens = work / "images.npy", work / "tokens"
    random = np.random.default_rng(0)
    stored = np.lib.format.open_memmap(data, "w+", np.uint8, (images, _SIZE, _SIZE, 3))
    for start in range(0, images, _CHUNK):
        chunk = stored[start : start + _CHUNK]
        chunk[:] = random.integers(0, 255, chunk.shape, dtype=np.uint8)
    stored.flush()
    torch.manual_seed(0)
    model = build_autoencoder("tiny", codebook_size=64).eval()
    with torch.no_grad():
        latents = model.encoder(torch.rand(512, 3, _SIZE, _SIZE)).movedim(1, -1)
    quantizer: Any = model.quantizer
    quantizer.init_codebook(latents.reshape(-1, quantizer.dim))
    model.save_pretrained(
        work / "model", metadata={"data": {"path": str(data), "size": _SIZE, "channels": 3}}
    )
    fit = [*("--data.path", str(data), "--data.size", str(_SIZE), "--data.batch_size", "8")]
    fit += [*("--model.dim", "4", "--model.codebook_size", "16", "--trainer.accelerator", "cpu")]
    fit += [*("--trainer.limit_val_batches", "4", "--trainer.limit_test_batches", "4", "--logger", "none")]
    return {
        "encode": ["encode", str(work / "model"), "--out", str(tokens), "--quiet"],
        "verify": ["tokens", "verify", str(tokens)],
        "decode": ["decode", str(tokens), "--out", str(work / "images.parquet"), "--quiet"],
        "fit": ["fit", *fit, "--out", str(work / "run"), "--trainer.max_steps", str(steps)],
    }


def watched(arguments: list[str], output: Path, interval: float) -> dict[str, Any]:
    """Run ``gmvq`` and read its memory every ``interval`` seconds: bytes by seconds since the start."""
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "gmvq", *arguments], stdout=file, stderr=file)
        start, seen = time.monotonic(), list[tuple[float, int]]()
        while process.poll() is None:
            memory = _anonymous(process.pid)
            if memory:
                seen.append((round(time.monotonic() - start, 2), memory))
            time.sleep(interval)
    if process.returncode:
        print(output.read_text(errors="replace")[-2000:], file=sys.stderr)
    over_time = [seen[round(i * (len(seen) - 1) / 10)] for i in range(11)]
    return {
        "returncode": process.returncode,
        "seconds": seen[-1][0],
        "peak_bytes": max(memory for _, memory in seen),
        "steady": over_time[9][1] <= (1 + _SHARE) * over_time[5][1],
        "over_time": over_time,
    }


def _anonymous(pid: int) -> int:
    """Bytes that a process has allocated and that lie in memory; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Memory over time of long commands.")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=10_000)
    names = ["encode", "verify", "decode", "fit"]
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=0.5, help="between two looks at the memory")
    parser.add_argument("--work", help="folder for temporary files; default: the system's")
    parser.add_argument("--json", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
