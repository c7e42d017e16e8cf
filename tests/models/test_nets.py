"""The default networks: shapes for every size and setting, ranges, initialisation, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gmvq.models import build_networks, build_networks_1d
from gmvq.models.nets import ResidualBlock


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
@pytest.mark.parametrize("downsample", [4, 8, 16])
def test_shapes(name: str, downsample: int) -> None:
    with torch.device("meta"):
        encoder, decoder = build_networks(name, channels=2, dim=5, downsample=downsample)
        latents = encoder(torch.empty(3, 2, 32, 64))
        assert latents.shape == (3, 5, 32 // downsample, 64 // downsample)
        assert decoder(latents).shape == (3, 2, 32, 64)


@pytest.mark.parametrize(("name", "millions"), [("tiny", (0.2, 0.6)), ("small", (2, 5)), ("base", (15, 30))])
@pytest.mark.parametrize("downsample", [4, 8, 16])
def test_numbers_of_parameters(name: str, millions: tuple[float, float], downsample: int) -> None:
    with torch.device("meta"):
        networks = build_networks(name, downsample=downsample)
    count = sum(parameter.numel() for network in networks for parameter in network.parameters())
    assert millions[0] < count / 1e6 < millions[1]


@pytest.mark.parametrize(("name", "downsample"), [("tiny", 4), ("tiny", 16), ("small", 8)])
def test_every_parameter_gets_a_gradient(name: str, downsample: int) -> None:
    encoder, decoder = build_networks(name, downsample=downsample)
    decoder(encoder(torch.rand(1, 3, 16, 32))).square().mean().backward()
    for parameter in [*encoder.parameters(), *decoder.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_signals(name: str) -> None:
    encoder, decoder = build_networks_1d(name, channels=4, dim=6, downsample=8)
    latents = encoder(torch.rand(2, 4, 64))
    assert latents.shape == (2, 6, 8)
    assert decoder(latents).shape == (2, 4, 64)


def test_volumes() -> None:
    encoder, decoder = build_networks("tiny", channels=1, dim=6, downsample=4, spatial_dims=3)
    latents = encoder(torch.rand(1, 1, 4, 8, 12))
    assert latents.shape == (1, 6, 1, 2, 3)
    assert decoder(latents).shape == (1, 1, 4, 8, 12)


def test_input_is_centred_and_output_is_on_the_unit_scale() -> None:
    encoder, decoder = build_networks("tiny")
    for network in (encoder, decoder):
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(encoder.linear.weight)
    torch.testing.assert_close(encoder(torch.full((1, 3, 4, 4), 0.5)), torch.zeros(1, 32, 1, 1))
    torch.testing.assert_close(encoder(torch.ones(1, 3, 4, 4)), torch.full((1, 32, 1, 1), 48.0))
    torch.testing.assert_close(decoder(torch.zeros(1, 32, 1, 1)), torch.full((1, 3, 4, 4), 0.5))


@pytest.mark.parametrize("normalise", [True, False])
def test_residual_block_starts_as_the_identity(normalise: bool) -> None:
    x = torch.randn(2, 8, 5, 5)
    block = ResidualBlock(8, (3, 3), normalise=normalise, spatial_dims=2)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_channels_last_memory_format_changes_nothing() -> None:
    encoder, decoder = build_networks("small", dim=8)
    x = torch.rand(2, 3, 16, 16)
    expected = decoder(encoder(x))
    encoder.to(memory_format=torch.channels_last)
    decoder.to(memory_format=torch.channels_last)
    actual = decoder(encoder(x.contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "huge"}, "name must be one of 'tiny', 'small', 'base', got 'huge'"),
        ({"downsample": 5}, "downsample must be 4, 8 or 16, got 5"),
        ({"spatial_dims": 4}, "spatial_dims must be 1, 2 or 3, got 4"),
        ({"channels": 0}, "channels must be positive, got 0"),
        ({"dim": -1}, "dim must be positive, got -1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_networks(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 18), r"divisible by downsample=4, got sizes \(16, 18\)"),
        ((1, 1, 16, 16), r"shape \(B, 3, H, W\), got \(1, 1, 16, 16\)"),
        ((3, 16, 16), r"shape \(B, 3, H, W\), got \(3, 16, 16\)"),
    ],
)
def test_bad_inputs(shape: tuple[int, ...], message: str) -> None:
    encoder, _ = build_networks("tiny")
    with pytest.raises(ValueError, match=message):
        encoder(torch.rand(shape))
