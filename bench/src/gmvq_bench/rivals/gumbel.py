r"""Gumbel-softmax VQ-VAE: codes predicted as logits, the relaxation of the dVAE of DALL-E.

.. math:: l = W z + b, \quad q = \mathrm{softmax}(l), \quad r = \text{Gumbel-softmax}(l, \tau), \quad
          \hat z = \sum_c r_c e_c, \quad
          \text{loss} = \lambda \, KL(q \| \text{uniform}) = \lambda \left( \log K - H(q) \right)

averaged over positions. Sources: Jang et al., arXiv 1611.01144; Ramesh et al., "Zero-shot text-to-image generation",
arXiv 2102.12092 (tau from 1 to 1/16); the weight 5e-4 is that of the VQGAN repository's Gumbel quantizer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.functional.divergences import entropy_from_logits
from gmvq.functional.schedules import Exponential

from .base import AnnealedQuantizer, Step


class GumbelVQ(AnnealedQuantizer):
    """Linear logits, a relaxed or straight-through sample, an embedding.

    The code is the argmax of the logits, not the nearest codeword: codewords are tied to latents by training alone.

    Args:
        codebook_size: K.
        kl_weight: lambda, in units of a mean squared error per nat.
        straight_through: a one-hot sample forward; False: the relaxed one (the dVAE).
        final_temperature: tau at the end of training, reached exponentially from 1.
    """

    codewords_are_latents = False

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        kl_weight: float = 5e-4,
        straight_through: bool = False,
        temperature: float = 0.5,
        final_temperature: float = 1 / 16,
    ) -> None:
        super().__init__(dim, codebook_size, Exponential, temperature, final_temperature)
        self.kl_weight, self.straight_through = kl_weight, straight_through
        self.logits = nn.Linear(dim, codebook_size)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))

    def _search(self, latents: Tensor) -> Tensor:
        return self.logits(latents.to(self.codebook.dtype)).argmax(-1)

    def _step(self, rows: Tensor) -> Step:
        logits = self.logits(rows.to(self.codebook.dtype))
        tau = self.temperature.to(logits.dtype)
        weights = F.gumbel_softmax(logits, tau=tau, hard=self.straight_through)  # pyright: ignore[reportArgumentType]
        conditional_entropy = entropy_from_logits(logits).mean()
        kl = math.log(self.codebook_size) - conditional_entropy
        terms = {"conditional_entropy": conditional_entropy, "kl": kl, "temperature": self.temperature}
        return Step(weights @ self.codebook, logits.argmax(-1), self.kl_weight * kl, terms)
