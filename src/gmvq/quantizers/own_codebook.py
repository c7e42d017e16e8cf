r"""A codebook that is given: from text embeddings, from k-means elsewhere, from another library; frozen or not.

The layer keeps codewords in standardised units, mu = (code - m) / s. Where it standardises latents, m and s are those
of latents that are given, or else of the codes themselves. Where it does not (``standardize=False``), m = 0 and s is a
power of two, so that nothing is rounded: ``quantized`` in the latents' units is the given code bit by bit.

Without latents the precision is a guess from the codes. With r_c the distance to the nearest other code, a latent
half-way between two codes has the squared error r_c^2 / 4, so

.. math:: \frac1w = \frac{1}{4 d} \, \text{mean}_c \, r_c^2 .
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..functional.distributed import gather_rows
from ..functional.search import best_codes
from .start import MIN_ERROR, begin, fit_frame, fit_mixture, fit_projections

if TYPE_CHECKING:
    from .state import MixtureState


@torch.no_grad()
def set_codebook(
    layer: MixtureState, codes: Tensor, latents: Tensor | None = None, frozen: bool | Tensor = False
) -> None:
    """Start a layer from given codes; ``GaussianMixtureVQ.set_codebook`` says what the arguments are."""
    if not isinstance(codes, Tensor) or codes.shape != (layer.codebook_size, layer.dim):  # pyright: ignore
        shape = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__  # pyright: ignore
        raise ValueError(
            f"codes must be a tensor of shape ({layer.codebook_size}, {layer.dim}), a code in each row; got {shape}. "
            "Codes of more features: reduce them first, for instance to their principal directions"
        )
    pooled = None if latents is None else gather_rows(layer._flat(latents, None)[0].detach())
    codes = layer._flat(codes.to(layer.codebook.device), None)[0].to(layer.codebook)
    seen = codes if pooled is None else pooled.to(codes)
    with torch.autocast(codes.device.type, enabled=False):
        layer._pending = None
        if layer.standardize:
            fit_frame(layer, seen)
        else:
            error = _error_of_cells(codes)
            layer.mean.zero_()
            layer.scale.fill_(2.0 ** round(math.log2(error) / 2) if error > 0 else 1.0)
        fit_projections(layer, layer._scaled(seen))
        mu = layer.standardized(codes)
        if not bool(mu.any()):
            # Zeros would say that nothing has started.
            mu[0] = torch.finfo(mu.dtype).tiny
        layer.codebook.copy_(mu)
        freeze(layer, frozen)
        if pooled is not None:
            fit_mixture(layer, layer.standardized(pooled.to(codes)), keep_codebook=True)
            return
        error = _error_of_cells(mu) if layer.standardize else 1.0
        begin(layer, -math.log(max(error, MIN_ERROR)))


def freeze(layer: MixtureState, frozen: bool | Tensor) -> None:
    """Let some codes, (K,), True where frozen, stand where they are from now on; a bool: all, or none."""
    if isinstance(frozen, bool):
        frozen = torch.full((layer.codebook_size,), frozen)
    if frozen.dtype != torch.bool or frozen.shape != (layer.codebook_size,):
        raise ValueError(
            f"frozen must be a bool, or a boolean tensor of shape ({layer.codebook_size},), one entry for each code; "
            f"got {frozen.dtype} of shape {tuple(frozen.shape)}"
        )
    layer.frozen_codes = bool(frozen.any())
    places = layer.codebook.detach().masked_fill(~frozen.to(layer.codebook.device)[:, None], torch.nan)
    layer.frozen = places if layer.frozen_codes else None


def _error_of_cells(codes: Tensor) -> float:
    """Mean squared error per feature of latents half-way between codes (K, d) and the nearest other; 0 for one code."""
    if len(codes) < 2:
        return 0.0
    centred = codes - codes.mean(0)
    squares = centred.square().sum(-1)
    # The best other code: of the two best, the one that is not the code itself, whose distance is 0.
    values, _, _ = best_codes(centred, centred, -0.5 * squares, 2)
    return float((squares - 2.0 * values[:, 1]).clamp_min(0.0).mean()) / (4 * codes.shape[1])
