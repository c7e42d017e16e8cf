"""A folder of photographs much larger than the crop, from ``gmvq fit`` to the report and to maps of one picture."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmvq.cli.main import main

OPTIONS = [
    *(
        "--model.codebook_size",
        "16",
        "--data.batch_size",
        "16",
        "--trainer.accelerator",
        "cpu",
        "--logger",
        "none",
    ),
    *("--trainer.max_steps", "4", "--trainer.log_every_n_steps", "2", "--trainer.val_check_interval", "4"),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(5):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 14, 3), dtype=np.uint8))
        coarse.resize((600, 514), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    for name in "abcd":
        (folder / f"{name}.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def run_dir(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; what it said is in said.txt."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(["fit", "--data.path", str(photographs), "--out", str(folder), *OPTIONS]) == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder


def test_fit_says_what_it_chose_and_what_it_left_out(run_dir: Path) -> None:
    said = (run_dir / "said.txt").read_text()
    assert "3 pictures at random scales and places" in said
    assert "--data.crops whole scales each down to 32 pixels" in said
    assert "skipped: a.txt: another kind of file: .txt; b.txt: another kind of file: .txt; c.txt" in said
    assert "; and 1 more" in said
    assert "data wait" in said


def test_evaluation_counts_the_tiles_of_whole_pictures(run_dir: Path) -> None:
    # One test picture of 514 x 600: 17 x 19 tiles of 32.
    figures = json.loads((run_dir / "metrics.json").read_text())
    assert figures["images"] == 17 * 19
    assert main(["evaluate", str(run_dir), "--json", str(run_dir / "again.json")]) == 0
    again = json.loads((run_dir / "again.json").read_text())
    assert again["images"] == 17 * 19
    assert again["mse"] == pytest.approx(figures["mse"], rel=1e-3)


def test_the_time_spent_waiting_for_data_is_measured(run_dir: Path) -> None:
    assert 0 < json.loads((run_dir / "run.json").read_text())[-1]["data_wait"] < 1
    assert "data_wait" not in (run_dir / "history.jsonl").read_text()


def test_the_report_shows_whole_pictures_and_their_maps(run_dir: Path) -> None:
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "<h2>Whole pictures</h2>" in text
    for caption in ("original", "reconstruction", "error", "tokens", "uncertainty"):
        assert f"<figcaption>{caption}</figcaption>" in text


def test_reconstruct_draws_maps(
    run_dir: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "odd.png"
    Image.open(photographs / "0.jpg").crop((0, 0, 101, 67)).save(picture)
    assert main(["reconstruct", str(run_dir), str(picture), "--out", str(tmp_path / "out"), "--maps"]) == 0
    drawn = Image.open(tmp_path / "out" / "odd-maps.webp")
    assert drawn.size == (4 * 101 + 3 * 8, 67)
    original = np.asarray(drawn.crop((0, 0, 101, 67))).astype(float)
    assert np.abs(original - np.asarray(Image.open(picture))).mean() < 8
