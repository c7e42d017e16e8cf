"""Blocks of a grid that share one code, as the leaves of a tree: the best tree, and grids of codes to leaves and back.

A grid (B, *spatial) of P positions is divided into blocks of side 2^(n-1); each of them is a leaf, or is divided into
its 2^axes parts, and so on to single positions. A leaf has one code, which stands at each of its positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .blocks import grown, halved

#: Of an interval of prices; float64 tells no more apart.
_HALVINGS = 60


def best_scales(costs: Sequence[Tensor], valid: Sequence[Tensor], price: Tensor) -> Tensor:
    r"""The scale of each position's leaf, (B, *spatial), 0 for a single position, in the tree of least cost.

    .. math:: J_b = \min\Big(\text{cost}_b + \text{price}, \ \sum_{\text{parts of } b} J\Big)

    Args:
        costs: (B, *grid) of each scale, finest first: of a block with one code.
        valid: (B, *grid), whether a block has a valid position; others are no leaves.
        price: (B,), of a leaf.
    """
    each = price.view(-1, *[1] * (costs[0].ndim - 1))
    best, scales = costs[0] + each * valid[0], torch.zeros_like(valid[0], dtype=torch.long)
    for scale in range(1, len(costs)):
        parts, whole = halved(best, best.ndim - 1, torch.add, 0), costs[scale] + each * valid[scale]
        scales = torch.where(grown(whole <= parts, scales.shape, 1 << scale), scale, scales)
        best = torch.minimum(whole, parts)
    return scales


def least_price(enough: Callable[[Tensor], Tensor], highest: Tensor) -> Tensor:
    """The least price (B,) for which ``enough(price)`` (B,) holds, as it does for all above it and for ``highest``."""
    low, high = torch.zeros_like(highest), highest
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        holds = enough(middle)
        low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
    return torch.where(enough(torch.zeros_like(high)), 0.0, high)


def at_leaves(scales: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Values (B, *grid, ...) of the blocks of each scale, finest first -> those of each position's leaf."""
    found = values[0]
    for scale, coarser in enumerate(values[1:], start=1):
        here = scales == scale
        here = here if coarser.ndim == here.ndim else here[..., None]
        found = torch.where(here, grown(coarser, scales.shape, 1 << scale), found)
    return found


def block_numbers(spatial: Sequence[int], scales: int) -> list[int]:
    """Number of blocks of each scale that can be divided, coarsest first."""
    return [math.prod(-(-size >> scale) for size in spatial) for scale in range(scales - 1, 0, -1)]


def divided_blocks(indices: Tensor, scales: int) -> list[Tensor]:
    """Which blocks (B, *grid) of each scale, coarsest first, are divided: those with more than one code.

    Of a block within a block with one code that is no question, and the answer False.
    """
    axes, least, most = indices.ndim - 1, indices, indices
    several: list[Tensor] = []
    for _ in range(scales - 1):
        least = halved(least, axes, torch.minimum, torch.iinfo(indices.dtype).max)
        most = halved(most, axes, torch.maximum, torch.iinfo(indices.dtype).min)
        several.append(least != most)
    return several[::-1]


def leaf_scales(divided: Sequence[Tensor], spatial: Sequence[int]) -> Tensor:
    """The scale of each position's leaf, (B, *spatial), of the blocks that ``divided_blocks`` gives."""
    shape = (len(divided[0]), *spatial)
    found = torch.zeros(shape, dtype=torch.long, device=divided[0].device)
    for scale, blocks in enumerate(divided[::-1], start=1):
        found = torch.where(grown(blocks, shape, 1 << scale), found, scale)
    return found


def corners(spatial: Sequence[int], scales: int, device: torch.device) -> Tensor:
    """The number, in raster order, of the first position of each position's block of each scale, (n, P)."""
    found = [torch.arange(math.prod(spatial), device=device).view(1, *spatial)]
    for scale in range(1, scales):
        part = found[0][(slice(None), *[slice(None, None, 1 << scale)] * len(spatial))]
        found.append(grown(part, found[0].shape, 1 << scale))
    return torch.stack(found).flatten(1)


def first_places(divided: Sequence[Tensor], spatial: Sequence[int]) -> Tensor:
    """The number of the first position of each position's leaf, (B, *spatial)."""
    scales = leaf_scales(divided, spatial)
    numbers = corners(spatial, len(divided) + 1, scales.device)
    return numbers.gather(0, scales.flatten(1)).view(scales.shape)


def to_leaves(indices: Tensor, scales: int) -> tuple[Tensor, Tensor, Tensor]:
    """A grid of codes (B, *spatial) as the fewest leaves.

    Returns:
        Codes of all leaves, one item after another, each item's in raster order of their first positions, (sum,);
        the number of leaves of each item, (B,); and which blocks are divided, (B, F), as ``block_numbers`` counts them.

    Example:
        >>> to_leaves(torch.tensor([[7, 7, 3, 5]]), scales=2)
        (tensor([7, 3, 5]), tensor([3]), tensor([[False,  True]]))
    """
    spatial = indices.shape[1:]
    divided = divided_blocks(indices, scales)
    leaves = _leaves(first_places(divided, spatial))
    return indices[leaves], leaves.flatten(1).sum(1), torch.cat([one.flatten(1) for one in divided], 1)


def from_leaves(
    codes: Tensor, numbers: Tensor, divided: Tensor, spatial: Sequence[int], scales: int
) -> Tensor:
    """The inverse of ``to_leaves``: the grid (B, *spatial)."""
    grids: list[Tensor] = []
    for scale, number in zip(range(scales - 1, 0, -1), block_numbers(spatial, scales), strict=True):
        part, divided = divided[:, :number], divided[:, number:]
        grids.append(part.reshape(-1, *(-(-size >> scale) for size in spatial)))
    first = first_places(grids, spatial)
    leaves = _leaves(first)
    if not torch.equal(leaves.flatten(1).sum(1), numbers):
        raise ValueError("an item has more or fewer codes than its blocks")
    grid = torch.zeros_like(first, dtype=codes.dtype).masked_scatter(leaves, codes)
    return grid.flatten(1).gather(1, first.flatten(1)).view(first.shape)


def tree_bits(indices: Tensor, scales: int) -> Tensor:
    """Bits that say which blocks of grids (B, *spatial) are divided, one for each block that is asked for, (B,)."""
    divided = divided_blocks(indices, scales)
    asked = torch.full_like(indices[:, 0].flatten(1)[:, 0], divided[0][0].numel())
    for above, below in pairwise(divided):
        asked = asked + grown(above, below.shape, 2).flatten(1).sum(1)
    return asked


def _leaves(first: Tensor) -> Tensor:
    """Which positions are the first of their leaf."""
    return first == torch.arange(first[0].numel(), device=first.device).view(first.shape[1:])
