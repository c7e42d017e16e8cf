"""``RaggedGMVQ``: a code for each position, or one for a whole block of them where it says nearly as much."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import check_size
from ..functional.distributed import all_reduce_sum
from ..types import QuantizerOutput
from .base import masked
from .blocks import Blocks, block_means, grown, halved
from .composed import per_position
from .config import to_arguments
from .gaussian_mixture import GaussianMixtureVQ
from .learning import in_backward
from .leaves import at_leaves, best_scales, least_price, to_leaves

#: The highest price that ``distortion_for`` tries, and how often it halves what it knows of a price.
_DEAREST, _HALVINGS = 64.0, 24


class RaggedGMVQ(GaussianMixtureVQ):
    r"""A ``GaussianMixtureVQ`` that can spend fewer codes where there is less to say.

    The grid of latents (B, *spatial, D) is divided into blocks of side 2^(n-1), each of which is a leaf or is divided
    into blocks of half the side, and so on. A leaf has one code, for the mean of its latents, and every one of its
    positions reads that codeword. The tree of an item is the one with the least

    .. math::
        \sum_{\text{leaves}} \Big( \tfrac12 \sum_{i \in \text{leaf}} \sum_d w_d (z_{id} - \mu_{cd})^2
        + \lambda \log K \Big), \qquad z = A (\text{latents} - m) / s

    found exactly. At lambda = 1 this is the trade of the model's own bound: a code of a uniform pi costs log K nats.
    Training draws lambda for each item, uniform in (0, 1), so that encoder and decoder know every size of block. The
    objective is that of the leaves, ``out.nats`` in nats per latent position. What it bounds is in docs/mathematics.md.

    ``forward`` in eval mode and ``encode`` take one of two arguments; without, every position has its own code:

    * ``distortion``: lambda. Blocks share a code where that adds at most lambda log K nats for each code saved. The
      best trade over many items: it gives most codes to those that need them.
    * ``budget``: the most codes that an item may have; of all lambdas the least that keeps to it.

    Indices have shape (B, *spatial), as without blocks: the positions of a leaf have the same index.
    ``code_counts(indices)`` is the number of codes that remain if blocks of one index are written once, as
    ``gmvq encode`` does.

    Args:
        dim, codebook_size, options: as of ``GaussianMixtureVQ``, whose weights this layer can load.
        scales: n; the largest blocks have side 2^(n-1).

    Source of the tree and its pricing: Chou, Lookabaugh and Gray, "Optimal pruning with applications to
    tree-structured source coding and modeling", IEEE Trans. Inf. Theory 35(2), 1989.

    Example:
        >>> quantizer = RaggedGMVQ(dim=16, codebook_size=256)
        >>> quantizer.init_codebook(torch.randn(8, 6, 6, 16))
        >>> indices = quantizer.eval().encode(torch.randn(8, 6, 6, 16), budget=20)
        >>> indices.shape, bool((quantizer.code_counts(indices) <= 20).all())
        (torch.Size([8, 6, 6]), True)
    """

    def __init__(self, dim: int, codebook_size: int, scales: int = 3, **options: Any) -> None:
        super().__init__(dim, codebook_size, **options)
        check_size("scales", scales)
        self.scales = scales

    def forward(
        self,
        latents: Tensor,
        mask: Tensor | None = None,
        *,
        budget: int | None = None,
        distortion: float | Tensor | None = None,
    ) -> QuantizerOutput:
        """Quantize latents (B, *spatial, D), mask (B, *spatial), as ``Quantizer.forward``.

        Args:
            latents, mask: as there.
            budget: the most codes of an item, at least one for each of the largest blocks.
            distortion: lambda, at least 0; a tensor (B,) has one for each item. In training None: drawn.

        Raises:
            TypeError, ValueError: as there; both are given, or one is out of range.
        """
        spending = self._spending(latents, budget, distortion, drawn=self.training)
        if spending is None:
            return super().forward(latents, mask)
        means, leaf, first = self._leaves(latents, mask, spending)
        out = super().forward(means, leaf)
        numbers = torch.stack([leaf.sum(), first.new_tensor(leaf.numel()) if mask is None else mask.sum()])
        numbers = all_reduce_sum(numbers.to(means.dtype)) if self.training else numbers.to(means.dtype)
        share = numbers[0] / numbers[1].clamp_min(1.0)
        return replace(
            per_position(out, share),
            quantized=masked(_spread(out.quantized, first), mask, 0.0).to(latents.dtype),
            indices=masked(_spread(out.indices, first), mask, -1),
            # The gradient is the same: ``balance_gradients`` takes the sign of a weight.
            loss=out.loss * share,
            log_variance=masked(_spread(out.log_variance, first), mask, 0.0),
        )

    @torch.no_grad()
    def encode(
        self,
        latents: Tensor,
        mask: Tensor | None = None,
        *,
        budget: int | None = None,
        distortion: float | Tensor | None = None,
    ) -> Tensor:
        """Indices (B, *spatial) of the eval forward with these arguments; int64, -1 where masked."""
        spending = self._spending(latents, budget, distortion, drawn=False)
        if spending is None:
            return super().encode(latents, mask)
        means, leaf, first = self._leaves(latents, mask, spending)
        return masked(_spread(super().encode(means, leaf), first), mask, -1)

    @torch.no_grad()
    def distortion_for(self, latents: Tensor, error: float, mask: Tensor | None = None) -> Tensor:
        r"""lambda of each item, (B,): the largest whose codes leave no more than this error; for ``distortion``.

        .. math:: \frac{1}{N d} \sum_i |z_i - \mu_{c_i}|^2 \leq \text{error}

        over an item's N valid positions, in units of the standardised latents: 1 is the error of one code that is the
        mean of all. lambda is found by bisection to 4e-6, up to 64, and is 0 where single positions leave more.

        Example:
            >>> quantizer = RaggedGMVQ(dim=16, codebook_size=256)
            >>> latents = torch.randn(8, 6, 6, 16)
            >>> quantizer.init_codebook(latents)
            >>> price = quantizer.eval().distortion_for(latents, error=0.9)
            >>> indices = quantizer.encode(latents, distortion=price)
        """
        z = self.standardized(self._flat(latents, mask)[0]).reshape(*latents.shape[:-1], -1)
        counts = torch.ones_like(z[..., 0]) if mask is None else mask.to(z.dtype)
        codebook = self._held(self.codebook).to(z.dtype)
        low = z.new_zeros(len(z), dtype=torch.float32 if z.device.type == "mps" else torch.float64)
        high = torch.full_like(low, _DEAREST)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            codes = self.encode(latents, mask, distortion=middle).clamp_min(0)
            square = (z - F.embedding(codes, codebook)).square().mean(-1) * counts
            holds = square.flatten(1).sum(1) <= error * counts.flatten(1).sum(1)
            low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
        return low

    def code_counts(self, indices: Tensor) -> Tensor:
        """Number of codes of each item of indices (B, *spatial), (B,): blocks of one index count once."""
        return to_leaves(indices.long(), self.scales)[1]

    def _spending(
        self, latents: Tensor, budget: int | None, distortion: float | Tensor | None, drawn: bool
    ) -> int | Tensor | None:
        """The budget, or lambda of each item, (B,), which may be ``drawn``; None: a code for each position."""
        spatial = isinstance(latents, Tensor) and latents.ndim > 2  # pyright: ignore[reportUnnecessaryIsInstance]
        if budget is not None or distortion is not None:
            if budget is not None and distortion is not None:
                raise ValueError(f"give a budget or a distortion, not both; got {budget} and {distortion}")
            if not spatial:
                raise ValueError(f"blocks need latents (B, *spatial, D), got {tuple(latents.shape)}")
        if not (spatial and self._has_codebook()) or self.scales == 1:
            return None
        if budget is not None:
            return budget
        kind = torch.float32 if latents.device.type == "mps" else torch.float64
        if distortion is not None:
            if not isinstance(distortion, Tensor) and not distortion >= 0:
                raise ValueError(f"distortion must not be negative, got {distortion}")
            return torch.as_tensor(distortion, dtype=kind, device=latents.device).expand(len(latents))
        return torch.rand(len(latents), dtype=kind, device=latents.device) if drawn else None

    @torch.no_grad()
    def _scales(self, grids: list[Blocks], spending: int | Tensor) -> Tensor:
        """The scale of each position's leaf, (B, *spatial)."""
        if self.training and self._learns and not in_backward():
            self.settle()  # else a repeated forward would find another codebook
        valid = [grid.counts > 0 for grid in grids]
        costs = [self._cost(grids[0], grid, scale) for scale, grid in enumerate(grids)]
        nats = math.log(self.codebook_size)
        if isinstance(spending, Tensor):
            return best_scales(costs, valid, spending * nats)
        least = grids[-1].counts[0].numel()
        if spending < least:
            raise ValueError(
                f"budget is at least {least}, a code for each of the largest blocks; got {spending}"
            )

        def within(price: Tensor) -> Tensor:
            first = at_leaves(best_scales(costs, valid, price), [grid.first for grid in grids])
            return _is_leaf(first, grids[0].first).flatten(1).sum(1) <= spending

        # At the cost of the largest block every block is a leaf.
        highest = costs[-1].flatten(1).amax(1) + nats
        return best_scales(costs, valid, least_price(within, highest))

    def _cost(self, positions: Blocks, blocks: Blocks, scale: int) -> Tensor:
        """1/2 sum_d w_d |z - mu|^2 over the positions of each block, for the likeliest code of its mean, (B, *grid)."""
        z = self.standardized(positions.means)
        codes = super().encode(blocks.means, blocks.counts > 0).clamp_min(0)
        error = z - grown(F.embedding(codes, self._held(self.codebook).to(z.dtype)), z.shape[:-1], 1 << scale)
        error = error if error.device.type == "mps" else error.double()
        cost = 0.5 * (error.square() * self.log_precision.to(error.dtype).exp()).sum(-1)
        cost = torch.where(positions.counts > 0, cost, 0.0)
        for _ in range(scale):
            cost = halved(cost, cost.ndim - 1, torch.add, 0)
        return cost

    def _leaves(
        self, latents: Tensor, mask: Tensor | None, spending: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each position: the mean of its leaf, (B, *spatial, D), whether it is the first of a leaf, and which number
        the first one has, both (B, *spatial).
        """
        flat, _ = self._flat(latents, mask)
        grids = block_means(flat, latents, mask, self.scales)[::-1]
        scales = self._scales(grids, spending)
        first = at_leaves(scales, [grid.first for grid in grids])
        means = at_leaves(scales, [grid.means for grid in grids])
        last = first[0].numel() - 1
        return means, _is_leaf(first, grids[0].first), last - first.clamp_min(0)

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        return to_arguments(self, GaussianMixtureVQ) | {"type": "RaggedGMVQ", "scales": self.scales}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scales={self.scales}"


def _is_leaf(first: Tensor, own: Tensor) -> Tensor:
    """Which valid positions, numbered ``own``, are the first of their leaf."""
    return (first == own) & (own >= 0)


def _spread(values: Tensor, first: Tensor) -> Tensor:
    """Values (B, *spatial) or (B, *spatial, D) of the first position of each position's leaf."""
    flat = values.reshape(len(first), -1, *values.shape[first.ndim :])
    places = first.flatten(1)
    places = places if flat.ndim == 2 else places[..., None].expand_as(flat)
    return flat.gather(1, places).reshape(values.shape)
