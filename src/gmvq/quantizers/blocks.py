"""Positions (B, *spatial) in blocks of growing side: means over blocks, and one code for each block, in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .base import masked


class Blocks(NamedTuple):
    """The blocks of one scale: means of the latents (B, *grid, D), numbers of valid positions (B, *grid), the number
    of each block's first valid position, counted down, (B, *grid), -1 where there is none, and the blocks' side.
    """

    means: Tensor
    counts: Tensor
    first: Tensor
    side: int


def positions(latents: Tensor, mask: Tensor | None) -> Blocks:
    """Latents (B, *spatial, D) with a mask (B, *spatial) as blocks of one position each."""
    lead = latents.shape[:-1]
    numbers = torch.arange(math.prod(lead[1:]) - 1, -1, -1, device=latents.device).view(1, *lead[1:])
    counts = latents.new_ones(lead) if mask is None else mask.to(latents.dtype)
    return Blocks(latents, counts, masked(numbers.expand(lead), mask, -1), 1)


def block_means(flat: Tensor, latents: Tensor, mask: Tensor | None, scales: int) -> list[Blocks]:
    """The blocks of each scale, coarsest first, of checked latents (N, D) that came as (B, *spatial, D) with a mask.

    The finest scale has blocks of one position; each coarser one joins two blocks along every axis.
    """
    lead = latents.shape[:-1]
    if not lead:
        raise ValueError(f"a pyramid takes latents (B, *spatial, D), got {tuple(latents.shape)}")
    axes, found = len(lead) - 1, [positions(flat.reshape(latents.shape), mask)]
    sums, counts, first, _ = found[0]
    for number in range(1, scales):
        sums, counts = (halved(values, axes, torch.add, 0) for values in (sums, counts))
        first = halved(first, axes, torch.maximum, -1)
        found.append(Blocks(sums / counts.clamp_min(1.0)[..., None], counts, first, 1 << number))
    return found[::-1]


def scale_places(spatial: Sequence[int], scales: int) -> list[Tensor]:
    """Where the codes of each scale stand in an item's flattened indices (*spatial, n), if no position is masked.

    Example:
        >>> scale_places((3,), 2)
        [tensor([0, 4]), tensor([1, 3, 5])]
    """
    places = torch.arange(scales * math.prod(spatial)).view(*spatial, scales)
    sides = [1 << (scales - number) for number in range(1, scales + 1)]
    return [
        places[(*[slice(None, None, side)] * len(spatial), number)].flatten()
        for number, side in enumerate(sides)
    ]


def halved(values: Tensor, axes: int, together: Callable[[Tensor, Tensor], Tensor], empty: int) -> Tensor:
    """Values (B, *grid, ...) of blocks of twice the side: ``together`` of two neighbours along each axis of the grid.

    At the end of an axis of odd size the second of the two is ``empty``.
    """
    for axis in range(1, axes + 1):
        before = (slice(None),) * axis
        edge = torch.full_like(values.narrow(axis, 0, 1), empty)
        second = torch.cat([values, edge], axis)[(*before, slice(1, None, 2))]
        values = together(values[(*before, slice(0, None, 2))], second)
    return values


def grown(values: Tensor, shape: Sequence[int], side: int) -> Tensor:
    """Values (B, *grid, ...) of blocks, each repeated over its ``side`` positions along the axes of (B, *spatial)."""
    for axis, size in enumerate(shape[1:], start=1):
        values = values.index_select(axis, torch.arange(size, device=values.device) // side)
    return values


def placed(grids: list[Blocks], values: Sequence[Tensor], empty: int) -> Tensor:
    """Values (B, *grid, ...) of the first m scales as (B, *spatial, m, ...): at the first valid position of a block,
    else ``empty``.
    """
    own = grids[-1].first
    columns: list[Tensor] = []
    for grid, value in zip(grids, values, strict=False):
        here = (grown(grid.first, own.shape, grid.side) == own) & (own >= 0)
        columns.append(masked(grown(value, own.shape, grid.side), here, empty))
    return torch.stack(columns, own.ndim)


def block_codes(column: Tensor, halvings: int) -> Tensor:
    """The codes (B, *grid) that stand somewhere in their blocks of a scale's indices (B, *spatial); -1 for none."""
    codes = column
    for _ in range(halvings):
        codes = halved(codes, column.ndim - 1, torch.maximum, -1)
    eager = not torch.compiler.is_compiling() and column.device.type == "cpu"
    if eager and int((column >= 0).sum()) > int((codes >= 0).sum()):
        raise ValueError(
            f"a block of {1 << halvings} positions along each axis has one code, and -1 at its other positions; got "
            "more than one: are these indices of another kind of quantizer?"
        )
    return codes
