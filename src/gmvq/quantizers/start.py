"""Where a mixture starts: the latents of the last batches, and codebook and precision fitted to them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.kmeans import kmeans, nearest_code

#: Latents per code that the start looks at, and how many at most beyond two per code.
_PER_CODE, _MOST = 8, 1 << 16
#: Lloyd steps, and the largest codebook that gets them all; a larger one takes points of the data.
_ITERATIONS, _LARGE = 10, 1 << 14


class Pool:
    """The most recent latents z of the batches before the start, as many as the start looks at."""

    def __init__(self, codebook_size: int) -> None:
        self._size = min(_PER_CODE * codebook_size, max(2 * codebook_size, _MOST))
        self._batches: list[Tensor] = []

    def add(self, z: Tensor) -> None:
        """Keep z, (N, d), and forget what is older than needed."""
        self._batches.append(z.detach())
        while sum(len(batch) for batch in self._batches[1:]) >= self._size:
            self._batches.pop(0)

    def rows(self) -> Tensor | None:
        """All of them, (M, d), or None before the first batch."""
        return torch.cat(self._batches)[-self._size :] if self._batches else None


def fit_codebook(z: Tensor, codebook_size: int, seed: int) -> Tensor:
    """mu, (K, d), by k-means on z, (N, d); a codebook too large for that takes points of z."""
    iterations = _ITERATIONS if codebook_size <= _LARGE else 0
    codebook = kmeans(z, codebook_size, iterations=iterations, seed=seed)
    if not bool(
        codebook.any()
    ):  # all latents are at the origin, and zeros would say that nothing has started
        codebook[0] = torch.finfo(codebook.dtype).tiny
    return codebook


def fit_log_precision(z: Tensor, codebook: Tensor) -> Tensor:
    """log w, 0-d: 1/w is the mean squared error per feature of z, (N, d), to the nearest code."""
    _, distance = nearest_code(z, codebook)
    return -(distance.mean() / z.shape[1]).clamp_min(MIN_ERROR).log()


#: Least 1/w, in standardised units: below it all latents lie on their codes.
MIN_ERROR = 1e-5


def principal_directions(rows: Tensor, count: int) -> Tensor:
    """The ``count`` directions along which rows (N, D) spread most, orthonormal, (count, D)."""
    centered = rows.double() - rows.double().mean(0)
    directions = torch.linalg.eigh(centered.T @ centered).eigenvectors  # by growing spread
    return directions.flip(-1)[:, :count].T.to(rows.dtype)
