"""The tutorial of docs/generation.md, line by line, on a few small images of the same format."""

from __future__ import annotations

import gzip
import os
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest

from gmvq.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "gmvq fit": "--data.path {data} --data.size 8 --data.batch_size 8 --trainer.max_steps 4 "
    "--trainer.val_check_interval 4 --model.codebook_size 8 --model.warmup_steps 1 --logger none "
    "--trainer.enable_progress_bar false",
    "gmvq encode": "--quiet",
    "gmvq prior": "--trainer.max_steps 3 --trainer.val_check_interval 3 --data.batch_size 8 --logger none "
    "--trainer.enable_progress_bar false",
    "gmvq sample": "--n 20",
}


def write_idx(folder: Path) -> None:
    """Four files as those of Fashion-MNIST, with labels 0 to 9."""
    random = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        images = np.kron(random.integers(0, 255, (count, 2, 2), dtype=np.uint8), np.ones((4, 4), np.uint8))
        head = struct.pack(">4BIII", 0, 0, 8, 3, count, 8, 8)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + images.astype(np.uint8).tobytes())
        )
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes()))


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
    block = page.split("<!-- tutorial -->")[1].split("<!-- end of tutorial -->")[0]
    lines = [line for line in block.splitlines() if line.startswith("gmvq ")]
    assert {" ".join(line.split()[:2]) for line in lines} == set(SMALL)
    (tmp_path / "data").mkdir()
    write_idx(tmp_path / "data")
    os.symlink(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        more = SMALL[" ".join(line.split()[:2])].format(data=tmp_path / "data")
        assert main([*shlex.split(line)[1:], *more.split()]) == 0, line
    for folder, count in (("labelled", 20), ("free", 20), ("floor", 20)):
        pictures = list((tmp_path / "samples" / folder).glob("0*.png"))
        assert len(pictures) == count
        assert (tmp_path / "samples" / folder / "grid.png").is_file()
    assert (tmp_path / "samples" / "free" / "metrics.json").is_file()
