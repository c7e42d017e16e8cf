"""The second stage on tokens of signals: a prior, and samples as WAV or .npy files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the prior needs the extra 'prior'")

from gmvq.data.audio import read_header

SMALL = [
    "--trainer.max_steps",
    "2",
    "--trainer.val_check_interval",
    "2",
    "--data.batch_size",
    "4",
    "--logger",
    "none",
]


@pytest.mark.xdist_group("signals")
@pytest.mark.parametrize(("kind", "suffix"), [("sound_run", ".wav"), ("series_run", ".npy")])
def test_signals_are_generated(
    kind: str, suffix: str, request: pytest.FixtureRequest, gmvq: Callable[..., Any], tmp_path: Path
) -> None:
    run = request.getfixturevalue(kind)
    assert gmvq("encode", run, "--out", tmp_path / "tokens", "--quiet").code == 0
    fit = gmvq("prior", "fit", tmp_path / "tokens", *SMALL, "--out", tmp_path / "prior")
    assert fit.code == 0, fit.err
    done = gmvq("sample", tmp_path / "prior", run, "--n", 3, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    assert "3 signals" in done.out
    names = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert names == [*(f"{i:08d}{suffix}" for i in range(3)), "samples.json"]
    size = json.loads((run / "model" / "config.json").read_text())["metadata"]["data"]["size"]
    file = tmp_path / "new" / f"00000001{suffix}"
    length = np.load(file).shape[-1] if suffix == ".npy" else read_header(file).frames
    assert length == size
    assert gmvq("sample", tmp_path / "prior", run, "--fid", "--out", tmp_path / "no").code == 2
