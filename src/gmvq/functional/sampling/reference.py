"""The definition of the sampling operation: plain autograd, in the dtype of its inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..divergences import entropy_from_logits
from ..estimators import Estimator
from ..noise import gumbel_noise
from .codes import Support


class Inputs(NamedTuple):
    """What ``mixture_sample`` takes; it says what each is."""

    query: Tensor
    codebook: Tensor
    bias: Tensor
    extra: Tensor
    present: Tensor | None
    keys: Tensor
    temperature: Tensor
    noise: Tensor


class MixtureSample(NamedTuple):
    """A sample of weights r over codes and the statistics of q(c|x), for N rows.

    Attributes:
        mean: sum_c r_c mu_c, (N, D).
        second: sum_c r_c e_c, (N,).
        entropy: H(q(c|x)), (N,), nats.
        aggregate: sum of q(c|x) over the present rows, (K,).
        indices: most probable code, (N,), int64; the lowest of equals. No gradient.
    """

    mean: Tensor
    second: Tensor
    entropy: Tensor
    aggregate: Tensor
    indices: Tensor


def mixture_sample_reference(inputs: Inputs, support: Support, estimator: Estimator | None) -> MixtureSample:
    """``mixture_sample`` as its formulas say, with every N x K tensor in memory."""
    query, codebook, bias, extra, present, keys, temperature, noise = inputs
    logits, indices = torch.addmm(bias, query, codebook.T), support.indices
    codes = torch.arange(codebook.shape[0], dtype=torch.int64, device=query.device).expand_as(logits)
    if not support.on_all_codes:
        logits, codes = logits.gather(-1, support.codes), support.codes
    q = logits.softmax(-1)
    q = q if present is None else q * present[:, None]
    aggregate = torch.zeros_like(bias).index_add(0, codes.flatten(), q.flatten())
    entropy = entropy_from_logits(logits)
    if estimator is None:
        return MixtureSample(codebook[indices], extra[indices], entropy, aggregate, indices)
    gumbel = gumbel_noise(keys, codes.int(), logits.dtype)
    r = estimator.sample(logits, temperature, noise * gumbel)
    if support.on_all_codes:
        return MixtureSample(r @ codebook, r @ extra, entropy, aggregate, indices)
    mean, second = (r[:, :, None] * codebook[codes]).sum(1), (r * extra[codes]).sum(-1)
    return MixtureSample(mean, second, entropy, aggregate, indices)
