"""A rival in our dress: normalised latents, a decoder in their units, the first tenth of training without codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: The share of the training that runs without codes.
_WITHOUT = 0.1


class Dressed(nn.Module):
    """A quantizer of latents normalised per feature by statistics of the batch, with a late start.

    Args:
        dim: D.
        layer: latents (..., D) -> quantized, indices, loss; it starts at its first call.
    """

    wants_progress = True

    def __init__(self, dim: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, momentum=0.05, eps=1e-12)
        self.layer = layer
        self.progress = 0.0

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.norm(latents.reshape(-1, latents.shape[-1]))
        if self.training and self.progress < _WITHOUT:
            return (
                rows.view(latents.shape),
                torch.zeros(latents.shape[:-1], dtype=torch.int64),
                rows.new_zeros(()),
            )
        return self.layer(rows.view(latents.shape))
