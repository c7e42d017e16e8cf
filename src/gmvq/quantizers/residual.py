"""``ResidualGMVQ``: a sum of codewords, each level quantizing what the levels before it left over."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_size
from ..types import QuantizerOutput
from .composed import ComposedQuantizer, level_terms
from .gaussian_mixture import GaussianMixtureVQ
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
    reaches it.

    Args:
        dim: D, size of the last axis of the latents.
        codebook_size: K of each level.
        num_quantizers: n.
        shared_codebook: one codebook (K, d) for all levels; scale, precision and projections stay each level's own.
        level_dropout: train on prefixes of random length.
        min_levels: the least length of a prefix.
        options: of every ``GaussianMixtureVQ``.

    Indices and ``log_variance`` have shape (..., n). ``get_codes_from_indices`` takes the indices of the first m
    levels, (..., m).

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
        codebook_size: int,
        num_quantizers: int = 4,
        *,
        shared_codebook: bool = False,
        level_dropout: bool = False,
        min_levels: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(dim, codebook_size)
        check_size("num_quantizers", num_quantizers)
        check_size("min_levels", min_levels)
        if min_levels > num_quantizers:
            raise ValueError(f"min_levels is at most num_quantizers={num_quantizers}, got {min_levels}")
        self.shared_codebook, self.level_dropout, self.min_levels = shared_codebook, level_dropout, min_levels
        self.units = options.pop("units", "standardized")
        check_choice("units", self.units, ("standardized", "latents"))
        self.layers = nn.ModuleList(
            GaussianMixtureVQ(dim, codebook_size, units="latents", **options) for _ in range(num_quantizers)
        )
        for level in self.mixtures[1:]:  # there is a residual once the first has started
            level.start_after, level.straight_through = 0, False
            if shared_codebook:
                level.codebook = self.mixtures[0].codebook
                level.keep_codebook = True
        for level in self.mixtures:
            level.births = not shared_codebook

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape of the indices of one position: (n,)."""
        return (len(self.layers),)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize latents (..., D), mask (...), as ``Quantizer.forward``; indices and log_variance are (..., n)."""
        rows, valid = self._rows(latents, mask)
        reach = self._reach(latents)
        residual, total = rows, torch.zeros_like(rows)
        outs: list[QuantizerOutput] = []
        for number, level in enumerate(self.mixtures):
            active = valid
            if reach is not None and number >= self.min_levels:
                active = reach > number if valid is None else valid & (reach > number)
            if outs and self.training and not self.mixtures[0]._has_codebook():
                active = torch.zeros(
                    len(rows), dtype=torch.bool, device=rows.device
                )  # nothing is left over yet
            out = level(residual, active)
            residual, total = residual - out.quantized.detach(), total + out.quantized
            outs.append(out)
        chances = [1.0 if reach is None else self._chance(number) for number in range(len(outs))]
        nats = sum((chance * out.nats for chance, out in zip(chances, outs, strict=True)), rows.new_zeros(()))
        total, loss = self._couple(total, nats, rows)
        indices = torch.stack([out.indices for out in outs], -1)
        total = self.decoder_units(total) if self.training else self.get_codes_from_indices(indices)
        if valid is not None:
            total = torch.where(valid[:, None], total, 0.0)
        shape = (*latents.shape[:-1], len(outs))
        return QuantizerOutput(
            quantized=total.to(latents.dtype).reshape(latents.shape),
            indices=indices.reshape(shape),
            loss=loss,
            nats=nats,
            log_variance=torch.stack([out.log_variance for out in outs], -1).reshape(shape),
            terms=level_terms(outs),
        )

    @torch.no_grad()
    def encode(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Indices (..., n) of latents (..., D), level by level the most probable code; int64, -1 where masked."""
        residual, valid = self._rows(latents, mask)
        indices = []
        for level in self.mixtures:
            indices.append(level.encode(residual, valid))
            residual = residual - level.get_codes_from_indices(indices[-1]).to(residual.dtype)
        return torch.stack(indices, -1).reshape(*latents.shape[:-1], len(indices))

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Sum of the codewords (..., D) of indices (..., m) of the first m <= n levels; -1 adds nothing.

        Raises:
            TypeError: indices are not integers.
            ValueError: more levels than there are, or an index outside [-1, K).
        """
        if indices.ndim < 1 or not 1 <= indices.shape[-1] <= len(self.layers):
            raise ValueError(
                f"indices must have shape (..., m) with the first m of {len(self.layers)} levels on the last axis, "
                f"got {tuple(indices.shape)}"
            )
        parts = [
            level.get_codes_from_indices(at)
            for level, at in zip(self.mixtures, indices.unbind(-1), strict=False)
        ]
        total = torch.zeros_like(parts[0])
        for part in parts:
            total = total + part
        return torch.where((indices >= 0).any(-1, keepdim=True), self.decoder_units(total), 0.0)

    def decoder_units(self, latents: Tensor) -> Tensor:
        """Latents, or a sum of codewords, as the decoder reads them: standardised by the first level, or as is."""
        return latents if self.units == "latents" else self.mixtures[0]._scaled(latents)

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """The inverse of ``decoder_units``."""
        first = self.mixtures[0]
        return read if self.units == "latents" else first._unscaled(read)

    def _reach(self, latents: Tensor) -> Tensor | None:
        """m of every row, (N,), one draw for each entry of the first axis; None without dropout.

        Nothing is dropped before every level has started, which takes a batch with valid positions.
        """
        if not (
            self.training and self.level_dropout and all(level._has_codebook() for level in self.mixtures)
        ):
            return None
        items = latents.shape[0] if latents.ndim > 1 else 1
        drawn = torch.randint(self.min_levels, len(self.layers) + 1, (items,), device=latents.device)
        return drawn.repeat_interleave(latents.numel() // self.dim // items)

    def _chance(self, number: int) -> float:
        """Chance that an item of a training batch with dropout reaches level ``number`` (from 0)."""
        lengths = len(self.layers) - self.min_levels + 1
        return min(1.0, (len(self.layers) - number) / lengths)

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start every level by k-means on what the levels before it leave of latents (..., D)."""
        residual, _ = self._rows(latents, None)
        for level in self.mixtures:
            level.init_codebook(residual, seed=seed)
            residual = residual - level.get_codes_from_indices(level.encode(residual)).to(residual.dtype)

    def train(self, mode: bool = True) -> ResidualGMVQ:
        """As ``nn.Module.train``; where eval mode starts the first level, it starts the others on what that leaves."""
        first = self.mixtures[0]
        seen = None if mode or first._pool is None else first._pool.rows()
        super().train(mode)
        if seen is not None and first.started:
            with torch.no_grad():
                residual = first._unscaled(seen)
                for level, following in pairwise(self.mixtures):
                    residual = residual - level.get_codes_from_indices(level.encode(residual))
                    start_from(following, residual)
        return self

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        return {
            "type": "ResidualGMVQ",
            "num_quantizers": len(self.layers),
            "shared_codebook": self.shared_codebook,
            "level_dropout": self.level_dropout,
            "min_levels": self.min_levels,
            "units": self.units,
            **{
                key: value
                for key, value in self.mixtures[0].to_config().items()
                if key not in ("type", "units")
            },
        }

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, levels={len(self.layers)}, shared_codebook={self.shared_codebook}"
