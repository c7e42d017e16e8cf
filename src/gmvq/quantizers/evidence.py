"""The objective of a batch: what is pooled over all ranks in one all-reduce, and from it the terms in nats.

Sums and counts are pooled, never means, so N processes equal one on the concatenated batch whatever each holds.
"""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..functional.distributed import all_reduce_sum, world_size
from ..functional.divergences import (
    categorical_kl,
    code_counts,
    entropy,
    gaussian_cross_entropy,
    gaussian_kl,
    perplexity,
)

#: Names of all terms; the last four are the layer's own.
TERMS = (
    *("kl_aggregate", "kl_conditional", "latent", "conditional_entropy", "aggregate_entropy"),
    *("perplexity", "usage", "precision", "scale", "variance", "temperature"),
)
#: The KL of each kind of objective.
KL_OF = {"albo": "kl_aggregate", "literal": "kl_aggregate", "elbo": "kl_conditional"}
#: Births of one step at most.
_MOST = 1024


class Moments(NamedTuple):
    """Sums over the valid positions of a batch: what the mixture's M-step and the births need.

    Attributes:
        counts: how often each code is the most probable one, (K,).
        sums: of z over the positions of each code, (K, d).
        errors: of the squared error to the most probable code, (d,).
        total: number of positions, (1,).
        candidates: latents z at which a code may be born, (C, d).
    """

    counts: Tensor
    sums: Tensor
    errors: Tensor
    total: Tensor
    candidates: Tensor

    @staticmethod
    @torch.no_grad()
    def of(z: Tensor, indices: Tensor, errors: Tensor, mask: Tensor, codebook_size: int) -> Moments:
        """Sums of this rank's batch, from z, 0 where masked, most probable codes (N,), and the sum of errors (d,)."""
        return Moments(
            counts=code_counts(indices, codebook_size, mask).to(mask.dtype),
            sums=z.new_zeros(codebook_size, z.shape[1]).index_add_(0, indices, z),
            errors=errors.detach(),
            total=mask.sum()[None],
            candidates=_candidates(z, mask, codebook_size),
        )


class Batch(NamedTuple):
    """Statistics over the valid positions of all ranks.

    Attributes:
        aggregate: qbar, (K,), the mean of q(c|x), with gradient; the KL of the ALBO is taken of it.
        own_aggregate: this rank's part of it, weighted like ``share``: averaged over ranks it is ``aggregate``.
        share: this rank's weights, (N,): ``(values * share).sum()``, averaged over ranks, is the mean of values.
        counts: how often each code is the most probable one, (K,).
        moments: of all ranks, without gradient; None in eval.
    """

    aggregate: Tensor
    own_aggregate: Tensor
    share: Tensor
    counts: Tensor
    moments: Moments | None = None

    @staticmethod
    def alone(posterior: Tensor, indices: Tensor, mask: Tensor) -> Batch:
        """Of this rank's batch, without a collective, from its sum of q(c|x), (K,), and most probable codes, (N,)."""
        total = mask.sum().clamp_min(1.0)
        aggregate = posterior / total
        counts = code_counts(indices, len(posterior), mask).to(mask.dtype)
        return Batch(aggregate, aggregate, mask / total, counts)

    @staticmethod
    def pooled(posterior: Tensor, moments: Moments, mask: Tensor) -> Batch:
        """Of a training batch over all ranks, from this rank's sum of q(c|x), (K,), and moments."""
        own, ranks = posterior, world_size()
        if ranks > 1:
            sizes = [part.numel() for part in (posterior, *moments)]
            flat = all_reduce_sum(torch.cat([posterior, *(part.flatten() for part in moments)]))
            posterior, *parts = flat.split(sizes)
            moments = Moments(*(new.detach().view_as(old) for new, old in zip(parts, moments, strict=True)))
        weight = ranks / moments.total.clamp_min(1.0)
        return Batch(posterior * (weight / ranks), own * weight, mask * weight, moments.counts, moments)


def evidence(
    kind: str,
    batch: Batch,
    entropies: Tensor,
    variance: Tensor,
    log_precision: Tensor,
    log_weights: Tensor,
    dim: int,
) -> dict[str, Tensor]:
    r"""The terms of the objective in nats per valid position, over all ranks once averaged over them; use of the codes.

    .. math:: \text{mean KL}(q \| \pi) = -\text{mean} \, H(q) - \sum_c \bar q_c \log \pi_c

    From H(q(c|x)), (N,), the variance of the sample, (N,), log w, log pi and d; the ``"literal"`` kind takes the
    Gaussian cross-entropy for the KL.
    """
    mean_entropy = (entropies * batch.share).sum()
    gaussian = gaussian_cross_entropy if kind == "literal" else gaussian_kl
    latent = (gaussian(variance, log_precision, dim) * batch.share).sum()
    return {
        "kl_aggregate": categorical_kl(batch.aggregate, log_weights),
        "kl_conditional": -mean_entropy - (batch.own_aggregate * log_weights).sum(),
        "latent": latent,
        "conditional_entropy": mean_entropy,
        "aggregate_entropy": entropy(batch.aggregate.detach()),
        "perplexity": perplexity(batch.counts),
        "usage": (batch.counts > 0).to(batch.counts.dtype).mean(),
    }


def _candidates(z: Tensor, mask: Tensor, codebook_size: int) -> Tensor:
    """Random valid rows of z; each of several ranks fills every n-th slot, so that a sum over ranks holds them all.

    As many as the codebook has codes, at most ``_MOST``: the same on every rank, however many rows it has. Where three
    quarters and more of the positions are masked some are zero, the mean of the latents.
    """
    count = min(codebook_size, _MOST)
    drawn = torch.randint(z.shape[0], (4, count), device=z.device)
    drawn = drawn.gather(0, mask[drawn].argmax(0)[None])[0]  # the first valid one of four
    rank = dist.get_rank() if world_size() > 1 else 0
    mine = torch.arange(count, device=z.device) % world_size() == rank
    return z[drawn] * mine[:, None]
