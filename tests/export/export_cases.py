"""Models to export, with a codebook of their own latents, and what stands in for a file that differs from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, GroupedGMVQ, PyramidGMVQ, RaggedGMVQ, ResidualGMVQ
from gmvq.export import export_model
from gmvq.models import VQAutoencoder, build_autoencoder

QUANTIZERS = {
    "plain": lambda: GaussianMixtureVQ(8, 32),
    "projected": lambda: GaussianMixtureVQ(8, 16, codebook_dim=3, mixture_weights="learned", support=4),
    "residual": lambda: ResidualGMVQ(8, [8, 8, 4]),
    "grouped": lambda: GroupedGMVQ(8, 8, 2),
    "pyramid": lambda: PyramidGMVQ(8, 8, 2),
    "ragged": lambda: RaggedGMVQ(8, 16, 2),
}


def started(model: VQAutoencoder, *shape: int) -> VQAutoencoder:
    """With a codebook of the model's own latents."""
    with torch.no_grad():
        model.quantizer.init_codebook(model._latents(torch.rand(*shape)))  # pyright: ignore
    return model.eval()


def make(name: str = "plain") -> VQAutoencoder:
    torch.manual_seed(0)
    return started(build_autoencoder("tiny", quantizer=QUANTIZERS[name]()), 8, 3, 16, 16)


def linear() -> VQAutoencoder:
    """The smallest networks there are, which are not this package's own."""
    torch.manual_seed(0)
    networks = nn.Conv2d(3, 4, 4, 4), GaussianMixtureVQ(4, 8), nn.ConvTranspose2d(4, 3, 4, 4)
    return started(VQAutoencoder(*networks), 8, 3, 16, 16)


def export_checked(model: VQAutoencoder, folder: Path, format: str) -> dict[str, Any]:
    return export_model(model, folder, format, images=torch.rand(6, 3, 18, 21), source="noise")


class Wrong:
    """A runner that is off by something."""

    def __init__(self, model: VQAutoencoder, change: str) -> None:
        self.model, self.change = model, change

    def encode(self, images: Tensor) -> Tensor:
        indices = self.model.encode(images)
        if self.change == "index":
            indices.view(-1)[0] = (indices.view(-1)[0] + 1) % 32
        return indices.int() if self.change == "dtype" else indices

    def decode(self, indices: Tensor) -> Tensor:
        return self.model.decode(indices) + (1e-3 if self.change == "image" else 0.0)
