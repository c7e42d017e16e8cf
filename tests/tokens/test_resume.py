"""Runs that are stopped, killed, out of disk, or repeated with something changed."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq import VQAutoencoder
from gmvq.tokens import DataRecipe, encode_dataset, read_manifest, verify
from gmvq.tokens.folder import locked

Contents = Callable[[Path], dict[str, bytes]]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("images", [0, 8, 33, 56, 72])
def test_a_stopped_run_ends_with_the_same_files(
    model: Any,
    recipe: DataRecipe,
    tokens: Path,
    tmp_path: Path,
    contents: Contents,
    stop_after: Any,
    options: dict[str, Any],
    images: int,
) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(model, recipe, out, progress=stop_after(images), **options)
    before = read_manifest(out)
    assert not before.complete
    assert verify(out).problems[0].startswith("the run is not finished")
    result = encode_dataset(model, recipe, out, **options)
    assert result.encoded == 73 - sum(record.images for record in before.shards)
    assert contents(out) == contents(tokens)


def test_a_finished_run_does_nothing(
    model: Any, recipe: DataRecipe, tokens: Path, contents: Contents, options: dict[str, Any]
) -> None:
    before = contents(tokens)
    times = {path.name: path.stat().st_mtime_ns for path in tokens.iterdir()}
    result = encode_dataset(model, recipe, tokens, **options)
    assert (result.encoded, result.notes) == (0, [])
    assert contents(tokens) == before
    assert times == {path.name: path.stat().st_mtime_ns for path in tokens.iterdir()}


def test_shards_unknown_to_the_manifest_and_leftovers(
    model: Any, recipe: DataRecipe, tokens: Path, contents: Contents, options: dict[str, Any]
) -> None:
    expected = contents(tokens)
    (tokens / "manifest.json").unlink()
    (tokens / ".test-00001-of-00002.parquet.tmp").write_bytes(b"half")
    (tokens / "test-00001-of-00002.parquet").unlink()
    result = encode_dataset(model, recipe, tokens, **options)
    assert result.encoded == 3
    assert sum(note.startswith("took over") for note in result.notes) == 4
    assert contents(tokens) == expected


def test_damaged_shards_are_made_anew(
    model: Any, recipe: DataRecipe, tokens: Path, contents: Contents, options: dict[str, Any]
) -> None:
    expected = contents(tokens)
    first, second = "train-00000-of-00003.parquet", "train-00001-of-00003.parquet"
    (tokens / first).write_bytes(expected[first][:-9])
    data = json.loads(expected["manifest.json"])
    data["shards"] = [shard for shard in data["shards"] if shard["file"] != second]
    data |= {"rows": 53, "complete": False}
    (tokens / "manifest.json").write_text(json.dumps(data))
    middle = len(expected[second]) // 2
    changed = expected[second][:40] + bytes([expected[second][40] ^ 255]) + expected[second][41:]
    assert len(changed) > middle
    (tokens / second).write_bytes(changed)
    result = encode_dataset(model, recipe, tokens, **options)
    assert result.encoded == 40
    assert sum(note.startswith("encoded again") for note in result.notes) == 2
    assert contents(tokens) == expected


def test_what_changed_is_named_and_nothing_is_touched(
    model: Any,
    build: Callable[..., Any],
    recipe: DataRecipe,
    tokens: Path,
    contents: Contents,
    options: dict[str, Any],
    tmp_path: Path,
) -> None:
    before = contents(tokens)

    def refused(match: str, changed_model: Any = model, data: Any = recipe, **changed: Any) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            encode_dataset(changed_model, data, tokens, **{**options, **changed})
        assert "give another --out" in str(caught.value)
        assert contents(tokens) == before

    other = build()
    with torch.no_grad():
        next(other.parameters()).add_(1e-6)
    refused(r"What differs: the checkpoint \(sha256 \w{16} there, sha256 \w{16} here\)\.", other)
    refused(r"What differs: --batch_size \(8 there, 4 here\)", batch_size=4)
    refused("--rows_per_shard", rows_per_shard=30)
    refused("--log_variance", log_variance=True)
    refused("the splits", data=dataclasses.replace(recipe, split="test"))
    with np.load(recipe.path) as archive:
        arrays = dict(archive)
    arrays["y_test"][-1] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    refused("the data", data=dataclasses.replace(recipe, path=str(tmp_path / "other.npz")))
    (tokens / "manifest.json").unlink()
    before = contents(tokens)
    refused("belongs to another run", batch_size=4)


def test_the_same_data_elsewhere_is_the_same_data(
    model: Any, recipe: DataRecipe, tokens: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """The name of the file is part of the names of the rows; its folder is not."""
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / Path(recipe.path).name
    moved.write_bytes(Path(recipe.path).read_bytes())
    result = encode_dataset(model, dataclasses.replace(recipe, path=str(moved)), tokens, **options)
    assert result.encoded == 0
    assert read_manifest(tokens).data.path == str(moved)


def test_two_writers(model: Any, recipe: DataRecipe, tokens: Path, options: dict[str, Any]) -> None:
    with locked(tokens), pytest.raises(ValueError, match=f"being written by process {os.getpid()} on"):
        encode_dataset(model, recipe, tokens, **options)
    assert not (tokens / ".lock").exists()


def test_a_full_disk(
    model: Any,
    recipe: DataRecipe,
    tokens: Path,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    out, real = tmp_path / "full", os.fsync

    def fsync(handle: int) -> None:
        if "train-00002" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"disk is full.*2 of 5 shards.*run the same command again") as caught:
        encode_dataset(model, recipe, out, **options)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(contents(out)) == [
        "manifest.json",
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
    ]
    monkeypatch.undo()
    assert encode_dataset(model, recipe, out, **options).encoded == 33
    assert contents(out) == contents(tokens)


#: Imports once, then forks a process for every line of arguments: it prints the number of the process, its last line on
#: stderr goes to a file, and its exit status follows.
SCRIPT = """
import os, resource, shlex, sys
from gmvq import VQAutoencoder
from gmvq.tokens import DataRecipe, encode_dataset

