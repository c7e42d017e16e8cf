r"""The layer of SQ-VAE, a Gaussian stochastic quantizer, in dense eager autograd: the nearest relative, as published.

With codebook mu (K, D) and a learned variance s^2 shared by all positions:

.. math:: l_c = -\frac{|z - \mu_c|^2}{2 s^2}, \quad p = \mathrm{softmax}(l), \quad
          r = \text{Gumbel-softmax}(l, \tau), \quad \hat z = \sum_c r_c \mu_c, \quad
          \text{loss} = \frac{|z - \hat z|^2}{2 s^2} + \sum_c p_c \log p_c

both terms averaged over positions. Written from the paper: Takida et al., "SQ-VAE: Variational Bayes on Discrete
Representation with Self-annealed Stochastic Quantization", 2022, arXiv 2205.07547, sections 3 and 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GaussianSQ(nn.Module):
    """Latents (N, D) to quantized (N, D), indices (N,) and the loss in nats per position."""

    def __init__(self, dim: int, codebook_size: int, temperature: float = 0.5) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.temperature = temperature

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = latents.float()
        weight = 0.5 * (-self.log_variance).exp()
        square = z.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
        logits = -weight * (square - 2.0 * z @ self.codebook.T)
        indices = logits.argmax(-1)
        if not self.training:
            return self.codebook[indices].to(latents.dtype), indices, logits.new_zeros(())
        weights = F.gumbel_softmax(logits, tau=self.temperature)
        quantized = weights @ self.codebook
        p, log_p = logits.softmax(-1), logits.log_softmax(-1)
        continuous = weight * (z - quantized).square().sum(-1).mean()
        return quantized.to(latents.dtype), indices, continuous + (p * log_p).sum(-1).mean()
