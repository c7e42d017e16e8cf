r"""Beam search over the levels of a residual quantizer: the codes c_1 ... c_n that together leave the least error.

Greedy search takes the most probable code of each level, and may end with more error than a path that begins worse. A
beam keeps several paths, extends each by its likeliest codes at the next level, and keeps those with the least error

.. math:: |x - z_{c_1} - \dots - z_{c_l}|^2 .

The greedy path is always one of them, so the result is never worse than the greedy one. Candidates are searched in
float64, where float64 exists: which codes of a level are the likeliest then hardly ever depends on rounding.
"""

# pyright: reportPrivateUsage=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..functional.divergences import code_counts, perplexity
from ..types import QuantizerOutput
from .gaussian_mixture import GaussianMixtureVQ

#: Values of the extended paths in memory at a time.
_VALUES = 1 << 22


@torch.no_grad()
def beam_search(levels: Sequence[GaussianMixtureVQ], latents: Tensor, width: int) -> Tensor:
    """Codes (N, n) of the path with the least error for latents (N, D), of ``width`` paths, one of them greedy."""
    if torch.compiler.is_compiling():
        return _search(levels, latents, width)
    step = max(16, _VALUES // (width * width * latents.shape[1]))
    return torch.cat([_search(levels, part, width) for part in latents.split(step)])


def _search(levels: Sequence[GaussianMixtureVQ], latents: Tensor, width: int) -> Tensor:
    left = latents[:, None]
    paths = torch.empty(latents.shape[0], 1, 0, dtype=torch.int64, device=latents.device)
    for level in levels:
        left, paths = _extended(level, left, paths, width)
    error = _squared(left)
    best = error.argmin(-1)
    # The greedy path, which is the first, wins where it is as good.
    best = torch.where(error.gather(-1, best[:, None])[:, 0] < error[:, 0], best, 0)
    return paths.gather(1, best[:, None, None].expand(-1, 1, len(levels)))[:, 0]


def _extended(level: GaussianMixtureVQ, left: Tensor, paths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Paths of one more level: the greedy one, and the ``width`` - 1 of the least error among all others.

    Each path leaves ``left`` (N, B, D) of the latents and has codes (N, B, l), the greedy one first.
    """
    number, dim = left.shape[1:]
    greedy = level._search(left[:, 0])[:, None]
    after = left[:, :1] - level.get_codes_from_indices(greedy).to(left.dtype)
    here = torch.cat([paths[:, :1], greedy[:, None]], -1)
    wide = left if left.device.type == "mps" else left.double()
    codes = level.posterior(wide).most_probable(min(width, level.codebook_size))
    several = codes.shape[-1]
    others = min(width - 1, number * several - 1)
    if others < 1:
        return after, here
    extended = left[:, :, None] - level.get_codes_from_indices(codes).to(left.dtype)
    error = _squared(extended)
    error[:, 0] = torch.where(codes[:, 0] == greedy, torch.inf, error[:, 0])
    chosen = error.flatten(1).topk(others, largest=False).indices
    kept = extended.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, dim))
    before = paths.gather(1, (chosen // several)[..., None].expand(-1, -1, paths.shape[-1]))
    last = codes.flatten(1).gather(1, chosen)[..., None]
    return torch.cat([after, kept], 1), torch.cat([here, torch.cat([before, last], -1)], 1)


def _squared(left: Tensor) -> Tensor:
    return (left if left.device.type == "mps" else left.double()).square().sum(-1)


def output_at(
    level: GaussianMixtureVQ, out: QuantizerOutput, latents: Tensor, indices: Tensor
) -> QuantizerOutput:
    """The eval output of a level for latents (N, D) with ``indices``, (N,), -1 where masked, as its codes.

    The objective, which is of the posterior and not of one code, stays.
    """
    valid, codes = indices >= 0, indices.clamp_min(0)
    with torch.no_grad():
        distance = (level.standardized(latents) - level.codebook.to(latents.dtype)[codes]).square().sum(-1)
        log_variance = level.code_log_variance(distance)
        counts = code_counts(codes, level.codebook_size, valid).to(latents.dtype)
    return replace(
        out,
        quantized=level.get_codes_from_indices(indices).to(latents.dtype),
        indices=indices,
        log_variance=torch.where(valid, log_variance, 0.0),
        terms=out.terms | {"perplexity": perplexity(counts), "usage": (counts > 0).to(latents.dtype).mean()},
    )
