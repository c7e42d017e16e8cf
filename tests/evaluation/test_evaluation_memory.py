"""Evaluation holds sums and one batch, however long the set is."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from gmvq.evaluation import evaluate, inspect_codebook
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.objectives import GaussianLikelihood


def live_bytes() -> int:
    """Bytes of all tensors that Python still holds, each storage once."""
    gc.collect()
    plain = (Tensor, torch.nn.Parameter)  # not the fake tensors that an export elsewhere has left behind
    storages = (t.untyped_storage() for t in gc.get_objects() if type(t) in plain)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


class Generated(torch.utils.data.Dataset[Tensor]):
    """Images made when they are asked for; notes what is alive at the start of every batch."""

    def __init__(self, length: int, batch_size: int) -> None:
        self.length, self._batch_size = length, batch_size
        self.alive: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if index % self._batch_size == 0:
            self.alive.append(live_bytes())
        return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))


@pytest.fixture
def model() -> VQAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder("tiny", dim=4, codebook_size=32)
    model.quantizer.init_codebook(torch.randn(64, 4))
    model.train()(torch.rand(4, 3, 16, 16))
    return model


def test_evaluate_keeps_nothing_of_the_set(model: VQAutoencoder) -> None:
    images = Generated(40, batch_size=4)
    result = evaluate(model, images, batch_size=4, likelihood=GaussianLikelihood(0.2), bound_samples=2)
    assert result.images == 40
    assert len(images.alive) == 10
    assert max(images.alive[2:]) <= images.alive[1]


def test_counting_codes_keeps_nothing_of_the_set(model: VQAutoencoder) -> None:
    images = Generated(40, batch_size=4)
    report = inspect_codebook(model, images, batch_size=4)
    assert report.histogram is not None
    assert report.histogram.sum() == 40 * 16
    assert max(images.alive[2:]) <= images.alive[1]


def test_the_measure_sees_what_is_kept(model: VQAutoencoder) -> None:
    """The test above would fail if a batch's reconstructions were kept."""
    images = Generated(16, batch_size=4)
    kept: list[Any] = []
    model.register_forward_hook(lambda _, __, out: kept.append(out.reconstruction))
    evaluate(model, images, batch_size=4)
    assert images.alive[3] - images.alive[1] >= 2 * 4 * 3 * 16 * 16 * 4
