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
        counts: (K,), how often each code is the most probable one.
        deviation: scalar, mean squared deviation of the latents per feature.
        share: (N,), this rank's weights: ``(values * share).sum()``, averaged over ranks, is the mean of values.
        occupied: scalar, 1, or 0 where every position of every rank is masked.
    """

    aggregate: Tensor
    counts: Tensor
    deviation: Tensor
    share: Tensor
    occupied: Tensor


def batch_statistics(
    q: Tensor, indices: Tensor, offsets: Tensor, valid: Tensor | None, *, pooled: bool
) -> BatchStatistics:
    """Gather the statistics of one batch.

    Args:
        q: q(c|x), (N, K).
        indices: most probable codes, (N,).
        offsets: latents minus a point that every rank knows, (N, D): their sums keep their digits.
        valid: (N,), boolean, or None where all are.
        pooled: sum over ranks; False in eval, which has no collective.
    """
    present = torch.ones_like(q[:, 0]) if valid is None else valid.to(q.dtype)
    offsets = offsets.detach() * present[:, None]
    parts = [
        (q * present[:, None]).sum(0),
        torch.zeros_like(q[0]).index_add_(0, indices, present),
        offsets.sum(0),
        offsets.square().sum()[None],
        present.sum()[None],
    ]
    sums = torch.cat(parts)
    if pooled:
        sums = all_reduce_sum(sums)
    soft, counts, first, second, total = sums.split([part.numel() for part in parts])
    occupied = (total > 0).to(q.dtype).squeeze(0)
    total = total.squeeze(0).clamp_min(1.0)
    deviation = (second.squeeze(0) - first.square().sum() / total).clamp_min(0.0)
    return BatchStatistics(
        aggregate=soft / total,
        counts=counts.detach(),
        deviation=(deviation / (total * offsets.shape[-1])).detach(),
        share=present * ((world_size() if pooled else 1) / total).detach(),
        occupied=occupied,
    )


def scale_fit(log_scale: Tensor, statistics: BatchStatistics) -> Tensor:
    r"""Zero, with the gradient of (e^{-2 log s} v + 2 log s) / 2 for log s, v the deviation: the root is s^2 = v."""
    loss = 0.5 * statistics.deviation * (-2 * log_scale).exp() + log_scale * statistics.occupied
    return _gradient_only(loss.sum())


def precision_fit(log_precision: Tensor, nearest_error: Tensor, statistics: BatchStatistics) -> Tensor:
    r"""Zero, with the gradient of sum_d (w_d e_d - log w_d) / 2 for log w: the roots are 1/w_d = e_d.

    Args:
        log_precision: log w, (1,) or (D,).
        nearest_error: squared error to the nearest code, (N, D), without gradient; e is its mean over positions, and
            over features for one shared w.
        statistics: of the same batch.
    """
    error = (nearest_error * statistics.share[:, None]).sum(0)
    error = error.mean(0, keepdim=True) if log_precision.numel() == 1 else error
    return _gradient_only(0.5 * (log_precision.exp() * error - log_precision * statistics.occupied).sum())


def _gradient_only(loss: Tensor) -> Tensor:
    """Zero-valued, so that an objective keeps its meaning as a number."""
    return loss - loss.detach()
