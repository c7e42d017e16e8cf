"""``mixture_sample``: one entry to the two implementations of the sampling operation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..estimators import Estimator
from .codes import Support
from .reference import Inputs, MixtureSample, mixture_sample_reference
from .truncated import mixture_sample_truncated


def mixture_sample(
    query: Tensor,
    codebook: Tensor,
    bias: Tensor,
    extra: Tensor,
    present: Tensor | None,
    keys: Tensor,
    support: Support,
    *,
    estimator: Estimator | None,
    temperature: Tensor,
    noise: Tensor,
) -> MixtureSample:
    """Sample codes for N rows and gather the posterior's statistics; differentiable in the first four arguments.

    Noise is a function of the row keys, so that both implementations draw the same sample from the same keys.

    Args:
        query: v = w z, (N, D), float32 or float64.
        codebook: mu, (K, D), same dtype.
        bias: log pi - 1/2 sum_d w_d mu_d^2, (K,).
        extra: e, a number per code, (K,): |mu|^2 for the expected distance, say.
        present: (N,), 1 or 0: which rows the aggregate counts; None for all.
        keys: row keys of the noise, (N, 4), int32, from ``functional.noise.noise_keys``; unused without an estimator.
        support: the codes of each row that q and r live on, from ``find_support``.
        estimator: how r is sampled; None: no sample, r is one-hot at the most probable code.
        temperature, noise: tau, and the factor lambda on the Gumbel noise; 0-d tensors.
    """
    inputs = Inputs(query, codebook, bias, extra, present, keys, temperature.to(query), noise.to(query))
    if (
        support.on_all_codes or torch.compiler.is_exporting()
    ):  # an exported program holds plain operators only
        return mixture_sample_reference(inputs, support, estimator)
    return mixture_sample_truncated(inputs, support, estimator)
