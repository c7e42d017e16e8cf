"""Precision and recall of generated images by nearest neighbours among features (arXiv 1904.06991), exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .distances import row_block

#: Neighbours looked up once for all parts. That fewer than k = 3 of them are in a given half has odds below 1e-15.
_LISTED = 64


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1] of each part, (R,)."""

    precision: Tensor
    recall: Tensor


def precision_recall(
    real: Tensor, generated: Tensor, parts1: Tensor, parts2: Tensor, *, neighbours: int = 3
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of each of R parts of two sets, (N, F) and (M, F).

    The manifold of a set is the union of balls around its vectors, each of the radius at which the k-th nearest
    *other* vector of the set lies. Precision is the share of generated vectors in the manifold of the real ones,
    recall the share of real vectors in that of the generated ones. Both depend on the number of vectors: compare
    them at one N. ``parts1`` and ``parts2`` say which vectors are in each part, (R, N) and (R, M), boolean.
    """
    least = int(min(parts1.sum(1).min(), parts2.sum(1).min()))
    if not 1 <= neighbours < least:
        raise ValueError(
            f"precision and recall by {neighbours} neighbours need more than {neighbours} vectors of both kinds "
            f"in every part, got {least}; evaluate more images"
        )
    origin = real.mean(0)  # distances by products lose digits far from the origin
    real, generated = real - origin, generated - origin
    radii1, radii2 = _radii(real, parts1, neighbours), _radii(generated, parts2, neighbours)
    return PrecisionRecall(
        _covered(generated, real, radii1, parts2), _covered(real, generated, radii2, parts1)
    )


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, F) and (M, F) -> (N, M)."""
    products = torch.addmm(y.square().sum(1), x, y.T, alpha=-2.0)
    return products.add_(x.square().sum(1, keepdim=True)).clamp_min_(0.0)


def _radii(x: Tensor, parts: Tensor, k: int) -> Tensor:
    """Squared distance of each vector to its k-th nearest other one in each part, (R, N); -inf outside the part."""
    count = x.shape[0]
    listed = min(count - 1, max(_LISTED, 8 * k))
    radii = x.new_empty(parts.shape)
    for start in range(0, count, row_block(count)):
        rows = torch.arange(start, min(count, start + row_block(count)), device=x.device)
        distance = squared_distances(x[rows], x)
        distance[torch.arange(rows.numel(), device=x.device), rows] = torch.inf
        values, index = distance.topk(listed, largest=False)
        for part, own in enumerate(parts):
            ranks = own[index].cumsum(1)  # how many of the part are among the first
            place = (ranks < k).sum(1).clamp_max(listed - 1)
            radii[part, rows] = values.gather(1, place[:, None])[:, 0]
    return radii.masked_fill_(~parts, -torch.inf)


def _covered(points: Tensor, centres: Tensor, radii: Tensor, parts: Tensor) -> Tensor:
    """Share of each part's points that lie in any ball of the same part, (R,)."""
    found = points.new_zeros(parts.shape[0])
    block = row_block(centres.shape[0])
    for rows, chosen in zip(points.split(block), parts.split(block, 1), strict=True):
        distance = squared_distances(rows, centres)
        for part, radius in enumerate(radii):
            inside = (distance <= radius).any(1)
            found[part] += (inside & chosen[part]).sum()
    return found / parts.sum(1)
