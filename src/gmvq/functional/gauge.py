r"""What the gradient of standardised latents may not do: shift or scale all latents at once.

With z = (x - m) / s, where m and s follow x, the model is the same for x and for a x + b. Along these directions the
gradient at z moves the latents and nothing else, and it has no end: m and s follow, and the same gradient is there
again. What is left after a projection,

.. math:: g' = g - \bar g - c \, \frac{\langle g, c \rangle}{\langle c, c \rangle}, \qquad c = z - \bar z,

with means over all valid positions of all ranks, is the gradient within the shapes that the model tells apart. It is
the backward pass of a batch normalisation with one scale, without its noise in the forward pass.
"""

# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .distributed import all_reduce_sum


def without_shift_and_scale(z: Tensor, present: Tensor | None) -> Tensor:
    """z unchanged, with the projected gradient.

    Args:
        z: standardised latents, (N, D).
        present: (N,), 1 for valid rows and 0 for others, or None for all valid.
    """
    return _Projection.apply(z, present) if z.requires_grad else z  # pyright: ignore[reportReturnType]


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, present: Tensor | None) -> Tensor:
        ctx.save_for_backward(z, present)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (g,), (z, present) = grads, ctx.saved_tensors
        weights = z.new_ones(z.shape[0]) if present is None else present
        dim = z.shape[1]
        moments = weights @ z, g.sum(0), (z.square().sum(-1) * weights).sum()[None], (g * z).sum()[None]
        sums = all_reduce_sum(torch.cat([*moments, weights.sum()[None]]))
        z_sum, g_sum, zz, gz, total = sums.split([dim, dim, 1, 1, 1])
        total = total.clamp_min(1.0)
        mean = z_sum / total
        spread = (zz - mean @ z_sum).clamp_min(torch.finfo(z.dtype).tiny)
        along = (gz - mean @ g_sum) / spread
        projected = g - (g_sum / total - along * mean) - along * z
        return (projected if present is None else projected * present[:, None]), None
