"""The definition of the sampling operation: dense autograd over all N x K pairs, in the dtype of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..divergences import entropy_from_logits
from ..estimators import Estimator
from ..noise import gumbel_noise
from .dense import most_probable_codes
from .truncated import Support


def mixture_sample_reference(
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    temperature: Tensor,
    noise: Tensor,
    estimator: Estimator | None,
    support: Support | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``mixture_sample`` with every N x K tensor in memory; arguments and returns are listed there."""
    logits = torch.addmm(bias, query, codebook.T)
    indices = most_probable_codes(query, codebook, bias)
    codes = torch.arange(codebook.shape[0], dtype=torch.int32, device=query.device).expand_as(logits)
    if support is not None:
        logits, codes = logits.gather(-1, support.codes), support.codes
    q = logits.softmax(-1)
    q = q if present is None else q * present[:, None]
    aggregate = torch.zeros_like(bias).index_add(0, codes.flatten(), q.flatten())
    if estimator is None:
        mean, second = codebook[indices], extra[indices]
    else:
        gumbel = gumbel_noise(keys, codes.int(), torch.empty_like(logits))
        weights = estimator.sample(logits, temperature, noise * gumbel)
        if support is None:
            mean, second = weights @ codebook, weights @ extra
        else:
            mean = (weights[:, :, None] * codebook[codes]).sum(1)
            second = (weights * extra[codes]).sum(-1)
    return mean, second, entropy_from_logits(logits), aggregate, indices
