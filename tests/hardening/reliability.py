"""Encode a whole data set, kill it, go on, and compare; rate against the bare model, and peak memory.

OMP_NUM_THREADS=1 python tests/hardening/reliability.py --json bench/results/reliability.json

Three parts, each a subset of the results file: ``speed`` (encode_dataset against a loop of ``model.encode`` over
images that are in memory already, taking turns in one process), ``kills`` (``gmvq encode`` of the data killed five
times, against a run that was left alone) and ``small_kills`` (twenty times, on small images in many shards).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gmvq.files import write_json
from gmvq.models import build_autoencoder
from gmvq.tokens import DataRecipe, encode_dataset, read_manifest, verify
from gmvq.tokens.rows import Rows
from gmvq.training import load_model
from gmvq.training.checkpoint import open_model
from gmvq_bench.results import environment

KIND = "gmvq reliability"
_SMALL = (6000, 8, 8, 3)


def main() -> int:
    options = _parser().parse_args()
    results: dict[str, Any] = {
        "kind": KIND,
        "command": shlex.join(["python", "tests/hardening/reliability.py", *sys.argv[1:]]),
        "environment": environment(torch.device("cpu")),
    }
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        checkpoint = options.checkpoint or str(
            _untrained(work / "model", channels=1, size=28, data=options.data)
        )
        if "speed" in options.parts:
            results["speed"] = speed(checkpoint, options, work / "speed")
            _show("speed", results["speed"])
        if "kills" in options.parts:
            command = ["--data", options.data, "--rows_per_shard", "2048"]
            results["kills"] = kills(checkpoint, command, options.kills, options.seed, work / "kills")
            _show("kills", results["kills"])
        if "small_kills" in options.parts:
            images = np.random.default_rng(0).integers(0, 255, _SMALL, dtype=np.uint8)
            np.save(work / "small.npy", images)
            small = str(_untrained(work / "small_model", channels=3, size=8, data=str(work / "small.npy")))
            command = ["--rows_per_shard", "32", "--batch_size", "16"]
            results["small_kills"] = kills(
                small, command, options.small_kills, options.seed + 1, work / "small"
            )
            _show("small_kills", results["small_kills"])
    if options.json:
        write_json(Path(options.json), results)
        print(f"written to {options.json}", file=sys.stderr)
    parts = [results[name] for name in ("kills", "small_kills") if name in results]
    return int(any(not part["identical"] or part["rows_lost"] or part["rows_doubled"] for part in parts))


def speed(checkpoint: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Take turns: some thousand images through ``model.encode`` alone, then as many through ``encode_dataset``.

    Opening the data set, decompression above all, is no part of either; ``ratio_with_opening`` adds it to encode's.
    """
    model = load_model(checkpoint)
    trained = open_model(checkpoint).notes.get("data") or {}
    config: Any = model.encoder.config
    size, channels = trained.get("size", 28), int(config["channels"])
    recipe = DataRecipe(options.data, size=size, channels=channels, divided=True)
    times: dict[str, list[float]] = {key: [] for key in ("open", "bare", "bare_cpu", "encode", "encode_cpu")}
    images = 0
    for turn in range(options.rounds):
        before = time.perf_counter()
        parts = recipe.open()
        times["open"].append(time.perf_counter() - before)
        turns = Turns(model, Rows(parts))
        before, before_cpu = time.perf_counter(), time.process_time()
        images = encode_dataset(model, parts, work / str(turn), progress=turns).encoded
        times["encode"].append(time.perf_counter() - before - turns.away)
        times["encode_cpu"].append(time.process_time() - before_cpu - turns.away_cpu)
        times["bare"].append(turns.bare)
        times["bare_cpu"].append(turns.bare_cpu)
        print(
            f"pass {turn + 1}: bare {turns.bare:.2f} s, encode {times['encode'][-1]:.2f} s", file=sys.stderr
        )
    shutil.rmtree(work)
    return {
        "data": options.data,
        "images": images,
        "batch_size": 64,
        "passes": options.rounds,
        "seconds": times,
        "images_per_second_bare": images / median(times["bare"]),
        "images_per_second_encode": images / median(times["encode"]),
        "ratio": median(b / e for b, e in zip(times["bare"], times["encode"], strict=True)),
        "ratio_with_opening": median(
            b / (e + o) for b, e, o in zip(times["bare"], times["encode"], times["open"], strict=True)
        ),
        "ratio_cpu_time": median(b / e for b, e in zip(times["bare_cpu"], times["encode_cpu"], strict=True)),
    }


