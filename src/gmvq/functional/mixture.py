"""The Gaussian mixture behind the codebook: logits, responsibilities, distances, the adaptive variance.

Symbols: z (N, D) latents, mu (K, D) codebook, w > 0 precision (one value or one per feature), pi (K) weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Smallest variance a code may have, in standardised units: keeps log s_c^2 finite on the codeword itself.
MIN_VARIANCE = 1e-8


def mixture_logits(latents: Tensor, codebook: Tensor, log_precision: Tensor, log_weights: Tensor) -> Tensor:
    r"""Unnormalised log-responsibilities, up to a constant per row.

    .. math:: \ell_{nc} = \log \pi_c - \tfrac12 \sum_d w_d (z_{nd} - \mu_{cd})^2 + \tfrac12 \sum_d w_d z_{nd}^2

    The last term does not depend on c; adding it saves a pass and keeps the matmul the only N x K x D work.

    Args:
        latents: z, (N, D).
        codebook: mu, (K, D).
        log_precision: log w, (1,) or (D,).
        log_weights: log pi, (K,).

    Returns:
        (N, K); ``softmax`` over the last axis is q(c|x).
    """
    scaled = codebook * log_precision.exp()
    bias = log_weights - 0.5 * (scaled * codebook).sum(-1)
    return torch.addmm(bias, latents, scaled.T)


def expected_squared_distance(latents: Tensor, mean: Tensor, weights: Tensor, codebook: Tensor) -> Tensor:
    r"""Expected squared distance to the codes, per feature.

    .. math:: \sum_c r_c (z_d - \mu_{cd})^2 = (z_d - m_d)^2 + \sum_c r_c \mu_{cd}^2 - m_d^2, \quad m = r \mu

    The first form is non-negative in exact arithmetic and so is this one; rounding is clamped at 0.

    Args:
        latents: z, (N, D).
        mean: m = r @ codebook, (N, D).
        weights: r, (N, K), rows summing to one.
        codebook: mu, (K, D).

    Returns:
        (N, D); sum over the last axis for the distance.
    """
    spread = (weights @ codebook.square() - mean.square()).clamp_min(0.0)
    return (latents - mean).square() + spread


def adaptive_variance(squared_distance: Tensor, dim: int, sigma: float = 1.0) -> Tensor:
    r"""Variance of q(z|x, c): far from its codeword a code is uncertain, on it exact.

    .. math:: s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 D)

    Source: arXiv 2410.10180, the adaptive posterior variance.
    """
    return squared_distance / (2.0 * sigma**2 * dim)