def encode(checkpoint, data, out, rows, limit, said):
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    model = VQAutoencoder.from_pretrained(checkpoint)
    try:
        encode_dataset(model, DataRecipe(data, size=8), out, batch_size=8, rows_per_shard=int(rows))
    except OSError as error:
        sys.stderr.write(f"{type(error).__name__} {error}")
        sys.stderr.flush()
        return 1
    return 0

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(encode(*shlex.split(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Encoders:
    """Processes of their own that encode, one after another."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, checkpoint: Path, data: Path, out: Path, *, rows: int = 8, limit: int = 0) -> int:
        """Start a process; returns its number."""
        assert self.server.stdin is not None
        said = out.with_suffix(".said")
        arguments = map(str, (checkpoint, data, out, rows, limit, said))
        self.server.stdin.write(shlex.join(arguments) + "\n")
        self.server.stdin.flush()
        return self._number()

    def end(self) -> int:
        """Wait for the process; returns its exit status."""
        return self._number()

    def _number(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def encoders() -> Iterator[Encoders]:
    started = Encoders()
    yield started
    started.server.kill()
    started.server.wait()


@pytest.mark.xdist_group("encoders")
def test_a_limit_on_the_size_of_files(
    encoders: Encoders, checkpoint: Path, array: Path, tmp_path: Path
) -> None:
    encoders.start(checkpoint, array, tmp_path / "t", rows=50, limit=3000)
    assert encoders.end() == 1
    err = (tmp_path / "t.said").read_text()
    assert "OSError" in err
    assert "run the same command again" in err
    assert [path for path in (tmp_path / "t").iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.xdist_group("encoders")
def test_killed_three_times(encoders: Encoders, checkpoint: Path, tmp_path: Path, contents: Contents) -> None:
    """More kills, on more images: tests/hardening/reliability.py."""
    images = np.random.default_rng(3).integers(0, 255, (800, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    out, chance = tmp_path / "killed", random.Random(5)
    for attempt in range(3):
        process = encoders.start(checkpoint, tmp_path / "images.npy", out)
        wanted, deadline = len(list(out.glob("*.parquet"))) + 10 + 5 * attempt, time.monotonic() + 200
        while len(list(out.glob("*.parquet"))) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.random() * 0.01)
        os.kill(process, signal.SIGKILL)
        assert encoders.end() == -signal.SIGKILL
    assert not read_manifest(out).complete
    encoders.start(checkpoint, tmp_path / "images.npy", out)
    assert encoders.end() == 0
    whole, threads = tmp_path / "whole", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encode_dataset(
            VQAutoencoder.from_pretrained(checkpoint),
            DataRecipe(str(tmp_path / "images.npy"), size=8),
            whole,
            batch_size=8,
            rows_per_shard=8,
        )
    finally:
        torch.set_num_threads(threads)
    assert contents(out) == contents(whole)
    assert not verify(out).problems
