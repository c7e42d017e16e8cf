"""A tokenizer small enough to compute by hand: mean of 2x2 pixels, a mixture on it, nearest upsampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmvq.types import QuantizerOutput


@dataclass(frozen=True)
class Kind:
    kind: str = "adaptive"


class HandMixture(nn.Module):
    """The reading half of ``GaussianMixtureVQ``: a given codebook and precision, uniform weights."""

    def __init__(self, codebook: Tensor, precision: float = 100.0, masked_column: int | None = None) -> None:
        super().__init__()
        self.codebook = nn.Parameter(codebook)
        self.codebook_size, self.dim = codebook.shape
        self.log_precision = nn.Parameter(torch.tensor([math.log(precision)]))
        self.variance, self.masked_column = Kind(), masked_column

    def log_weights(self) -> Tensor:
        return torch.full((self.codebook_size,), -math.log(self.codebook_size))

    def standardized(self, latents: Tensor) -> Tensor:
        return latents

    def unstandardized(self, z: Tensor) -> Tensor:
        return z

    def code_log_variance(self, squared_distance: Tensor) -> Tensor:
        return (squared_distance / (2.0 * self.dim)).clamp_min(1e-8).log()

    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        indices = (latents[..., None, :] - self.codebook).square().sum(-1).argmin(-1)
        if self.masked_column is not None:
            indices[..., self.masked_column] = -1
        return indices

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        if indices.max() >= self.codebook_size:
            raise ValueError("index out of range")
        return self.codebook[indices.clamp_min(0)] * (indices >= 0)[..., None]

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        indices = self.encode(latents)
        codes = self.get_codes_from_indices(indices)
        log_variance = self.code_log_variance((latents - codes).square().sum(-1))
        zero = latents.new_zeros(())
        return QuantizerOutput(codes, indices, zero, zero, log_variance, {})


class Nearest(nn.Module):
    """A quantizer that is no mixture: no posterior, no precision."""

    def __init__(self, codebook: Tensor) -> None:
        super().__init__()
        self.points = nn.Parameter(codebook)
        self.codebook_size, self.dim = codebook.shape

    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        return (latents[..., None, :] - self.points).square().sum(-1).argmin(-1)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        return self.points[indices]

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        indices = self.encode(latents)
        zero = latents.new_zeros(())
        return QuantizerOutput(self.points[indices], indices, zero, zero, zero, {})


@dataclass(frozen=True)
class Output:
    reconstruction: Tensor
    quantizer: QuantizerOutput


class Tokenizer(nn.Module):
    layout = "channels_first"

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.AvgPool2d(2)
        self.quantizer: Any = quantizer
        self.decoder = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Output:
        out = self.quantizer(self.encoder(x).movedim(1, -1))
        return Output(self.decoder(out.quantized.movedim(-1, 1)), out)

    def encode(self, x: Tensor) -> Tensor:
        return self(x).quantizer.indices

    def decode(self, indices: Tensor) -> Tensor:
        return self.decoder(self.quantizer.get_codes_from_indices(indices).movedim(-1, 1))


class Images(torch.utils.data.Dataset[Tensor]):
    """Random colour images with names and a description, like the package's own datasets."""

    def __init__(self, count: int = 10, size: int = 16, channels: int = 3) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(count, channels, size, size, generator=generator)
        self.description = f"{count} random images <script>alert(1)</script>"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def item_name(self, index: int) -> str:
        return f"image <{index}>"


@pytest.fixture
def codebook() -> Tensor:
    """(8, 3): the corners of a cube inside the colour cube."""
    corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)])
    return 0.4 + 0.2 * corners.float()


@pytest.fixture
def tokenizer(codebook: Tensor) -> Tokenizer:
    return Tokenizer(HandMixture(codebook))


@pytest.fixture
def plain_tokenizer(codebook: Tensor) -> Tokenizer:
    return Tokenizer(Nearest(codebook))


@pytest.fixture
def hand_mixture() -> type[HandMixture]:
    return HandMixture


@pytest.fixture
def tokenizer_of() -> type[Tokenizer]:
    return Tokenizer


@pytest.fixture
def dataset() -> Images:
    return Images()


@pytest.fixture
def images_of() -> type[Images]:
    return Images
