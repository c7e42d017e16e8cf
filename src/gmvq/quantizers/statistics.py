"""What a training step needs to know of the whole batch, over all ranks, from one all-reduce; and who is fitted to it.

Sums and counts are pooled, never means, so N processes equal one on the concatenated batch whatever each holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional.distributed import all_reduce_sum, world_size


@dataclass(frozen=True)
class BatchStatistics:
    """Statistics over the valid positions of all ranks.

    Attributes:
        aggregate: qbar, (K,), the mean of q(c|x), with gradient; the KL of the ALBO is taken of it.
        own_aggregate: this rank's part of it, weighted like ``share``: averaged over ranks it is ``aggregate``.
        counts: (K,), how often each code is the most probable one.
        nearest_error: (D,), mean squared error to the most probable code, in standardised units.
        deviation: scalar, mean squared deviation of the latents per feature.
        share: (N,), this rank's weights: ``(values * share).sum()``, averaged over ranks, is the mean of values.
        occupied: scalar, 1, or 0 where every position of every rank is masked.
    """

    aggregate: Tensor
    own_aggregate: Tensor
    counts: Tensor
    nearest_error: Tensor
    deviation: Tensor
    share: Tensor
    occupied: Tensor


def batch_statistics(
    soft: Tensor,
    errors: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    indices: Tensor,
    present: Tensor | None,
    pooled: bool,
) -> BatchStatistics:
    """Gather the statistics of one batch from this rank's sums over its valid rows.

    Args:
        soft: sum of q(c|x), (K,).
        errors: sum of the squared errors to the most probable code, (D,).
        first, second: sums of the latents and of their squares, (D,) and (), about a point that every rank knows.
        indices: most probable codes, (N,).
        present: (N,), 1 where a position is valid and 0 where not, or None where all are.
        pooled: sum over ranks; False in eval, which has no collective.
    """
    present = first.new_ones(indices.shape) if present is None else present
    counts = torch.zeros_like(soft).index_add(0, indices, present)
    parts = [soft, counts, errors, first, second[None], present.sum()[None]]
    sums = torch.cat(parts)
    if pooled:
        sums = all_reduce_sum(sums)
    pooled_soft, counts, errors, first, second, total = sums.split([part.numel() for part in parts])
    occupied = (total > 0).to(soft.dtype).squeeze(0)
    total = total.squeeze(0).clamp_min(1.0)
    deviation = (second.squeeze(0) - first.square().sum() / total).clamp_min(0.0)
    weight = ((world_size() if pooled else 1) / total).detach()
    return BatchStatistics(
        aggregate=pooled_soft / total,
        own_aggregate=soft * weight,
        counts=counts.detach(),
        nearest_error=(errors / total).detach(),
        deviation=(deviation / (total * first.numel())).detach(),
        share=present * weight,
        occupied=occupied,
    )


def scale_fit(log_scale: Tensor, statistics: BatchStatistics) -> Tensor:
    r"""Zero, with the gradient of (e^{-2 log s} v + 2 log s) / 2 for log s, v the deviation: the root is s^2 = v."""
    loss = 0.5 * statistics.deviation * (-2 * log_scale).exp() + log_scale * statistics.occupied
    return _gradient_only(loss.sum())


def precision_fit(log_precision: Tensor, statistics: BatchStatistics) -> Tensor:
    r"""Zero, with the gradient of sum_d (w_d e_d - log w_d) / 2 for log w: the roots are 1/w_d = e_d.

    Args:
        log_precision: log w, (1,) or (D,).
        statistics: of the batch; e is its ``nearest_error``, and the mean over features for one shared w.
    """
    error = statistics.nearest_error
    error = error.mean(0, keepdim=True) if log_precision.numel() == 1 else error
    return _gradient_only(0.5 * (log_precision.exp() * error - log_precision * statistics.occupied).sum())


def _gradient_only(loss: Tensor) -> Tensor:
    """Zero-valued, so that an objective keeps its meaning as a number."""
    return loss - loss.detach()
