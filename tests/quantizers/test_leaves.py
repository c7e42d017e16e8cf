"""Grids of codes as leaves of a tree, and the best tree, against enumeration."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from gmvq.quantizers.blocks import halved
from gmvq.quantizers.leaves import (
    best_scales,
    block_numbers,
    from_leaves,
    least_price,
    to_leaves,
    tree_bits,
)

SHAPES = [(5,), (4, 4), (7, 6), (3, 2, 5)]


def patchy(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Grids (6, *shape) whose blocks of side 2 and 4 often have one code."""
    random = torch.Generator().manual_seed(seed)
    grid = torch.randint(0, 2, (6, *shape), generator=random)
    for side in (2, 4):
        coarse = torch.randint(0, 9, (6, *(-(-size // side) for size in shape)), generator=random)
        keep = torch.rand(coarse.shape, generator=random) < 0.5
        for axis, size in enumerate(shape, start=1):
            places = torch.arange(size) // side
            coarse, keep = coarse.index_select(axis, places), keep.index_select(axis, places)
        grid = torch.where(keep, coarse, grid)
    return grid


def leaves_of(item: Tensor, side: int) -> list[tuple[tuple[int, ...], int]]:
    """First position and code of each leaf of a grid, block by block."""
    found: list[tuple[tuple[int, ...], int]] = []
    for start in product(*(range(0, size, side) for size in item.shape)):
        block = item[tuple(slice(at, at + side) for at in start)]
        if len(block.unique()) == 1:
            found.append((start, int(block.flatten()[0])))
        else:
            inner = leaves_of(block, side // 2)
            found += [(tuple(a + b for a, b in zip(start, at, strict=True)), code) for at, code in inner]
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_leaves_are_the_blocks_of_one_code(shape) -> None:
    grid = patchy(shape)
    codes, counts, divided = to_leaves(grid, scales=3)
    assert divided.shape == (6, sum(block_numbers(shape, 3)))
    parts = codes.split(counts.tolist())
    for item, part in zip(grid, parts, strict=True):
        assert part.tolist() == [code for _, code in sorted(leaves_of(item, 4))]
    assert counts.min() < grid[0].numel()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scales", [2, 3, 4])
def test_leaves_and_back(shape, scales) -> None:
    grid = patchy(shape, seed=scales)
    codes, counts, divided = to_leaves(grid, scales)
    assert torch.equal(from_leaves(codes, counts, divided, shape, scales), grid)


def test_an_item_needs_as_many_codes_as_leaves() -> None:
    codes, counts, divided = to_leaves(patchy((4, 4)), 3)
    with pytest.raises(ValueError, match="more or fewer codes"):
        from_leaves(codes, counts.flip(0), divided, (4, 4), 3)


def test_a_tree_asks_for_the_parts_of_divided_blocks_alone() -> None:
    grid = torch.zeros(3, 8, 4, dtype=torch.long)
    grid[1, 0, 0] = 1  # one block of side 4 and its four of side 2
    grid[2, 0, 0] = grid[2, 7, 3] = 1
    assert tree_bits(grid, 3).tolist() == [2, 2 + 4, 2 + 8]


def test_the_best_tree_is_that_of_enumeration() -> None:
    """Of a block of 4 x 4: itself, or each of its four of side 2 with one code or with four."""
    random = torch.Generator().manual_seed(0)
    costs = [torch.rand(40, *grid, generator=random).double() for grid in ((4, 4), (2, 2), (1, 1))]
    costs = [cost * size for cost, size in zip(costs, (1.0, 5.0, 25.0), strict=True)]
    valid = [torch.ones_like(cost, dtype=torch.bool) for cost in costs]
    price = torch.rand(40, generator=random).double()
    scales = best_scales(costs, valid, price)
    fine = halved(costs[0], 2, torch.add, 0)
    for item in range(40):
        choices = [float(costs[2][item]) + float(price[item])]
        for merged in product([False, True], repeat=4):
            which = torch.tensor(merged).view(2, 2)
            cost = torch.where(which, costs[1][item] + price[item], fine[item] + 4 * price[item])
            choices.append(float(cost.sum()))
        sides = scales[item]
        got = sum(
            float(((costs[s][item] + price[item]) * (sides[:: 1 << s, :: 1 << s] == s)).sum())
            for s in range(3)
        )
        assert got == pytest.approx(min(choices))
    assert set(scales.unique().tolist()) == {0, 1, 2}


def test_least_price_is_where_it_becomes_true() -> None:
    edges = torch.tensor([0.0, 0.3, 5.0], dtype=torch.float64)
    found = least_price(lambda price: price >= edges, torch.full_like(edges, 8.0))
    torch.testing.assert_close(found, edges)
    assert (found >= edges).all()
