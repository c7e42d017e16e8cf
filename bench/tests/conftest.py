"""A few images to train on, and runs of ``gmvq compare`` made in this process, for tests of all but the processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200 smooth images of 16 pixels, 20 or so of them the test split: the photographs are cut into thousands."""
    path = tmp_path_factory.mktemp("few") / "images.npy"
    coarse = np.random.default_rng(0).uniform(0, 255, (200, 4, 4, 3))
    np.save(path, np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8))
    return str(path)


class InProcess:
    """Stands in for a worker process: errors stay in their row as there, and nothing is imported anew."""

    def __init__(self, device: str, threads: int) -> None:
        self.device = device

    def run(self, train_one: Any, run: Any) -> dict[str, Any]:
        from gmvq_bench.comparison.execute import _guarded

        return _guarded(train_one, run, self.device)

    def close(self) -> None: ...


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmvq_bench.comparison.execute._Worker", InProcess)
