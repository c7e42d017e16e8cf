r"""SQ-VAE: a Gaussian stochastic quantizer with self-annealed variance, the nearest relative of GM-VQ.

With codebook mu (K, D) and one learned variance s^2 shared by all positions ("Gaussian SQ-VAE (I)"):

.. math:: l_c = -\frac{|z - \mu_c|^2}{2 s^2}, \quad p = \mathrm{softmax}(l), \quad
          r = \text{Gumbel-softmax}(l, \tau), \quad \hat z = \sum_c r_c \mu_c, \quad
          \text{nats} = \frac{|z - \hat z|^2}{2 s^2} + \sum_c p_c \log p_c

both terms averaged over positions. Written from the paper: Takida et al., "SQ-VAE: Variational Bayes on Discrete
Representation with Self-annealed Stochastic Quantization", 2022, arXiv 2205.07547, sections 3 and 4.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import check_positive
from gmvq.functional.divergences import entropy_from_logits
from gmvq.functional.schedules import Exponential

from .base import AnnealedQuantizer, Step, Units


class GaussianSQ(AnnealedQuantizer):
    """The layer of Gaussian SQ-VAE in dense eager autograd; it holds several N x K tensors.

    The paper anneals tau = exp(-1e-5 t) over t steps; ``set_progress`` goes from 1 to ``final_temperature`` over a
    training of any length, exponentially as well. Its public code writes the variance as 1 + exp(parameter), which
    cannot fall below 1; here it is exp(``log_variance``), the s^2 of the paper.

    Args:
        codebook_size: K; codewords start standard normal, as published.
        initial_variance: s^2 at the start. At 0.1, for latents with a spread of 0.1 to 0.5, most codes are lost;
            from 1 to 5 little changes.
    """

    units: ClassVar[Units] = "nats"

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        temperature: float = 0.5,
        final_temperature: float = 0.1,
        initial_variance: float = 1.0,
    ) -> None:
        check_positive("initial_variance", initial_variance)
        super().__init__(dim, codebook_size, Exponential, temperature, final_temperature)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.log_variance = nn.Parameter(torch.tensor(math.log(initial_variance)))

    def _step(self, rows: Tensor) -> Step:
        codebook = self.codebook.to(rows.dtype)
        weight = 0.5 * (-self.log_variance.to(rows.dtype)).exp()
        square = rows.square().sum(1, keepdim=True) + codebook.square().sum(1)
        logits = -weight * (square - 2.0 * rows @ codebook.T)
        weights = F.gumbel_softmax(logits, tau=self.temperature.to(rows.dtype))  # pyright: ignore[reportArgumentType]
        quantized = weights @ codebook
        conditional_entropy = entropy_from_logits(logits).mean()
        nats = weight * (rows - quantized).square().sum(-1).mean() - conditional_entropy
        terms = {"conditional_entropy": conditional_entropy, "variance": self.log_variance.exp()}
        terms["temperature"] = self.temperature
        return Step(quantized, logits.argmax(-1), nats, terms)
