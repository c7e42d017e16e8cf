"""Recordings and series of which one is broken: the others are used, and the broken one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gmvq.data import DataRecipe, SignalScale, open_signals
from gmvq.data.audio import wav_bytes
from gmvq.tokens.rows import Rows

soundfile = pytest.importorskip("soundfile")
ALL = {"split_fractions": (0.0, 0.0), "augment": False, "size": 16}


@pytest.fixture
def folder(tmp_path: Path, tone: Callable[..., np.ndarray]) -> Path:
    """Four recordings of 64 samples, the second with NaN in its third quarter."""
    for number in range(4):
        samples = tone(number, 64)[0].astype(np.float32)
        if number == 1:
            samples[40] = np.nan
        soundfile.write(tmp_path / f"{number}.wav", samples, 8000, subtype="FLOAT")
    return tmp_path


def test_a_window_that_cannot_be_read_has_no_row(folder: Path) -> None:
    rows = Rows({"all": open_signals(folder, **ALL)})
    batch = rows.batch(range(16))
    assert len(batch.ids) == 15
    assert [(one.id, one.name) for one in batch.skipped] == [(6, "1.wav[t=32]")]
    assert "NaN" in batch.skipped[0].reason


def test_training_shows_another_window_always_the_same(folder: Path) -> None:
    options = {**ALL, "augment": True}
    first, again = open_signals(folder, **options), open_signals(folder, **options)
    for draw in range(60):
        assert first[(0, draw)].isfinite().all()
    assert [name for name, _ in first.skipped] == ["1.wav"]
    for draw in (59, 7, 31):
        np.testing.assert_array_equal(again[(0, draw)], first[(0, draw)])


def test_recordings_at_another_rate_or_with_other_channels_are_named(folder: Path) -> None:
    (folder / "1.wav").write_bytes(wav_bytes(np.zeros((1, 64), np.float32), 16000))
    (folder / "2.wav").write_bytes(wav_bytes(np.zeros((2, 64), np.float32), 8000))
    recipe = DataRecipe(str(folder), size=16, channels=1, scale=SignalScale(-1, 1, 8000))
    (dataset,) = recipe.open().values()
    assert [name for name, _ in dataset.skipped] == [
        "1.wav"
    ]  # of the other the mean of its channels is taken
    assert "16000 Hz" in dataset.skipped[0][1]
    with pytest.raises(ValueError, match="one sample rate"):  # where no model says which is meant
        open_signals(folder, **ALL)
    (folder / "1.wav").unlink()
    stereo = open_signals(folder, channels=2, **ALL)
    assert [name for name, _ in stereo.skipped] == ["0.wav", "3.wav"]


def test_a_folder_of_series(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.arange(32.0) + number)
    (tmp_path / "a.csv").write_text("1\n2\n,\n")
    (tmp_path / "b.npy").write_bytes(b"no array")
    np.save(tmp_path / "c.npy", np.full(32, np.nan))
    np.save(tmp_path / "d.npy", np.zeros((2, 32)))
    dataset = open_signals(tmp_path, **ALL)
    assert len(dataset) == 6
    assert [name for name, _ in dataset.skipped] == ["a.csv", "b.npy", "c.npy", "d.npy"]


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_row_with_gaps(tmp_path: Path, suffix: str) -> None:
    series = np.random.default_rng(0).normal(size=(40, 32))
    file = tmp_path / f"s{suffix}"
    save = np.save if suffix == ".npy" else lambda path, values: np.savez(path, x=values)
    save(file, series)
    whole = open_signals(file, split="train", size=16)
    names = {whole.item_name(i): whole[i] for i in range(len(whole))}
    series[3, 5] = np.nan
    save(file, series)
    rest = open_signals(file, split="train", size=16)
    assert [name for name, _ in rest.skipped] == [f"s{suffix}:3"]
    kept = {rest.item_name(i) for i in range(len(rest))}
    assert kept == {name for name in names if not name.startswith(f"s{suffix}:3[")}
