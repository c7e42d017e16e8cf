r"""Bottlenecks without codes, the ceilings of a comparison: the identity, and a Gaussian VAE.

.. math:: q(z|x) = N(\hat z, \mathrm{diag}(s^2)), \quad \log s^2 = W \hat z + b, \quad
          KL(q \| N(0, I)) = \tfrac12 \sum_d \left( s_d^2 + \hat z_d^2 - 1 - \log s_d^2 \right)

Source: Kingma and Welling, "Auto-encoding variational Bayes", 2013, arXiv 1312.6114, appendix B.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from gmvq.types import QuantizerOutput

from .base import BaselineQuantizer, Step, Units


class Continuous(BaselineQuantizer):
    """Base of both: eval returns the latents, every position has index 0, and nothing can be decoded from it.

    ``codebook_size`` is only what was asked for: perplexity is 1 and usage 1/K.
    """

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Raises ValueError: there are no codes."""
        raise ValueError(f"{self.name!r} is a continuous bottleneck: it has no codes to look indices up in")

    def codewords(self) -> Tensor:
        raise ValueError(f"{self.name!r} is a continuous bottleneck: it has no codewords")

    def _search(self, latents: Tensor) -> Tensor:
        return torch.zeros(latents.shape[0], dtype=torch.int64, device=latents.device)

    def _quantize(self, latents: Tensor, mask: Tensor | None) -> QuantizerOutput:
        out = super()._quantize(latents, mask)
        return out if self.training else replace(out, quantized=latents)

    def _lookup(self, indices: Tensor) -> Tensor:
        return torch.zeros(*indices.shape, self.dim, device=indices.device)


class Identity(Continuous):
    """``ae``: a plain autoencoder."""

    def _step(self, rows: Tensor) -> Step:
        return Step(rows, self._search(rows), rows.new_zeros(()))


def log_variance_head(dim: int, initial: float) -> nn.Linear:
    """The map from a latent to log s^2, both (..., D), that is ``initial`` everywhere at the start."""
    head = nn.Linear(dim, dim)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, initial)
    return head


def posterior_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag(s^2)) | N(0, I)) of rows (..., D), (...,) nats."""
    return 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(-1)


class GaussianVAE(Continuous):
    """``gaussian-vae``: trained on the ELBO in nats; eval takes the mean, which is the latent.

    Args:
        codebook_size: not used.
        initial_log_variance: b at the start; W starts at zero.
    """

    units: ClassVar[Units] = "nats"

    def __init__(self, dim: int, codebook_size: int, *, initial_log_variance: float = -4.0) -> None:
        super().__init__(dim, codebook_size)
        self.log_variance = log_variance_head(dim, initial_log_variance)

    def _step(self, rows: Tensor) -> Step:
        log_variance = self.log_variance(rows.to(self.log_variance.weight.dtype)).to(rows.dtype)
        sample = rows + (0.5 * log_variance).exp() * torch.randn_like(rows)
        kl = posterior_kl(rows, log_variance).mean()
        return Step(sample, self._search(rows), kl, {"kl": kl, "variance": log_variance.exp().mean()})
