"""Entropies and Kullback-Leibler divergences in nats, each with its limit cases finite and differentiable."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    r"""H(p) = -sum_c p_c log p_c over the last axis, with 0 log 0 = 0. Shape (..., K) -> (...), nats."""
    return -torch.xlogy(probabilities, probabilities.clamp_min(1e-30)).sum(-1)


def entropy_from_logits(logits: Tensor) -> Tensor:
    r"""H(softmax(logits)) over the last axis, (..., K) -> (...), nats; finite for any finite logits."""
    log_q = logits.log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1)


def categorical_kl(probabilities: Tensor, log_prior: Tensor) -> Tensor:
    r"""KL(p || pi) = sum_c p_c (log p_c - log pi_c) over the last axis, (..., K) -> (...), nats."""
    cross = (probabilities * log_prior).sum(-1)
    return -entropy(probabilities) - cross


def gaussian_kl(variance: Tensor, log_precision: Tensor, dim: int) -> Tensor:
    r"""KL between two Gaussians of D features with one mean.

    .. math:: KL(N(\mu, s^2 I) \| N(\mu, diag(1/w)))
              = \tfrac12 \left( s^2 \sum_d w_d - D - D \log s^2 - \sum_d \log w_d \right)

    Args:
        variance: s^2 > 0, (...).
        log_precision: log w, (1,) for one value or (D,).
        dim: D.

    Returns:
        (...), nats; zero exactly where s^2 w_d = 1 for all d, infinite as s^2 -> 0.
    """
    repeat = dim // log_precision.numel()
    trace = variance * log_precision.exp().sum() * repeat
    return 0.5 * (trace - dim - dim * variance.log() - log_precision.sum() * repeat)


def gaussian_cross_entropy(variance: Tensor, log_precision: Tensor, dim: int) -> Tensor:
    r"""-E_{N(mu, s^2 I)} log N(z; mu, diag(1/w)), (...) -> (...), nats: the paper's literal latent term.

    It is ``gaussian_kl`` plus the differential entropy D/2 log(2 pi e s^2), which may have either sign.
    """
    repeat = dim // log_precision.numel()
    trace = variance * log_precision.exp().sum() * repeat
    log_2pi = 1.8378770664093453
    return 0.5 * (trace + dim * log_2pi - log_precision.sum() * repeat)


def code_counts(indices: Tensor, codebook_size: int, mask: Tensor | None = None) -> Tensor:
    """How often each index (N,) occurs, (K,), where the mask (N,) is not 0.

    In int32: a float32 to which ones are added ends at 2^24, a bfloat16 at 256.
    """
    counts = torch.zeros(codebook_size, dtype=torch.int32, device=indices.device)
    ones = torch.ones_like(indices) if mask is None else mask
    return counts.index_add_(0, indices, ones.to(torch.int32))


def perplexity(counts: Tensor) -> Tensor:
    """exp(H) of normalised counts (..., K) -> (...): the effective number of codes in use, 1 to K.

    Computed in float64 (float32 where the device has none) whatever the counts come in: a sum in half precision
    overflows at 65,504. The result is float32 for integers and half precision, else of the dtype of the counts.
    """
    wide = counts.float() if counts.device.type == "mps" else counts.double()
    found = entropy(wide / wide.sum(-1, keepdim=True).clamp_min(1e-30)).exp()
    return found.to(counts.dtype if counts.dtype in (torch.float32, torch.float64) else torch.float32)
