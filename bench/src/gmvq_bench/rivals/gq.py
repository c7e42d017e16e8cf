r"""GQ: a Gaussian VAE of about log K nats a position; its codes are K random points of the prior, never trained.

.. math:: q(z|x) = N(\hat z, \mathrm{diag}(s^2)), \quad \log s^2 = W \hat z + b, \quad R = KL(q \| N(0, I)), \quad
          e_c \sim N(0, I)

.. math:: \text{loss} = \lambda \overline{w(R) R}, \qquad
          w = \lambda_{max} \text{ if } R > \log K + \alpha, \quad \lambda_{min} \text{ if } R < \log K - \alpha,
          \quad 1 \text{ else}

trained with samples of q. The code of a latent maximises log q(e_c|x) - omega log N(e_c; 0, I): with omega = 1 the
point that stands best for q among points drawn from the prior, with omega = 0 the nearest in units of s. The target
divergence constraint moves the three weights by 1 % a step: lambda goes up while the mean of R is above log K,
lambda_max (at least 1) while its largest is above log K + alpha, and lambda_min (at most 1) goes down while its
smallest is below log K - alpha.

Source: Xu et al., "Vector quantization using Gaussian variational autoencoder", 2025, arXiv 2512.06609; alpha of half a
bit, 1 % and omega = 1 are those of its public code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmvq.errors import check_positive

from .base import BaselineQuantizer, Step
from .continuous import log_variance_head, posterior_kl

_TOLERANCE, _FACTOR = 0.5 * math.log(2.0), 1.01


class GaussianQuant(BaselineQuantizer):
    """A Gaussian VAE in training, a look-up of random codes in eval.

    The variances are a map of the latent, as in ``gaussian-vae``, and no further output of the encoder.

    Args:
        codebook_size: K.
        initial_weight: lambda at the start, in units of a mean squared error per nat.
        outward_weight: omega.
        initial_log_variance: b at the start; W starts at zero.
    """

    codewords_are_latents = False
    codebook: Tensor
    weights: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        initial_weight: float = 1e-3,
        outward_weight: float = 1.0,
        initial_log_variance: float = -2.0,
    ) -> None:
        check_positive("initial_weight", initial_weight)
        super().__init__(dim, codebook_size)
        self.outward_weight, self.target = outward_weight, math.log(codebook_size)
        self.log_variance = log_variance_head(dim, initial_log_variance)
        self.register_buffer("codebook", torch.randn(codebook_size, dim))
        # lambda, lambda_max and lambda_min
        self.register_buffer("weights", torch.tensor([initial_weight, 1.0, 1.0]))

    def _search(self, latents: Tensor) -> Tensor:
        mean = latents.detach().to(self.codebook.dtype)
        precision = (-self.log_variance(mean).detach()).exp()
        half_square = 0.5 * self.codebook.square()
        score = (mean * precision) @ self.codebook.T - precision @ half_square.T
        return (score + self.outward_weight * half_square.sum(-1)).argmax(-1)

    def _step(self, rows: Tensor) -> Step:
        log_variance = self.log_variance(rows.to(self.codebook.dtype)).to(rows.dtype)
        sample = rows + (0.5 * log_variance).exp() * torch.randn_like(rows)
        kl = posterior_kl(rows, log_variance)
        overall, most, least = self.weights.clone().to(rows.dtype)
        above, below = kl > self.target + _TOLERANCE, kl < self.target - _TOLERANCE
        loss = overall * (torch.where(above, most, torch.where(below, least, 1.0)) * kl).mean()
        self._constrain(kl.detach())
        terms = {"kl": kl.mean(), "weight": overall, "variance": log_variance.exp().mean()}
        return Step(sample, self._search(rows), loss, terms)

    @torch.no_grad()
    def _constrain(self, kl: Tensor) -> None:
        """Move the weights by what a batch's divergences (n,) say."""
        signs = torch.stack([
            kl.mean() > self.target,
            kl.amax() > self.target + _TOLERANCE,
            kl.amin() >= self.target - _TOLERANCE,
        ])  # fmt: skip
        self.weights.mul_(torch.where(signs, _FACTOR, 1.0 / _FACTOR))
        self.weights[1].clamp_(min=1.0)
        self.weights[2].clamp_(max=1.0)
