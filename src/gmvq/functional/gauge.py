r"""Identities with another gradient, for the two choices of units that change nothing: of latents, and of the loss.

**Latents.** The gradient of standardised latents may not shift or scale all of them at once.

With z = (x - m) / s, where m and s follow x, the model is the same for x and for a x + b. Along these directions the
gradient at z moves the latents and nothing else, and it has no end: m and s follow, and the same gradient is there
again. What is left after a projection,

.. math:: g' = g - \bar g - c \, \frac{\langle g, c \rangle}{\langle c, c \rangle}, \qquad c = z - \bar z,

with means over all valid positions of all ranks, is the gradient within the shapes that the model tells apart. It is
the backward pass of a batch normalisation with one scale, without its noise in the forward pass.

**Loss.** ``reconstruction_loss + out.loss`` works in any units: nats are converted where the two losses meet.
(Added as they are, to a mean squared error, say, the nats win and nothing is learned.) With the distortion D_q due to
quantization, spread over D features per position, D_q ~ exp(-2 R / D) at a rate of R nats per position, so one nat is
worth -dD_q/dR = 2 D_q / D in units of the user's loss. D_q can be read off the backward pass: with g the gradient of
the user's loss at the quantized latents and e = quantized - latents, a loss that is quadratic around the encoder's
choice has D_q = g.e / 2.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .distributed import all_reduce_sum, world_size


def without_shift_and_scale(z: Tensor, present: Tensor | None) -> Tensor:
    """z unchanged, with the projected gradient.

    Args:
        z: standardised latents, (N, D).
        present: (N,), 1 for valid rows and 0 for others, or None for all valid.
    """
    if not z.requires_grad:
        return z
    return _Projection.apply(z, None if present is None else present.to(z.dtype))  # pyright: ignore[reportReturnType]


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


class _ExchangeRate(torch.autograd.Function):
    """Identity on (quantized, nats); backward scales the gradient of ``nats`` by 2 |g.e / 2| / D."""

    @staticmethod
    def forward(
        ctx: Any, quantized: Tensor, nats: Tensor, latents: Tensor, pooled: bool, features: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(quantized - latents)
        ctx.pooled, ctx.features = pooled, features
        ctx.set_materialize_grads(False)
        return quantized.clone(), nats.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_quantized, grad_nats = grads
        if grad_quantized is None or grad_nats is None:
            return grad_quantized, grad_nats, None, None, None
        (error,) = ctx.saved_tensors
        cost = (grad_quantized * error).sum()
        if ctx.pooled:
            cost = all_reduce_sum(cost) / world_size()
        rate = cost.abs() / ctx.features
        return grad_quantized, rate.to(grad_nats.dtype) * grad_nats.sign(), None, None, None


def balance_gradients(
    quantized: Tensor, nats: Tensor, latents: Tensor, *, pooled: bool = False, features: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""Couple the two outputs so that the gradient of ``nats`` arrives in the units of the loss on ``quantized``.

    The result scales with the reconstruction loss: multiplying the total loss by any factor (a mixed-precision
    scaler, gradient accumulation) multiplies every gradient by that factor. The price is that a weight on this
    term *alone* has no effect on its gradient, only its sign: weigh its parts by the objective's gamma and beta.
    Differentiated on its own, without a reconstruction loss, the gradient is the plain one.

    Args:
        quantized: sample of z, (N, D).
        nats: scalar objective, nats per position.
        latents: what was quantized, (N, D), taken as constant.
        features: over how many features the error is spread, where not over all D.
        pooled: average the rate over all ranks (one number, in backward), so that N processes equal one.

    Returns:
        The same two values.
    """
    if not torch.is_grad_enabled():
        return quantized, nats
    return _ExchangeRate.apply(quantized, nats, latents.detach(), pooled, features or latents.shape[-1])  # pyright: ignore[reportReturnType]
