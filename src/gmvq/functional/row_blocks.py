"""Run a differentiable function of N rows in blocks of rows, and keep nothing of a block but its results.

Backward runs the function again, block by block, with gradients. Memory beyond inputs and results is that of one
block, whatever N is; the price is a second forward, so the function should be the cheap part of a step. Rows that are
one block are run as they are. Gradients are of first order only.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: (row tensors of a block, shared tensors) -> (results per row, results that are sums over rows)
RowFunction = Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]]


def in_row_blocks(
    function: RowFunction, rows: Sequence[Tensor], shared: Sequence[Tensor], block: int
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """``function(*rows, *shared)``, at most ``block`` rows at a time.

    Args:
        function: without side effects or noise of its own: backward calls it again.
        rows: tensors whose first axis is N, cut into blocks.
        shared: tensors that every block sees whole.
        block: rows per block.

    Returns:
        Results per row, concatenated, and sums over rows, added up.
    """
    if rows[0].shape[0] <= block:
        return function(*rows, *shared)
    layout: list[int] = []
    flat = _RowBlocks.apply(function, block, len(rows), layout, *rows, *shared)
    return flat[: layout[0]], flat[layout[0] :]  # pyright: ignore


class _RowBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: RowFunction, block: int, count: int, layout: list[int], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.block, ctx.count = function, block, count
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        rows, shared = tensors[:count], tensors[count:]
        total = rows[0].shape[0]
        results: list[Tensor] = []
        sums: list[Tensor] = []
        for start in range(0, total, block):
            part = slice(start, start + block)
            per_row, added = function(*(tensor[part] for tensor in rows), *shared)
            if not results:
                results = [value.new_empty((total, *value.shape[1:])) for value in per_row]
                sums = [value.clone() for value in added]
            else:
                for value, new in zip(sums, added, strict=True):
                    value.add_(new)
            for value, new in zip(results, per_row, strict=True):
                value[part] = new
        layout.append(len(results))
        ctx.per_row = len(results)
        outputs = (*results, *sums)
        ctx.mark_non_differentiable(*(value for value in outputs if not value.is_floating_point()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, count, block = ctx.saved_tensors, ctx.count, ctx.block
        wanted = ctx.needs_input_grad[4:]
        total = tensors[0].shape[0]
        gradients: list[Tensor | None] = [None] * len(tensors)
        for start in range(0, total, block):
            part = slice(start, start + block)
            inputs = [
                (tensor[part] if i < count else tensor).detach().requires_grad_(wanted[i])
                for i, tensor in enumerate(tensors)
            ]
            # Autocast is off, as in the layer's forward, whatever surrounds the call of backward.
            with torch.enable_grad(), torch.autocast(tensors[0].device.type, enabled=False):
                per_row, added = ctx.function(*inputs)
            pairs = [
                (value, grad[part] if i < ctx.per_row else grad)
                for i, (value, grad) in enumerate(zip((*per_row, *added), grads, strict=True))
                if grad is not None and value.requires_grad
            ]
            if not pairs:
                continue
            leaves = [i for i, want in enumerate(wanted) if want]
            values, upstream = zip(*pairs, strict=True)
            found: Sequence[Tensor | None] = torch.autograd.grad(
                values, [inputs[i] for i in leaves], upstream, allow_unused=True
            )
            for i, grad in zip(leaves, found, strict=True):
                if grad is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    gradients[i] = _accumulate(gradients[i], grad, tensors[i], part if i < count else None)
        return (None, None, None, None, *gradients)


def _accumulate(total: Tensor | None, grad: Tensor, like: Tensor, part: slice | None) -> Tensor:
    """Add a block's gradient: into its rows, or to the sum of a shared tensor."""
    if part is None:
        return grad.clone() if total is None else total.add_(grad)  # autograd may hand out one tensor twice
    total = torch.zeros_like(like) if total is None else total
    total[part] = grad
    return total
