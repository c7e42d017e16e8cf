"""One small run in a folder of its own, made by the command line in this process, for every test to look at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gmvq.cli.main import main

SMALL = [
    *("--model.dim", "4", "--model.codebook_size", "16", "--model.warmup_steps", "3"),
    *("--data.size", "8", "--data.batch_size", "8", "--trainer.accelerator", "cpu", "--logger", "none"),
    *("--trainer.log_every_n_steps", "2", "--trainer.val_check_interval", "3"),
]


@dataclass(frozen=True)
class Workplace:
    """A folder with images.npy and the run runs/small of six steps."""

    folder: Path
    small: list[str]

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "small"

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    coarse = np.random.default_rng(0).uniform(0, 255, (48, 2, 2, 3))
    np.save(folder / "images.npy", np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8))
    small = ["--data.path", str(folder / "images.npy"), *SMALL]
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["fit", "--name", "small", *small, "--trainer.max_steps", "6", "--seed", "3"]) == 0
    finally:
        os.chdir(before)
    return Workplace(folder, small)


@pytest.fixture
def here(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Work in that folder."""
    monkeypatch.chdir(workplace.folder)
    return workplace
