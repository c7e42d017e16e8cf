"""How far apart two sets of feature vectors are: Frechet and kernel distance, precision and recall by neighbours.

Float64 throughout, on the device of the features. N and M are numbers of vectors, F of features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Neighbours looked up once for all parts. That fewer than k = 3 of them are in a given half has odds below 1e-15.
_LISTED = 64
_BLOCK_VALUES = 1 << 23  # entries of one block of pairs: 64 MiB in float64


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Frechet distance of the normal distributions with the two sets' means and covariances (Heusel et al. 2017).

    .. math:: |m_1 - m_2|^2 + \operatorname{tr} S_1 + \operatorname{tr} S_2
              - 2 \operatorname{tr} (S_1 S_2)^{1/2}

    with S normalised by N - 1. The last trace is the sum of the roots of the eigenvalues of the symmetric
    B^T S_2 B, where B B^T = S_1 (with few vectors, the sum of the singular values of the centred vectors' products):
    no root of a general matrix, and no offset where a covariance is singular, as it is with fewer vectors than
    features.

    The estimate is biased upwards, by about a constant over N; compare values at one N alone.
    """
    first, second = check_pair(first, second)
    means = first.mean(0) - second.mean(0)
    a = (first - first.mean(0)) / (first.shape[0] - 1) ** 0.5  # S_1 = a^T a
    b = (second - second.mean(0)) / (second.shape[0] - 1) ** 0.5
    distance = means.square().sum() + a.square().sum() + b.square().sum() - 2.0 * _root_trace(a, b)
    return max(0.0, float(distance))


def kernel_distances(
    first: Tensor, second: Tensor, parts1: Tensor, parts2: Tensor, *, paired: bool = False
) -> Tensor:
    r"""Kernel distance (KID, arXiv 1801.01401) of each of R parts of two sets, in one pass over the pairs.

    With k(x, y) = (x.y / F + 1)^3, the unbiased estimate of the squared maximum mean discrepancy:

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{nm} \sum_{i, j} k(x_i, y_j)

    Being unbiased it may be negative. All vectors of a part enter; torchmetrics and others average over random
    subsets of 1,000, which has the same expectation and more noise.

    An image and its reconstruction are not independent, and counting k between the two makes the estimate too low
    (below zero for good reconstructions). ``paired`` leaves the pairs i = j out of the last sum as well, which is
    then over n (n - 1): the one-sample U-statistic of Gretton et al. (JMLR 13, 2012), unbiased for pairs.

    ``parts1`` and ``parts2`` say which vectors are in each part, (R, N) and (R, M), boolean, at least two each; of
    ``paired`` sets, in which row i of both is one image, they are the same. The result is (R,), float64.
    """
    w1, w2 = parts1.to(first), parts2.to(second)
    n, m = w1.sum(1), w2.sum(1)
    within1, within2 = _within(first, w1), _within(second, w2)
    across, pairs = _sums(first, second, w1, w2), n * m
    if paired:
        own = ((first * second).sum(1) / first.shape[1] + 1.0).pow(3)
        across, pairs = across - w1 @ own, n * (n - 1)
    return within1 / (n * (n - 1)) + within2 / (m * (m - 1)) - 2.0 * across / pairs


def check_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in float64; raise ValueError unless they are finite and have one number of features."""
    for name, values in (("the first features", first), ("the second features", second)):
        if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 1:
            raise ValueError(
                f"{name} must hold at least two vectors, (N, F), got {tuple(values.shape)}; evaluate more images"
            )
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinite values; look at the images that they come from")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"both sets need features of one length, got {first.shape[1]} and {second.shape[1]}; "
            "use one extractor for both"
        )
    device = "cpu" if first.device.type == "mps" else None
    return first.to(device).double(), second.to(device).double()


def row_block(columns: int) -> int:
    """Rows of a block of pairs with so many columns."""
    return max(1, _BLOCK_VALUES // max(1, columns))


def _root_trace(a: Tensor, b: Tensor) -> Tensor:
    """tr (a^T a b^T b)^(1/2), the sum of the singular values of a b^T."""
    if a.shape[0] + b.shape[0] < 2 * a.shape[1]:
        return torch.linalg.svdvals(a @ b.T).sum()
    values, vectors = torch.linalg.eigh(a.T @ a)
    kept = values > values[-1].clamp_min(0.0) * 1e-14  # the rest is rounding, of a singular covariance
    factor = vectors[:, kept] * values[kept].sqrt()
    half = b @ factor
    return torch.linalg.eigvalsh(half.T @ half).clamp_min(0.0).sqrt().sum()


def _within(x: Tensor, parts: Tensor) -> Tensor:
    """Sum of k over the pairs i != j of each part."""
    own = (x.square().sum(1) / x.shape[1] + 1.0).pow(3)
    return _sums(x, x, parts, parts) - parts @ own


def _sums(x: Tensor, y: Tensor, parts1: Tensor, parts2: Tensor) -> Tensor:
    """sum_ij a_ri k(x_i, y_j) b_rj for each part r, (R,)."""
    total = x.new_zeros(parts1.shape[0])
    block = row_block(y.shape[0])
    for rows, chosen in zip(x.split(block), parts1.split(block, 1), strict=True):
        kernel = (rows @ y.T / x.shape[1]).add_(1.0).pow_(3)
        total += torch.linalg.vecdot(chosen, parts2 @ kernel.T)
    return total


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
