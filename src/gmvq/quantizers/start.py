"""Where a mixture starts: scale, codebook and precision fitted to a batch of latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.kmeans import kmeans, nearest_code


class Start(NamedTuple):
    """log s, mu (K, D) in standardised units, log w."""

    log_scale: float
    codebook: Tensor
    log_precision: float


def start_from(
    rows: Tensor,
    codebook_size: int,
    standardize: bool,
    iterations: int,
    seed: int,
    codebook: Tensor | None = None,
) -> Start:
    """Fit s to the spread of the rows, mu by k-means, and w to the squared error that is left.

    Args:
        rows: latents, (N, D).
        codebook_size: K.
        standardize: False fixes s = 1.
        iterations: of k-means; 0 takes points of the batch.
        seed: of k-means.
        codebook: mu that is kept, of another layer that shares it; None: fit it.
    """
    log_scale = 0.0
    if standardize:
        # Below the floor, which only latents without spread reach, float32 holds no distances.
        floor = rows.abs().max().mul(1e-4).clamp_min(1e-6)
        spread = (rows - rows.mean(0)).square().mean().sqrt().maximum(floor)
        log_scale = float(spread.log())
        rows = rows / spread
    if codebook is None:
        codebook = kmeans(rows, codebook_size, iterations=iterations, seed=seed)
    _, distance = nearest_code(rows, codebook)
    variance = (distance.mean() / rows.shape[1]).clamp_min(1e-4)
    return Start(log_scale, codebook, -float(variance.log()))


def principal_directions(rows: Tensor, count: int) -> Tensor:
    """The ``count`` directions along which rows (N, D) spread most, orthonormal, (count, D)."""
    centered = rows.double() - rows.double().mean(0)
    directions = torch.linalg.eigh(centered.T @ centered).eigenvectors  # by growing spread
    return directions.flip(-1)[:, :count].T.to(rows.dtype)
