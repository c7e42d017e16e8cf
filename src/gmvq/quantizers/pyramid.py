"""``PyramidGMVQ``: a sum of codewords over scales, each quantizing block means of what the coarser ones left over."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_choice
from ..functional.distributed import all_reduce_sum, gather_rows
from ..types import QuantizerOutput
from .base import masked
from .blocks import Blocks, block_codes, block_means, grown, placed, scale_places
from .composed import ComposedQuantizer, level_terms, per_position
from .composed_posterior import LevelPosterior
from .gaussian_mixture import GaussianMixtureVQ
from .parts import level_sizes
from .start import start_together


class PyramidGMVQ(ComposedQuantizer):
    r"""n mixtures from coarse to fine: scale l has a code for each block of side 2^(n-l); a position reads their sum.

    With P_l the means over the valid positions of blocks and U_l the codewords repeated over blocks:

    .. math::
        z_l = P_l \Big(x - \sum_{j<l} U_j s_j B_j \mu_{c_j}\Big), \qquad
        p(c) = \prod_l \prod_{b=1}^{N_l} \pi(c_{lb}), \qquad z = \sum_l U_l (m_l + s_l B_l \mu_{c_l})

    The block mean is the vector that leaves the least squared error over its block, so the search at each scale is that
    of ``GaussianMixtureVQ``. The objective is sum_l N_l / N of the objective of scale l, with N_l blocks and N
    positions: ``out.nats`` is in nats per latent position. What it bounds is in docs/mathematics.md.

    Latents have shape (B, *spatial, D): every axis between the first and the last is one of space, and its size need
    not be a multiple of the blocks' side. An image has sum_l ceil(H / 2^(n-l)) ceil(W / 2^(n-l)) codes.

    Args:
        dim: D, size of the last axis of the latents.
        codebook_size: K of every scale, or a sequence with the K of each, coarsest first.
        scales: n; None: 4, or as many as there are sizes. The finest scale has a code for each position.
        shared_codebook: one codebook (K, d) for all scales; scale, precision and projections are each's own. No births.
        options: of every ``GaussianMixtureVQ``.

    Indices and ``log_variance`` have shape (B, *spatial, n). The code of a block stands at its first valid position,
    with -1 (and a log-variance of 0) everywhere else. ``get_codes_from_indices`` takes the indices of the first m
    scales, (B, *spatial, m). A block without a code adds nothing. A position is masked, and zero, where the last scale
    of which an item has codes has none for its block; so the finest scales may be left out, as -1 or by a shorter last
    axis. ``out.terms`` holds, for each scale l from 1, ``nats/l``, ``perplexity/l`` and
    ``error/l``, the mean squared error per feature and position after it.

    Source of the scheme: Tian et al., "Visual Autoregressive Modeling", arXiv 2404.02905 (one codebook over a pyramid
    of residuals); the blocks are those of a Haar transform.

    Example:
        >>> quantizer = PyramidGMVQ(dim=16, codebook_size=256, scales=3)
        >>> out = quantizer(torch.randn(8, 6, 6, 16))
        >>> out.indices.shape
        torch.Size([8, 6, 6, 3])
        >>> quantizer.codes_per_item((6, 6))  # 2 x 2, 3 x 3, 6 x 6
        [4, 9, 36]
    """

    _levels, _shape, _axes = "scales", "(B, *spatial, m)", 2

    def __init__(
        self,
        dim: int,
        codebook_size: int | Sequence[int],
        scales: int | None = None,
        *,
        shared_codebook: bool = True,
        **options: Any,
    ) -> None:
        sizes = level_sizes(codebook_size, scales, "scales")
        super().__init__(dim, max(sizes))
        if shared_codebook and len(set(sizes)) > 1:
            raise ValueError(f"a shared codebook has one size, got {list(sizes)}; or shared_codebook=False")
        check_choice("units", options.pop("units", "latents"), ("latents",))
        self.shared_codebook = shared_codebook
        self.layers = nn.ModuleList(GaussianMixtureVQ(dim, size, **options) for size in sizes)
        for level in self.mixtures:
            # At the finest scale this is the identity on latents; a coarser one would count block means again.
            level.straight_through = level is self.mixtures[-1]
            level.births = not shared_codebook
            level.group = self.mixtures if shared_codebook else None
        if shared_codebook:
            self._share_codebook()

    def codes_per_item(self, spatial: Sequence[int]) -> list[int]:
        """Number of codes of each scale for an item with these numbers of positions along its axes."""
        return [len(places) for places in scale_places(spatial, len(self.layers))]

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize latents (B, *spatial, D), mask (B, *spatial), as ``Quantizer.forward``."""
        flat, valid = self._flat(latents, mask)
        grids = block_means(flat, latents, mask, len(self.layers))
        above: Tensor = torch.zeros_like(grids[0].means)
        outs: list[QuantizerOutput] = []
        shares = self._shares(grids)
        for number, (level, grid) in enumerate(zip(self.mixtures, grids, strict=True)):
            if self.shared_codebook:
                # The codebook is held by the vectors of all scales, of which this one has few.
                level.memory = grids[-1].counts.numel() / grid.counts.numel()
            above = grown(above, grid.counts.shape, 2) if outs else above
            # Before the start nothing is quantized, and the parts add up to the latents with their gradient.
            waits = latents.requires_grad and not level._has_codebook()
            left = grid.means - (above if waits else above.detach())
            out: QuantizerOutput = level(left, None if mask is None else grid.counts > 0)
            above = above + (left if waits and not level._has_codebook() else out.quantized)
            side = 1 << (len(grids) - 1 - number)
            terms = out.terms | {"error": _error(grids[-1], grown(above, latents.shape[:-1], side))}
            outs.append(per_position(replace(out, terms=terms), shares[number]))
        nats = sum((out.nats for out in outs), flat.new_zeros(()))
        total, loss = self._couple(above.reshape(flat.shape), nats, flat)
        indices = placed(grids, [out.indices for out in outs], -1)
        if not self.training:
            total = self.get_codes_from_indices(indices)
        return QuantizerOutput(
            quantized=masked(total.reshape(flat.shape), valid, 0.0).to(latents.dtype).reshape(latents.shape),
            indices=indices,
            loss=loss,
            nats=nats,
            log_variance=placed(grids, [out.log_variance for out in outs], 0),
            terms=level_terms(outs),
        )

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (B, *spatial, n) of the most probable code of each block, given those of the coarser ones; int64."""
        grids = block_means(self._flat(latents, mask)[0], latents, mask, len(self.layers))
        above: Tensor = torch.zeros_like(grids[0].means)
        found: list[Tensor] = []
        for level, grid in zip(self.mixtures, grids, strict=True):
            above = grown(above, grid.counts.shape, 2) if found else above
            codes = level.encode(grid.means - above, None if mask is None else grid.counts > 0)
            above = above + level.get_codes_from_indices(codes).to(above.dtype)
            found.append(codes)
        return placed(grids, found, -1)

    def posterior(self, latents: Tensor, mask: Tensor | None = None) -> LevelPosterior:
        """q(c_l|x, coarser codes) of the blocks of each scale, of latents (B, *spatial, D), mask (B, *spatial)."""
        grids = block_means(self._flat(latents, mask)[0], latents, mask, len(self.layers))
        return LevelPosterior(self.mixtures, grids, latents.shape[:-1], self.decoder_units)

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start every scale by k-means on what its block means of latents (B, *spatial, D) add to the coarser ones."""
        grids = block_means(self._flat(latents, None)[0], latents, None, len(self.layers))
        added = [grids[0].means, *(b.means - grown(a.means, b.counts.shape, 2) for a, b in pairwise(grids))]
        added = [gather_rows(values.reshape(-1, self.dim)) for values in added]
        if self.shared_codebook:
            start_together(self.mixtures, added, seed)
        else:
            for level, own in zip(self.mixtures, added, strict=True):
                start_together([level], [own], seed)

    def _everywhere(self, number: int, column: Tensor) -> Tensor:
        halvings = len(self.layers) - 1 - number
        return grown(block_codes(column, halvings), column.shape, 1 << halvings)

    def _seen(self, before: Tensor, here: Tensor) -> Tensor:
        coded = here
        for axis in range(1, here.ndim):
            coded = coded.any(axis, keepdim=True)
        return here | (before & ~coded)

    @torch.no_grad()
    def _shares(self, grids: list[Blocks]) -> Tensor:
        """N_l / N of each scale, (n,), over all ranks in training."""
        numbers = torch.stack([(grid.counts > 0).sum() for grid in grids]).to(grids[0].counts.dtype)
        numbers = all_reduce_sum(numbers) if self.training else numbers
        return numbers / numbers[-1].clamp_min(1.0)

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        sizes = self.codebook_sizes
        return self.mixtures[0].to_config() | {
            "type": "PyramidGMVQ",
            "scales": len(sizes),
            "shared_codebook": self.shared_codebook,
            "codebook_size": self.codebook_size if len(set(sizes)) == 1 else [*sizes],
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scales={len(self.layers)}, shared_codebook={self.shared_codebook}"


@torch.no_grad()
def _error(finest: Blocks, read: Tensor) -> Tensor:
    """Mean square per feature of what a sum (B, *spatial, D) leaves of the latents' valid positions."""
    square = (finest.means - read).square().mean(-1)
    return (square * finest.counts).sum() / finest.counts.sum().clamp_min(1.0)
