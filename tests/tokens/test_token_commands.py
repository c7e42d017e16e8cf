"""gmvq encode, decode, tokens verify and tokens stats on a command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gmvq.tokens import read_manifest

Run = Callable[..., Any]


def test_from_images_to_tokens_and_back(gmvq: Run, checkpoint: Path, array: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    encode = ("encode", checkpoint, "--data", array, "--out", out, "--rows_per_shard", "20", "--log_variance")
    result = gmvq(*encode)
    assert result.code == 0, result.err
    assert "73 rows of 2 x 2 codes of 16, 5 shards" in result.out
    assert "73 of 73 images" in result.err
    result = gmvq(*encode, "--quiet")
    assert result.code == 0
    assert f"{out} is complete already" in result.err
    assert "/s" not in result.err
    result = gmvq(*encode, "--batch_size", "32")
    assert result.code == 2
    assert "What differs: --batch_size (64 there, 32 here)" in result.err

    result = gmvq("tokens", "verify", out)
    assert (result.code, result.out) == (0, "73 rows in 5 shards: all as in the manifest\n")
    plot, figures = tmp_path / "p" / "plot.png", tmp_path / "figures.json"
    result = gmvq("tokens", "stats", out, "--plot", plot, "--json", figures, "--top", "2", "--split", "test")
    assert result.code == 0, result.err
    assert "perplexity" in result.out
    assert "mean log-variance" in result.out
    assert plot.is_file()
    assert json.loads(figures.read_text())["rows"] == 23

    result = gmvq("decode", out, "--out", tmp_path / "png", "--limit", "3")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "png").glob("*.png"))) == 3
    result = gmvq("decode", out, "--out", tmp_path / "png")
    assert (result.code, "not empty" in result.err) == (2, True)
    result = gmvq(
        "decode", out, "--out", tmp_path / "x.parquet", "--checkpoint", checkpoint, "--split", "test"
    )
    assert (result.code, "23 images" in result.out) == (0, True)
    result = gmvq("decode", out, "--out", tmp_path / "y.parquet", "--checkpoint", tmp_path / "gone")
    assert (result.code, str(tmp_path / "gone") in result.err) == (2, True)

    (out / "test-00000-of-00002.parquet").unlink()
    result = gmvq("tokens", "verify", out)
    assert result.code == 1
    assert "test-00000-of-00002.parquet is missing" in result.out


def test_unreadable_images_are_said(gmvq: Run, checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    result = gmvq("encode", checkpoint, "--data", pictures, "--out", tmp_path / "t")
    assert result.code == 1
    assert "no row: a/04.png (id 2): OSError: image file is truncated" in result.err
    assert "2 items could not be used" in result.err.splitlines()[-1]


def test_misuse(gmvq: Run, checkpoint: Path, tokens: Path, tmp_path: Path) -> None:
    assert "required" in gmvq("encode", checkpoint).err
    assert "give --data PATH" in gmvq("encode", checkpoint, "--out", tmp_path / "t").err
    assert "expected a whole number" in gmvq("encode", checkpoint, "--out", "t", "--workers", "-1").err
    assert "is no folder of tokens" in gmvq("tokens", "stats", tmp_path).err
    assert "verify|stats" in gmvq("tokens").err
    assert "do not say which checkpoint" in gmvq("decode", tokens, "--out", tmp_path / "x.parquet").err


def test_ctrl_c(gmvq: Run, checkpoint: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(3).integers(0, 255, (4000, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "tokens"
    options = ["encode", str(checkpoint), "--data", str(tmp_path / "images.npy"), "--out", str(out)]
    options += ["--rows_per_shard", "20", "--batch_size", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gmvq", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    deadline = time.monotonic() + 100
    while len(list(out.glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"Go on with: gmvq encode {checkpoint}" in err
    assert not read_manifest(out).complete
    assert not list(out.glob(".*"))
    result = gmvq(*options)
    assert result.code == 0, result.err
    assert read_manifest(out).rows == 4000
