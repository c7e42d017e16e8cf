"""``ResidualGMVQ``: a sum of codewords, each level quantizing what the levels before it left over."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_size
from ..types import QuantizerOutput
from .base import masked
from .beam import beam_search, output_at
from .blocks import positions
from .composed import ComposedQuantizer, level_terms
from .composed_posterior import LevelPosterior
from .config import without_later
from .gaussian_mixture import GaussianMixtureVQ
from .learning import in_backward
from .parts import level_sizes
from .start import start_from


class ResidualGMVQ(ComposedQuantizer):
    r"""n mixtures in a row: z-hat_1 = latents, z-hat_{l+1} = z-hat_l - z_l, and the decoder reads sum_l z_l.

    As one model: p(c_1, ..., c_n) = prod_l pi(c_l), z = sum_l s_l B_l mu_{c_l}, and the posterior is taken one level
    at a time, q(c_1|x) q(c_2|x, c_1) ..., each the responsibilities of a ``GaussianMixtureVQ`` given the sample of the
    levels before (as a constant for autograd: docs/experiments.md). The objective is the sum of the levels'
    objectives; ``out.nats`` is in nats per latent position.

    With ``level_dropout`` an item of a training batch (an entry of the first axis) uses its first m levels alone, m
    uniform in ``min_levels`` ... n: the codes then come in the order of their worth, and any prefix of them can be
    decoded. Where a level was dropped its index is -1. The objective of a level counts by the chance that an item
    reaches it; what that bounds is in docs/mathematics.md.

    Args:
        dim: D, size of the last axis of the latents.
        codebook_size: K of every level, or a sequence with the K of each level.
        num_quantizers: n; None: 4, or as many as there are sizes.
        shared_codebook: one codebook (K, d) for all levels; scale, precision and projections are each's own. No births.
        level_dropout: train on prefixes of random length.
        min_levels: the least length of a prefix.
        beam: number of paths that the search of eval and ``encode`` keeps; 1: each level takes its most probable code.
            More never leaves more error than 1, and costs about ``beam`` searches. Training is greedy.
        options: of every ``GaussianMixtureVQ``.

    Indices and ``log_variance`` have shape (..., n). ``get_codes_from_indices`` takes the indices of the first m
    levels, (..., m). Beside the usual terms ``out.terms`` holds, for each level l from 1, ``nats/l``, its objective,
    ``perplexity/l``, whose logarithm is its rate in nats, and ``error/l``, the mean squared error per feature that
    it leaves, in the units of ``quantized``.

    Source of the scheme: Zeghidour et al., "SoundStream", arXiv 2107.03312 (residual levels, dropout); Kumar et al.,
    arXiv 2306.06546 (a projection for each level, prefixes drawn per item).

    Example:
        >>> quantizer = ResidualGMVQ(dim=64, codebook_size=256, num_quantizers=4, level_dropout=True)
        >>> out = quantizer(torch.randn(8, 50, 64))
        >>> out.indices.shape
        torch.Size([8, 50, 4])
        >>> quantizer.get_codes_from_indices(out.indices[..., :2]).shape
        torch.Size([8, 50, 64])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int | Sequence[int],
        num_quantizers: int | None = None,
        *,
        shared_codebook: bool = False,
        level_dropout: bool = False,
        min_levels: int = 1,
        beam: int = 1,
        **options: Any,
    ) -> None:
        sizes = level_sizes(codebook_size, num_quantizers)
        super().__init__(dim, max(sizes))
        check_size("min_levels", min_levels)
        check_size("beam", beam)
        if min_levels > len(sizes):
            raise ValueError(f"min_levels is at most num_quantizers={len(sizes)}, got {min_levels}")
        if shared_codebook and len(set(sizes)) > 1:
            raise ValueError(f"a shared codebook has one size, got {list(sizes)}")
        self.shared_codebook, self.level_dropout, self.min_levels = shared_codebook, level_dropout, min_levels
        self.beam = beam
        #: Whether levels could be dropped in the last forward.
        self._drops = False
        self.units = options.pop("units", "latents")
        check_choice("units", self.units, ("latents", "standardized"))
        self.layers = nn.ModuleList(
            GaussianMixtureVQ(dim, size, units="latents", **options) for size in sizes
        )
        for level in self.mixtures[1:]:  # there is a residual once the first has started
            level.start_after, level.straight_through = 0, False
            level.keep_codebook = shared_codebook
        for level in self.mixtures:
            level.births = not shared_codebook
        if shared_codebook:
            self._share_codebook()

    def forward(
        self, latents: Tensor, mask: Tensor | None = None, *, levels: Tensor | None = None
    ) -> QuantizerOutput:
        """Quantize latents (..., D), mask (...), as ``Quantizer.forward``; indices and log_variance are (..., n).

        Args:
            latents, mask: as there.
            levels: how many levels each entry of the first axis uses in training with ``level_dropout``; None: drawn.
        """
        flat, valid = self._flat(latents, mask)
        reach = self._reach(latents, levels)
        codes = self._codes(flat, valid) if self._has_beam() and not self.training else None
        residual, total = flat, torch.zeros_like(flat)
        outs: list[QuantizerOutput] = []
        for number, level in enumerate(self.mixtures):
            active = self._active(number, flat, valid, reach)
            out = level(residual, active)
            if codes is not None:
                out = output_at(level, out, residual, codes[:, number])
            residual, total = residual - out.quantized.detach(), total + out.quantized
            outs.append(replace(out, terms=out.terms | {"error": self._error(residual, active)}))
        chances = [1.0 if reach is None else self._chance(number) for number in range(len(outs))]
        nats = sum((chance * out.nats for chance, out in zip(chances, outs, strict=True)), flat.new_zeros(()))
        total, loss = self._couple(total, nats, flat)
        indices = torch.stack([out.indices for out in outs], -1)
        total = self.decoder_units(total) if self.training else self.get_codes_from_indices(indices)
        shape = (*latents.shape[:-1], len(outs))
        return QuantizerOutput(
            quantized=masked(total, valid, 0.0).to(latents.dtype).reshape(latents.shape),
            indices=indices.reshape(shape),
            loss=loss,
            nats=nats,
            log_variance=torch.stack([out.log_variance for out in outs], -1).reshape(shape),
            terms=level_terms(outs),
        )

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (..., n) of latents (..., D), of the path that the search finds; int64, -1 where masked."""
        codes = self._codes(*self._flat(latents, mask))
        return codes.reshape(*latents.shape[:-1], codes.shape[-1])

    def posterior(self, latents: Tensor, mask: Tensor | None = None) -> LevelPosterior:
        """q(c_1|x) q(c_2|x, c_1) ... of latents (..., D) with a mask (...), each level's given the codes before it."""
        grids = [positions(*self._flat(latents, mask))] * len(self.layers)
        return LevelPosterior(self.mixtures, grids, latents.shape[:-1], self.decoder_units)

    def decoder_units(self, latents: Tensor) -> Tensor:
        """Latents, or a sum of codewords, as the decoder reads them: standardised by the first level, or as is."""
        return latents if self.units == "latents" else self.mixtures[0]._scaled(latents)

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """The inverse of ``decoder_units``."""
        first = self.mixtures[0]
        return read if self.units == "latents" else first._unscaled(read)

    def _codes(self, latents: Tensor, valid: Tensor | None) -> Tensor:
        """Codes (N, n) of latents (N, D), -1 where not valid: the search of eval and of ``encode``."""
        if self._has_beam():
            with torch.autocast(latents.device.type, enabled=False):
                found = beam_search(self.mixtures, latents, self.beam)
            return masked(found, valid, -1)
        codes: list[Tensor] = []
        for level in self.mixtures:
            codes.append(level.encode(latents, valid))
            latents = latents - level.get_codes_from_indices(codes[-1]).to(latents.dtype)
        return torch.stack(codes, -1)

    def _has_beam(self) -> bool:
        """Whether the search keeps several paths, for which every level has to have started."""
        return self.beam > 1 and all(level._has_codebook() for level in self.mixtures)

    def _active(
        self, number: int, latents: Tensor, valid: Tensor | None, reach: Tensor | None
    ) -> Tensor | None:
        """Which positions level ``number`` (from 0) sees, (N,), or None for all."""
        if number and self.training and not self.mixtures[0]._has_codebook():
            # Nothing is left over yet.
            return torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        if reach is None or number < self.min_levels:
            return valid
        return reach > number if valid is None else valid & (reach > number)

    @torch.no_grad()
    def _error(self, residual: Tensor, active: Tensor | None) -> Tensor:
        """Mean square of the residual (N, D) of the positions that a level saw, in the units of ``quantized``."""
        scale = self.mixtures[0]._divisor(residual) if self.units == "standardized" else 1.0
        square = (residual / scale).square().mean(-1)
        if active is None:
            return square.mean()
        return torch.where(active, square, 0.0).sum() / active.sum().clamp_min(1)

    def draw_levels(self, items: int, device: torch.device) -> Tensor | None:
        """A number of levels for each of ``items``, as training with ``level_dropout`` draws it; None: all levels.

        Nothing is dropped before every level has started, which takes a batch with valid positions.
        """
        if not in_backward():
            # What activation checkpointing repeats may have started the levels.
            self._drops = all(level._has_codebook() for level in self.mixtures)
        if not (self.training and self.level_dropout and self._drops):
            return None
        return torch.randint(self.min_levels, len(self.layers) + 1, (items,), device=device)

    def _reach(self, latents: Tensor, levels: Tensor | None) -> Tensor | None:
        """m of every position, (N,), one number for each entry of the first axis; None without dropout."""
        items = latents.shape[0] if latents.ndim > 1 else 1
        drawn = self.draw_levels(items, latents.device) if levels is None else levels
        return None if drawn is None else drawn.repeat_interleave(latents.numel() // self.dim // items)

    def _chance(self, number: int) -> float:
        """Chance that an item of a training batch with dropout reaches level ``number`` (from 0)."""
        lengths = len(self.layers) - self.min_levels + 1
        return min(1.0, (len(self.layers) - number) / lengths)

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start every level by k-means on what the levels before it leave of latents (..., D)."""
        residual, _ = self._flat(latents, None)
        for level in self.mixtures:
            level.init_codebook(residual, seed=seed)
            residual = residual - level.get_codes_from_indices(level.encode(residual)).to(residual.dtype)

    def train(self, mode: bool = True) -> ResidualGMVQ:
        """As ``nn.Module.train``; where eval mode starts the first level, it starts the others on what that leaves."""
        first = self.mixtures[0]
        seen = None if mode or first._pool is None or first.started else first._pool.latents()
        super().train(mode)
        if seen is not None and first.started:
            with torch.no_grad():
                residual = seen
                for level, following in pairwise(self.mixtures):
                    residual = residual - level.get_codes_from_indices(level.encode(residual))
                    start_from(following, residual)
        return self

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        sizes, first = self.codebook_sizes, self.mixtures[0].to_config()
        own: dict[str, Any] = {
            "type": "ResidualGMVQ",
            "num_quantizers": len(sizes),
            "beam": self.beam,
            "shared_codebook": self.shared_codebook,
            "level_dropout": self.level_dropout,
            "min_levels": self.min_levels,
            "units": self.units,
            "codebook_size": self.codebook_size if len(set(sizes)) == 1 else [*sizes],
        }
        return without_later(first | own)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, levels={len(self.layers)}, shared_codebook={self.shared_codebook}"
