"""Options of `TokenizerModule` and `ImageDataModule` that no other test would miss: each changes what it says."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmvq.training import ImageDataModule, TokenizerModule
from gmvq.training import data as data_module


def square(level: int) -> bytes:
    """Eight pixels of one grey, as PNG."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    file = io.BytesIO()
    image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "step", "factor"),
    [
        ({"warmup_steps": 9, "final_lr": 1.0}, 0, 1 / 10),
        ({"warmup_steps": 3, "final_lr": 1.0}, 0, 1 / 4),
        ({"warmup_steps": 0, "final_lr": 0.5}, 20, 1 / 2),
        ({"warmup_steps": 0, "final_lr": 0.0}, 20, 0),
    ],
)
def test_learning_rates(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], step: int, factor: float
) -> None:
    monkeypatch.setattr(TokenizerModule, "total_steps", 20)
    scheduler = TokenizerModule(codebook_size=8, **options).configure_optimizers()["lr_scheduler"]  # pyright: ignore
    found = [rate(step) for rate in scheduler["scheduler"].lr_lambdas]
    assert found == pytest.approx([factor] * len(found))


def test_betas_are_those_of_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenizerModule, "total_steps", 20)
    optimizer = TokenizerModule(codebook_size=8, betas=(0.5, 0.75)).configure_optimizers()["optimizer"]  # pyright: ignore
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.75)}


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "logit_laplace"])
def test_a_scale_as_a_number_stays_that_number(likelihood: Any) -> None:
    module = TokenizerModule(codebook_size=8, likelihood=likelihood, likelihood_scale=0.25)
    module.likelihood.observe(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8))
    assert float(module.likelihood.log_scale) == pytest.approx(math.log(0.25))
    assert not module.likelihood.log_scale.requires_grad


@pytest.mark.parametrize(
    ("options", "fewest", "most"),
    [({"flip": False}, 1, 1), ({"flip": True}, 2, 2), ({"flip": False, "vary": True}, 9, 40)],
    ids=["the image alone", "and its mirror image", "varied"],
)
def test_what_is_shown_of_an_image(images: str, options: dict[str, Any], fewest: int, most: int) -> None:
    train: Any = ImageDataModule(images, size=8, **options).dataset("train")
    shown = {train[(0, draw)].numpy().tobytes() for draw in range(40)}
    assert fewest <= len(shown) <= most


@pytest.mark.parametrize("column", ["dark", "light"])
def test_the_column_with_the_images(tmp_path: Path, column: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    levels = {"dark": 50, "light": 200}
    cells = {name: [{"bytes": square(level), "path": None}] * 20 for name, level in levels.items()}
    parquet.write_table(pa.table(cells), tmp_path / "two.parquet")
    train: Any = ImageDataModule(str(tmp_path / "two.parquet"), size=8, column=column).dataset("train")
    torch.testing.assert_close(train[0], torch.full((3, 8, 8), levels[column] / 255))


@pytest.mark.parametrize(
    ("options", "cores", "workers"),
    [
        ({"crops": "whole"}, 4, 0),
        ({"crops": "scales"}, 4, 2),
        ({"crops": "scales"}, 1, 1),
        ({"crops": "scales", "num_workers": 0}, 4, 0),
        ({"crops": "whole", "num_workers": 1}, 4, 1),
    ],
)
def test_processes_that_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], cores: int, workers: int
) -> None:
    """By default where pictures are decoded at scales."""
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(square(number))
    made: list[int] = []
    monkeypatch.setattr(data_module, "cores", lambda: cores)
    monkeypatch.setattr(data_module, "make_loader", lambda *_, num_workers, **__: made.append(num_workers))
    ImageDataModule(str(tmp_path), size=8, **options).train_dataloader()
    assert made == [workers]
