"""The Gaussian mixture behind the codebook: logits, responsibilities, distances, the adaptive variance.

Symbols: z (N, D) latents, mu (K, D) codebook, w > 0 precision (one value or one per feature), pi (K) weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Smallest variance a code may have, in standardised units: keeps log s_c^2 finite on the codeword itself.
MIN_VARIANCE = 1e-8


def mixture_query(latents: Tensor, log_precision: Tensor) -> Tensor:
    """v = w z, (N, D): what the codebook is multiplied with."""
    return latents * log_precision.exp()


def mixture_bias(codebook: Tensor, log_precision: Tensor, log_weights: Tensor) -> Tensor:
    r"""The bias of the logits, :math:`b_c = \log \pi_c - \tfrac12 \sum_d w_d \mu_{cd}^2`, (K,)."""
    return log_weights - 0.5 * (codebook.square() * log_precision.exp()).sum(-1)


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
    bias = mixture_bias(codebook, log_precision, log_weights)
    return torch.addmm(bias, mixture_query(latents, log_precision), codebook.T)


def expected_squared_distance(latents: Tensor, mean: Tensor, second: Tensor) -> Tensor:
    r"""Expected squared distance to the codes under weights r, rows of which sum to one.

    .. math:: \sum_c r_c |z - \mu_c|^2 = |z - m|^2 + \Big( \sum_c r_c |\mu_c|^2 - |m|^2 \Big), \quad m = r \mu

    The bracket is the spread of the codes under r, non-negative in exact arithmetic; rounding is clamped at 0.

    Args:
        latents: z, (N, D).
        mean: m = r @ codebook, (N, D).
        second: r @ codebook.square().sum(-1), (N,).

    Returns:
        (N,).
    """
    spread = (second - mean.square().sum(-1)).clamp_min(0.0)
    return (latents - mean).square().sum(-1) + spread


def adaptive_variance(squared_distance: Tensor, dim: int, sigma: float = 1.0) -> Tensor:
    r"""Variance of q(z|x, c): far from its codeword a code is uncertain, on it (nearly) exact.

    .. math:: s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 D), \quad \text{at least } 10^{-8}

    Source: arXiv 2410.10180, the adaptive posterior variance.
    """
    return (squared_distance / (2.0 * sigma**2 * dim)).clamp_min(MIN_VARIANCE)


def draw_codes(q: Tensor, chances: Tensor) -> Tensor:
    """The code at which the cumulated q passes each uniform number: draws from q, int64.

    Args:
        q: probabilities of the codes, (N, K).
        chances: uniform numbers in [0, 1), (N, L).

    Returns:
        (N, L).
    """
    if chances.shape[-1] == 0:
        return chances.long()
    cumulated = q.cumsum(-1, dtype=None if q.device.type == "mps" else torch.float64)
    places = torch.searchsorted(cumulated, chances * cumulated[:, -1:], right=True)
    return places.clamp_max(q.shape[-1] - 1)
