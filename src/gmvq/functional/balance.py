r"""Make ``reconstruction_loss + out.loss`` work in any units: nats are converted where the two losses meet.

Added as they are, to a mean squared error, say, the nats win and nothing is learned. With the distortion D_q due to
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
