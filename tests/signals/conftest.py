"""A folder of short recordings, a table of series, and one small run on each, made by the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gmvq.cli.main import main
from gmvq.data.audio import wav_bytes

RATE = 8000
SMALL = [
    *(
        "--model.spatial_dims",
        "1",
        "--model.channels",
        "1",
        "--model.dim",
        "4",
        "--model.codebook_size",
        "16",
    ),
    *(
        "--model.num_quantizers",
        "2",
        "--model.warmup_steps",
        "3",
        "--data.size",
        "64",
        "--data.batch_size",
        "8",
    ),
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", "6", "--trainer.val_check_interval", "3"),
    *("--trainer.log_every_n_steps", "2", "--logger", "none"),
]


def _tone(seed: int, length: int, channels: int = 1) -> np.ndarray:
    """A chord with some noise, (channels, length) float32 in [-1, 1]."""
    random = np.random.default_rng(seed)
    time = np.arange(length) / RATE
    waves = [0.2 * np.sin(2 * np.pi * f * time) for f in random.uniform(100, 900, 3)]
    return (sum(waves) + 0.02 * random.normal(size=(channels, length))).astype(np.float32)


@pytest.fixture(scope="session")
def tone() -> Callable[..., np.ndarray]:
    """Make a chord: (seed, length, channels=1) -> (channels, length)."""
    return _tone


@pytest.fixture
def small() -> list[str]:
    """Options of a run of a few seconds."""
    return SMALL


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve mono recordings of different lengths, one of them shorter than a window."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "deep").mkdir()
    for number in range(12):
        name = f"deep/{number}.wav" if number % 3 == 0 else f"{number}.wav"
        length = 40 if number == 5 else 150 + 17 * number
        (folder / name).write_bytes(wav_bytes(_tone(number, length), RATE))
    return folder


@pytest.fixture(scope="session")
def sound_run(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    """The run folder of a model trained on the recordings for six steps."""
    return _fit(tmp_path_factory.mktemp("sound"), recordings)


@pytest.fixture(scope="session")
def series_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a model trained on ten series around 1000, in ../series.npy."""
    folder = tmp_path_factory.mktemp("series")
    np.save(folder / "series.npy", np.stack([1000 + 50 * _tone(seed, 150)[0] for seed in range(10)]))
    return _fit(folder, folder / "series.npy")


def _fit(folder: Path, data: Path) -> Path:
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["fit", "--out", "run", "--data.path", str(data), *SMALL]) == 0
    finally:
        os.chdir(before)
    return folder / "run"
