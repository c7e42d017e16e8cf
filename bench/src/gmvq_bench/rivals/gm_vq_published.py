r"""GM-VQ as published: everything learned by gradient, on the literal ALBO, without starts, M-steps and births.

With codebook mu (K, D), a learned precision w, codes r by Gumbel-softmax and positions n = 1..N:

.. math:: l_{nc} = -\tfrac{w}{2} |z_n - \mu_c|^2, \quad m_n = \sum_c r_{nc} \mu_c, \quad
          s_n^2 = \sum_c r_{nc} \frac{|z_n - \mu_c|^2}{2 \sigma^2 D}, \quad \hat z_n = m_n + s_n \epsilon, \quad
          \text{nats} = -\tfrac1N \sum_n E \log N(\hat z_n; m_n, 1/w) + \beta \, KL(\bar q \| 1/K)

Written from the paper: Yan, Wu, Shah, Liu, "Gaussian Mixture Vector Quantization with Aggregated Categorical
Posterior", 2024, arXiv 2410.10180. It says neither how w is found nor how the temperature falls: as in SQ-VAE here.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq.errors import check_positive
from gmvq.functional.divergences import categorical_kl, entropy, gaussian_cross_entropy
from gmvq.functional.mixture import adaptive_variance, expected_squared_distance
from gmvq.functional.schedules import Exponential

from .base import AnnealedQuantizer, Step, Units


class PublishedGMVQ(AnnealedQuantizer):
    """The layer of the paper in dense eager autograd; it holds several N x K tensors.

    Args:
        codebook_size: K; codewords start standard normal.
        sigma: see there.
        beta: weight of the aggregated categorical KL; more than 1 is the paper's "+ Entropy".
    """

    units: ClassVar[Units] = "nats"

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        temperature: float = 0.5,
        final_temperature: float = 0.1,
        sigma: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        check_positive("sigma", sigma)
        super().__init__(dim, codebook_size, Exponential, temperature, final_temperature)
        self.sigma, self.beta = sigma, beta
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.log_precision = nn.Parameter(torch.zeros(1))

    def _step(self, rows: Tensor) -> Step:
        codebook, log_precision = self.codebook.to(rows.dtype), self.log_precision.to(rows.dtype)
        squares = codebook.square().sum(1)
        logits = log_precision.exp() * (
            rows @ codebook.T - 0.5 * squares - 0.5 * rows.square().sum(1)[:, None]
        )
        weights = F.gumbel_softmax(logits, tau=self.temperature.to(rows.dtype))  # pyright: ignore[reportArgumentType]
        mean = weights @ codebook
        distance = expected_squared_distance(rows, mean, weights @ squares)
        variance = adaptive_variance(distance, self.dim, self.sigma)
        posterior = logits.softmax(-1)
        log_prior = logits.new_full((self.codebook_size,), -math.log(self.codebook_size))
        kl = categorical_kl(posterior.mean(0), log_prior)
        latent = gaussian_cross_entropy(variance, log_precision, self.dim).mean()
        quantized = mean + variance.sqrt()[:, None] * torch.randn_like(mean)
        terms = {"conditional_entropy": entropy(posterior).mean(), "kl": kl, "latent": latent}
        terms["temperature"] = self.temperature
        return Step(quantized, logits.argmax(-1), latent + self.beta * kl, terms)
