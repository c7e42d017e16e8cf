r"""The sampling operation for a posterior with support on the k most probable codes: O(N k D) after the search.

.. math:: q_S(c) = \frac{e^{l_c}}{\sum_{c' \in S} e^{l_{c'}}} \; (c \in S), \quad 0 \text{ elsewhere}, \qquad
          S = \text{the } k \text{ codes of largest } l

It is a variational family like any other: a categorical on K codes, of which all but k have probability 0. Every
bound of docs/mathematics.md holds for it as it stands, and k = K is the dense form. What it cannot do is move a code
that is in no support of a batch.

Everything after the search is autograd on (N, k) tensors, but for the two products with the codebook, which are bags
of its rows (``embedding_bag``), so that no (N, k, D) tensor exists.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..estimators import Estimator
from ..noise import gumbel_noise
from ..schedules import known_zero
from .codes import Support
from .reference import Inputs, MixtureSample


def mixture_sample_truncated(inputs: Inputs, support: Support, estimator: Estimator | None) -> MixtureSample:
    """``mixture_sample`` of the truncated posterior."""
    query, codebook, bias, extra, present, keys, temperature, noise = inputs
    values, codes, indices = support
    order = _by_code(codes, codebook.shape[0]) if torch.is_grad_enabled() else None
    logits = _Logits.apply(query, codebook, bias, values, codes, order)
    log_q = logits.T.log_softmax(0).T  # pyright: ignore # few columns are slow, few rows are not
    q = log_q.exp()
    entropy = -(q * log_q).sum(-1)
    q = q if present is None else q * present[:, None]
    aggregate = torch.zeros_like(bias).index_add(0, codes.flatten(), q.flatten())
    if estimator is None:
        return MixtureSample(
            F.embedding(indices, codebook), extra.index_select(0, indices), entropy, aggregate, indices
        )
    quiet = known_zero(noise)
    gumbel = torch.zeros_like(values) if quiet else noise * gumbel_noise(keys, codes.int(), values.dtype)
    weights = estimator.sample(logits, temperature, gumbel)  # pyright: ignore[reportArgumentType]
    mean = _CodebookGradient.apply(bag(weights, codebook.detach(), codes), codebook, weights.detach(), order)
    second = (weights * extra.index_select(0, codes.flatten()).view_as(codes)).sum(-1)
    return MixtureSample(mean, second, entropy, aggregate, indices)  # pyright: ignore[reportArgumentType]


class _ByCode(NamedTuple):
    """The (row, place) pairs of a batch sorted by code, so that the codebook's gradient needs no atomics."""

    order: Tensor
    starts: Tensor


def _by_code(codes: Tensor, size: int) -> _ByCode:
    kind = torch.int16 if size <= 1 << 15 else torch.int32  # fewer bytes to sort by
    ordered, order = codes.flatten().to(kind).sort(stable=True)
    return _ByCode(order, torch.searchsorted(ordered, torch.arange(size, dtype=kind, device=codes.device)))


def bag(weights: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    """sum_j weights_nj rows[codes_nj], (N, k), (K, D) -> (N, D)."""
    return F.embedding_bag(codes, rows, per_sample_weights=weights, mode="sum")


def _scatter(weights: Tensor, vectors: Tensor, by_code: _ByCode) -> Tensor:
    """sum over (n, j) with codes_nj = c of weights_nj vectors_n, (N, k), (N, D) -> (K, D): a bag for each code."""
    order, starts = by_code
    sorted_weights = weights.flatten()[order]
    return F.embedding_bag(
        order // weights.shape[1], vectors, starts, per_sample_weights=sorted_weights, mode="sum"
    )


class _Logits(torch.autograd.Function):
    """The values that the search found, l_nj = v_n . mu_c + b_c at c = codes_nj, with their gradient."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        query, codebook, _, values, codes, by_code = inputs
        if by_code is not None:
            ctx.save_for_backward(query, codebook, codes, *by_code)
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, codebook, codes, *by_code = ctx.saved_tensors
        (g,) = grads
        grad_bias = g.new_zeros(codebook.shape[0]).index_add_(0, codes.flatten(), g.flatten())
        return bag(g, codebook, codes), _scatter(g, query, _ByCode(*by_code)), grad_bias, None, None, None


class _CodebookGradient(torch.autograd.Function):
    """m_n = sum_j r_nj mu_c unchanged, with the gradient for mu; that for r is embedding_bag's own."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, codebook: Tensor, weights: Tensor, by_code: _ByCode | None) -> Tensor:
        if by_code is not None:
            ctx.save_for_backward(weights, *by_code)
        return mean.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, *by_code = ctx.saved_tensors
        (g,) = grads
        return g, _scatter(weights, g, _ByCode(*by_code)), None, None
