"""K-means in torch: the data-dependent start of a codebook."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .divergences import code_counts
from .search import best_code


def nearest_code(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Index (N,) of the nearest codeword, the lowest of equals, and the squared distance to it (N,)."""
    value, index = best_code(latents, codebook, -0.5 * codebook.square().sum(-1))
    return index, (latents.square().sum(-1) - 2.0 * value).clamp_min(0.0)


@torch.no_grad()
def kmeans(latents: Tensor, codebook_size: int, *, iterations: int = 10, seed: int = 0) -> Tensor:
    """Lloyd's algorithm from distinct random points; a cluster that empties restarts at a far point.

    With fewer than K latents the rest of the codebook is drawn from a Gaussian fitted to them, with a warning.

    Args:
        latents: (N, D), finite.
        codebook_size: K.
        iterations: Lloyd steps.
        seed: of the random start; the result depends on nothing else.

    Returns:
        (K, D) codebook in the dtype of ``latents``.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    count, dim = latents.shape
    order = torch.randperm(count, generator=generator, device="cpu").to(latents.device)
    codebook = latents[order[:codebook_size]].clone()
    if count < codebook_size:
        warnings.warn(
            f"what the codebook starts on holds {count} latent vectors for {codebook_size} codes: "
            f"{codebook_size - count} codes start at random points of a Gaussian fitted to them; for a better start "
            f"call quantizer.init_codebook(latents) with at least {codebook_size} vectors before training",
            UserWarning,
            stacklevel=2,
        )
        shape = codebook_size - count, dim
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        spread = latents.std(0, correction=0).clamp_min(1e-3)
        extra = latents.mean(0) + noise.to(latents) * spread
        return torch.cat([codebook, extra])
    wide = latents if latents.dtype == torch.float64 else latents.float()
    return lloyd(wide, codebook.to(wide), iterations).to(latents)


@torch.no_grad()
def lloyd(latents: Tensor, codebook: Tensor, iterations: int) -> Tensor:
    """Steps of k-means from a codebook (K, D): codes go to the mean of their latents, those without any to far ones."""
    for _ in range(iterations):
        index, distance = nearest_code(latents, codebook)
        sizes = code_counts(index, len(codebook))
        sums = torch.zeros_like(codebook).index_add_(0, index, latents)
        empty = sizes == 0
        codebook = torch.where(empty[:, None], codebook, sums / sizes.clamp_min(1)[:, None])
        missing = int(empty.sum())
        if missing:
            codebook[empty] = latents[distance.topk(missing).indices]
    return codebook
