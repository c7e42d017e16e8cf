"""Functions in row blocks: the same values and gradients as in one piece, and one block of memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from watch import largest_allocation

from gmvq.functional.row_blocks import in_row_blocks


def function(
    x: Tensor, weight: Tensor, shared: Tensor, constant: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    hidden = (x @ shared).tanh() * weight[:, None]
    return (hidden, hidden.argmax(-1), hidden.square().sum(-1)), (hidden.sum(0), constant * hidden.sum())


def tensors(n: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, 3), (n,), (3, 4), (1,))
    return tuple(torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes)


@pytest.mark.parametrize("block", [1, 3, 7, 50])
def test_blocks_change_no_value_and_no_gradient(block) -> None:
    x, weight, shared, constant = tensors(7)
    x.requires_grad_()
    shared.requires_grad_()
    results = []
    for rows, sums in (
        function(x, weight, shared, constant),
        in_row_blocks(function, (x, weight), (shared, constant), block),
    ):
        assert not rows[1].requires_grad
        loss = rows[0].sin().sum() + rows[2].square().sum() + (sums[0] ** 3).sum() + sums[1].exp().sum()
        results.append((*rows, *sums, *torch.autograd.grad(loss, (x, shared))))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_gradients_of_some_outputs_alone_and_none_where_none_is_wanted() -> None:
    x, weight, shared, constant = tensors(7)
    shared.requires_grad_()
    _, sums = in_row_blocks(function, (x, weight), (shared, constant), 3)
    (ours,) = torch.autograd.grad(sums[0].sum(), shared)
    (theirs,) = torch.autograd.grad(function(x, weight, shared, constant)[1][0].sum(), shared)
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        rows, _ = in_row_blocks(function, (x, weight), (shared, constant), 3)
    assert not rows[0].requires_grad


def test_memory_is_that_of_a_block() -> None:
    x, weight, _, constant = (t.float() for t in tensors(1000))
    wide = torch.randn(3, 500).requires_grad_()

    def narrow(
        x: Tensor, weight: Tensor, wide: Tensor, constant: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return ((x @ wide).tanh().sum(-1),), ()

    def step() -> None:
        rows, _ = in_row_blocks(narrow, (x, weight), (wide, constant), 10)
        rows[0].sum().backward()

    assert largest_allocation(step) <= max(10 * 500, x.numel())


def test_one_gradient_for_two_shared_tensors_is_not_added_to_twice() -> None:
    x = torch.randn(6, 3, dtype=torch.float64)
    u, v = (torch.randn(3, dtype=torch.float64).requires_grad_() for _ in range(2))

    def both(x: Tensor, u: Tensor, v: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (x * (u + v),), ()

    rows, _ = in_row_blocks(both, (x,), (u, v), 2)
    for grad in torch.autograd.grad(rows[0].sin().sum(), (u, v)):
        torch.testing.assert_close(grad, (x * (x * (u + v)).cos()).sum(0))


def test_a_second_derivative_is_refused() -> None:
    x, weight, shared, constant = tensors(7)
    shared.requires_grad_()
    rows, _ = in_row_blocks(function, (x, weight), (shared, constant), 3)
    (grad,) = torch.autograd.grad(rows[0].sin().sum(), shared, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()
