"""A broken picture among many: listed by ``rd``, ``compare`` and ``uncertainty``, or they stop at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmvq_bench.cli.skipped import list_skipped
from gmvq_bench.commands import main

Run = Callable[..., Any]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of which two are cut short, one behind its header and one within it."""
    folder = tmp_path / "pictures"
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        pixels = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    for name, size in (("07.png", 500), ("21.png", 12)):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])
    return folder


def test_the_list(pictures: Path, tmp_path: Path) -> None:
    places = [(str(pictures), 8, 3), (str(pictures), 8, 3), ("photos", 8, 3)]
    assert list_skipped(tmp_path / "out", places, strict=False) == 2
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == ["07.png", "21.png"]
    assert list_skipped(tmp_path / "none", [("photos", 8, 3)], strict=True) == 0
    assert not (tmp_path / "none").exists()


def test_rd(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("constriction")
    out = tmp_path / "out"
    argv = ["rd", "--data", str(pictures), "--size", "8", "--codebook_sizes", "4", "--betas", "--steps", "2"]
    argv += ["--prior_steps", "2", "--images", "3", "--batch_size", "8", "--out", str(out)]
    assert main(argv) == 1
    assert f"2 items could not be used; {out / 'skipped.jsonl'}" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "rd.json").is_file()
    assert main([*argv, "--strict"]) == 2
    assert "leave --strict out" in capsys.readouterr().err.splitlines()[-1]


def test_compare_stops_before_it_trains(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = {
        "name": "small",
        "description": "one run",
        "seeds": [0],
        "settings": {"one": {"data": str(pictures), "size": 8, "codebook_size": 8, "steps": 1}},
        "methods": {"gm-vq": {"quantizer": "gm-vq", "grid": {"lr": [0.001]}}},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(suite))
    argv = ["compare", "--suite", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), "--strict"]
    assert main(argv) == 2
    assert "leave --strict out" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_uncertainty(here: Any, gmvq: Run, pictures: Path, tmp_path: Path) -> None:
    argv = [
        "uncertainty",
        here.run_dir,
        "--data",
        pictures,
        "--split",
        "all",
        "--resamples",
        "3",
        "--bins",
        "2",
    ]
    result = gmvq(*argv, "--json", tmp_path / "u.json")
    assert result.code == 1, result.err
    assert "2 items could not be used" in result.err.splitlines()[-1]
    assert len((tmp_path / "u.skipped.jsonl").read_text().splitlines()) == 2
    result = gmvq(*argv)
    assert result.code == 1
    assert "07.png could not be used" in result.err
    assert gmvq(*argv, "--strict").code == 2