class Turns:
    """Progress callback that now and then lets the bare loop catch up with what has been encoded.

    ``bare`` and ``bare_cpu`` are the seconds of ``model.encode`` alone, over images that are in memory already;
    ``away`` and ``away_cpu`` those that ``encode_dataset`` has to be spared, reading these images included.
    """

    def __init__(self, model: Any, rows: Rows, batch_size: int = 64, together: int = 4096) -> None:
        self._model, self._rows, self._batch_size, self._together = model, rows, batch_size, together
        self._done = 0
        self.bare = self.bare_cpu = self.away = self.away_cpu = 0.0

    def __call__(self, done: int, total: int) -> None:
        if done - self._done < self._together and done < total:
            return
        left, left_cpu = time.perf_counter(), time.process_time()
        for split in self._rows.splits:
            start = max(self._done, split.first_id)
            stop = min(done, split.first_id + split.images)
            if start < stop:
                self._encode(self._rows.batch(range(start, stop)).pixels)
        self._done = done
        self.away += time.perf_counter() - left
        self.away_cpu += time.process_time() - left_cpu

    def _encode(self, images: torch.Tensor) -> None:
        before, before_cpu = time.perf_counter(), time.process_time()
        for batch in images.split(self._batch_size):
            self._model.encode(batch)
        self.bare += time.perf_counter() - before
        self.bare_cpu += time.process_time() - before_cpu


def kills(checkpoint: str, command: list[str], count: int, seed: int, work: Path) -> dict[str, Any]:
    """Kill ``gmvq encode`` at random moments, go on each time, and compare with a run that was left alone."""
    work.mkdir()
    whole, killed, chance = work / "whole", work / "killed", random.Random(seed)
    seconds = time.perf_counter()
    memory = _finish(_start(checkpoint, command, whole))
    seconds = time.perf_counter() - seconds
    manifest = read_manifest(whole)
    shards = manifest.shard_count
    moments: list[dict[str, Any]] = []
    for number in range(count):
        # In mean the rest of the shards is shared out evenly; then a moment within the time that a shard takes.
        there = len(list(killed.glob("*.parquet")))
        wanted = there + chance.randint(0, max(1, 2 * (shards - there) // (count - number + 1)))
        wanted = min(wanted, shards - 1)
        process = _start(checkpoint, command, killed)
        while process.poll() is None and (
            not (killed / "manifest.json").exists() or len(list(killed.glob("*.parquet"))) < wanted
        ):
            time.sleep(0.001)
        time.sleep(chance.random() * seconds / shards / 2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        moments.append(
            {
                "returncode": process.returncode,
                "shards": len(list(killed.glob("*.parquet"))),
                "in_manifest": len(read_manifest(killed).shards)
                if (killed / "manifest.json").exists()
                else 0,
                "temporaries": len(list(killed.glob(".*.tmp"))),
            }
        )
        print(f"kill {number + 1}: {moments[-1]}", file=sys.stderr)
    _finish(_start(checkpoint, command, killed))
    names = sorted(path.name for path in whole.iterdir())
    same = names == sorted(path.name for path in killed.iterdir())
    same = same and all((whole / name).read_bytes() == (killed / name).read_bytes() for name in names)
    ids = Counter(_ids(killed))
    expected = set(_ids(whole))
    result = {
        "kills": sum(moment["returncode"] == -signal.SIGKILL for moment in moments),
        "images": manifest.images,
        "rows": manifest.rows,
        "shards": shards,
        "moments": moments,
        "identical": same,
        "rows_lost": len(expected - set(ids)),
        "rows_doubled": sum(times > 1 for times in ids.values()),
        "problems_found_by_verify": len(verify(killed).problems),
        "seconds_uninterrupted_with_start": seconds,
        "peak_memory_bytes": memory,
    }
    shutil.rmtree(work)
    return result


def _ids(folder: Path) -> list[int]:
    import pyarrow.parquet as pq

    return [
        i for file in folder.glob("*.parquet") for i in pq.read_table(file, columns=["id"])["id"].to_pylist()
    ]


def _start(checkpoint: str, command: list[str], out: Path) -> subprocess.Popen[bytes]:
    line = [
        sys.executable,
        "-m",
        "gmvq",
        "encode",
        checkpoint,
        *command,
        "--out",
        str(out),
        "--quiet",
    ]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _finish(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; return the most memory it held, in bytes (Linux; 0 elsewhere).

    The peak is read from /proc, since ``ru_maxrss`` counts the memory of the process that started it, too.
    """
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
            peak = 1024 * int(line.split()[1])
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    return peak


def _untrained(folder: Path, *, channels: int, size: int, data: str) -> Path:
    """A tokenizer as ``gmvq fit`` begins one, with codes: rates and bytes do not depend on training."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", channels=channels).eval()
    with torch.no_grad():
        latents = model.encoder(torch.rand(512, channels, size, size)).movedim(1, -1)
    quantizer: Any = model.quantizer
    quantizer.init_codebook(latents.reshape(-1, quantizer.dim)[:8192])
    model.save_pretrained(folder, metadata={"data": {"path": data, "size": size, "channels": channels}})
    return folder


def _show(name: str, part: dict[str, Any]) -> None:
    shown = {key: value for key, value in part.items() if key not in ("seconds", "moments")}
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Encode, kill, go on, compare.")
    parser.add_argument("--checkpoint", help="default: an untrained tiny model for grey images of 28 pixels")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--parts", nargs="+", default=["speed", "kills", "small_kills"])
    parser.add_argument(
        "--rounds", type=int, default=5, help="passes over the data in the comparison of speed"
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--small_kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", help="folder for temporary files; default: the system's")
    parser.add_argument("--json", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
