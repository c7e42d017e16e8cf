"""A nearest-neighbour quantizer with the interface of the real ones, so that these tests need no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmvq import quantizers
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.types import QuantizerOutput


class NearestCode(nn.Module):
    def __init__(self, dim: int, codebook_size: int) -> None:
        super().__init__()
        self.dim, self.codebook_size = dim, codebook_size
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim) * 0.3)

    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        flat = latents.reshape(-1, self.dim)
        indices = torch.cdist(flat, self.codebook.to(flat.dtype)).argmin(-1).view(latents.shape[:-1])
        return indices if mask is None else indices.masked_fill(~mask, -1)

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        return self.codebook[indices.clamp_min(0)] * (indices >= 0)[..., None]

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        indices = self.encode(latents, mask)
        codes = self.get_codes_from_indices(indices)
        distance = (latents - codes).square().mean(-1)
        quantized = latents + (codes - latents).detach() if self.training else codes.to(latents.dtype)
        return QuantizerOutput(quantized, indices, distance.mean(), distance.mean(), distance.log(), {})

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.codebook], "lr": 5 * lr}]

    def to_config(self) -> dict[str, Any]:
        return {"type": "NearestCode", "dim": self.dim, "codebook_size": self.codebook_size}


@pytest.fixture(autouse=True)
def _rebuild_nearest_code(monkeypatch: pytest.MonkeyPatch) -> None:
    real = quantizers.from_config

    def from_config(config: dict[str, Any]) -> nn.Module:
        if config.get("type") != "NearestCode":
            return real(config)
        return NearestCode(config["dim"], config["codebook_size"])

    monkeypatch.setattr(quantizers, "from_config", from_config)


@pytest.fixture
def nearest_code() -> type[NearestCode]:
    return NearestCode


@pytest.fixture
def model() -> VQAutoencoder:
    torch.manual_seed(0)
    return build_autoencoder("tiny", quantizer=NearestCode(8, 16))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
