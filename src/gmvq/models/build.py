"""``build_autoencoder``: the default networks around a quantizer, in one call."""

from __future__ import annotations

from torch import nn

from ..quantizers import GaussianMixtureVQ
from .autoencoder import VQAutoencoder
from .nets import build_networks


def build_autoencoder(
    name: str = "tiny",
    *,
    channels: int = 3,
    downsample: int = 4,
    dim: int = 4,
    codebook_size: int = 256,
    spatial_dims: int = 2,
    quantizer: nn.Module | None = None,
) -> VQAutoencoder:
    """Build an autoencoder from the default networks and a ``GaussianMixtureVQ``.

    Args:
        name: size of the networks: ``"tiny"``, ``"small"`` or ``"base"``.
        channels, downsample, spatial_dims: as in ``build_networks``.
        dim: features per latent position.
        codebook_size: number of codes.
        quantizer: another quantizer, whose ``dim`` then replaces ``dim`` and ``codebook_size``.

    Example:
        >>> model = build_autoencoder("small", downsample=8, dim=64, codebook_size=1024)
    """
    quantizer = GaussianMixtureVQ(dim=dim, codebook_size=codebook_size) if quantizer is None else quantizer
    encoder, decoder = build_networks(
        name,
        channels=channels,
        dim=quantizer.dim,  # pyright: ignore[reportArgumentType]
        downsample=downsample,
        spatial_dims=spatial_dims,
    )
    return VQAutoencoder(encoder, quantizer, decoder)
