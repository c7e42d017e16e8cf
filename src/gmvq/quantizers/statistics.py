"""What a training step learns of the whole batch, over all ranks, from one all-reduce.

Sums and counts are pooled, never means, so N processes equal one on the concatenated batch whatever each holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..functional.distributed import all_reduce_sum, world_size


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


@dataclass(frozen=True)
class BatchStatistics:
    """Statistics over the valid positions of all ranks.

    Attributes:
        aggregate: qbar, (K,), the mean of q(c|x), with gradient; the KL of the ALBO is taken of it.
        own_aggregate: this rank's part of it, weighted like ``share``: averaged over ranks it is ``aggregate``.
        share: this rank's weights, (N,): ``(values * share).sum()``, averaged over ranks, is the mean of values.
        counts: how often each code is the most probable one, (K,).
    """

    aggregate: Tensor
    own_aggregate: Tensor
    share: Tensor
    counts: Tensor


def eval_statistics(soft: Tensor, indices: Tensor, present: Tensor) -> BatchStatistics:
    """Statistics of this rank's batch alone, without a collective; arguments as ``batch_statistics``."""
    share = present / present.sum().clamp_min(1.0)
    counts = _counts(indices, present, len(soft))
    aggregate = soft / present.sum().clamp_min(1.0)
    return BatchStatistics(aggregate, aggregate, share, counts.detach())


def batch_statistics(soft: Tensor, moments: Moments, present: Tensor) -> tuple[BatchStatistics, Moments]:
    """Pool the sums of a training batch over ranks: its statistics, and the pooled moments without gradient.

    Args:
        soft: this rank's sum of q(c|x), (K,), with gradient.
        moments: of this rank.
        present: 1 where a position is valid and 0 where not, (N,).
    """
    own, ranks = soft, world_size()
    if ranks > 1:
        sizes = [part.numel() for part in (soft, *moments)]
        flat = all_reduce_sum(torch.cat([soft, *(part.flatten() for part in moments)]))
        soft, *parts = flat.split(sizes)
        moments = Moments(*(new.detach().view_as(old) for new, old in zip(parts, moments, strict=True)))
    weight = ranks / moments.total.clamp_min(1.0)
    batch = BatchStatistics(soft * (weight / ranks), own * weight, present * weight, moments.counts)
    return batch, moments


@torch.no_grad()
def moments_of(z: Tensor, indices: Tensor, errors: Tensor, present: Tensor, codebook_size: int) -> Moments:
    """Sums of this rank's batch.

    Args:
        z: standardised latents, (N, d).
        indices: most probable codes, (N,).
        errors: sum of squared errors to them, (d,).
        present: 1 where a position is valid and 0 where not, (N,).
        codebook_size: K.
    """
    z = z.detach() * present[:, None]
    return Moments(
        counts=_counts(indices, present, codebook_size),
        sums=z.new_zeros(codebook_size, z.shape[1]).index_add_(0, indices, z),
        errors=errors.detach(),
        total=present.sum()[None],
        candidates=_candidates(z, present, codebook_size),
    )


def _counts(indices: Tensor, present: Tensor, codebook_size: int) -> Tensor:
    """How often each index (N,) is present, (K,), in integers: a float32 to which ones are added ends at 2^24."""
    counts = torch.zeros(codebook_size, dtype=torch.int32, device=indices.device)
    return counts.index_add_(0, indices, present.to(torch.int32)).to(present.dtype)


def _candidates(z: Tensor, present: Tensor, codebook_size: int) -> Tensor:
    """Random valid rows of z; each of several ranks fills every n-th slot, so that a sum over ranks holds them all.

    As many as the codebook has codes, at most ``_MOST``: the same on every rank, however many rows it has. Where three
    quarters and more of the positions are masked some are zero, the mean of the latents.
    """
    count = min(codebook_size, _MOST)
    drawn = torch.randint(z.shape[0], (4, count), device=z.device)
    drawn = drawn.gather(0, present[drawn].argmax(0)[None])[0]  # the first valid one of four
    rank = dist.get_rank() if world_size() > 1 else 0
    mine = torch.arange(count, device=z.device) % world_size() == rank
    return z[drawn] * mine[:, None]


#: Births of one step at most.
_MOST = 1024
