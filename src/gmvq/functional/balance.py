r"""Make ``reconstruction_loss + out.loss`` work in any units: nats are converted where the two losses meet.

Added as they are, to a mean squared error, say, the nats win and nothing is learned. With the distortion D_q due to
quantization, spread over D features per position, D_q ~ exp(-2 R / D) at a rate of R nats per position, so one nat is
worth -dD_q/dR = 2 D_q / D in units of the user's loss. D_q can be read off the backward pass: with g the gradient of
the user's loss at the quantized latents and e = quantized - latents, a loss that is quadratic around the encoder's
choice has D_q = g.e / 2. The straight-through gradient of the latents meets the same g.e, and is taken here too.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .distributed import all_reduce_sum, world_size

#: Of the mean |e|^2, weighted by itself: added to |e|^2, as the direction of an error of rounding says nothing.
_LEAST = 1e-3
_TINY = torch.finfo(torch.float32).tiny


class _Coupled(torch.autograd.Function):
    """Identity on (quantized, nats); the gradients of ``balance_gradients``."""

    @staticmethod
    def forward(
        ctx: Any,
        quantized: Tensor,
        nats: Tensor,
        latents: Tensor,
        straight_through: bool,
        features: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(quantized - latents)
        ctx.options = straight_through, features
        ctx.set_materialize_grads(False)
        return quantized.clone(), nats.clone()

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        grad_quantized, grad_nats = grads
        straight_through, features = ctx.options
        if grad_quantized is None or not (straight_through or grad_nats is not None):
            return grad_quantized, grad_nats, None, None, None
        (error,) = ctx.saved_tensors
        along, squares = (grad_quantized * error).sum(-1), error.square().sum(-1)
        squares = squares * (along != 0)
        parts = (along, grad_quantized.square(), squares, squares.square())
        sums = all_reduce_sum(torch.stack([part.sum() for part in parts]))
        if grad_nats is not None:
            rate = sums[0].abs() / (features * world_size())
            grad_nats = rate.to(grad_nats.dtype) * grad_nats.sign()
        if not straight_through:
            return grad_quantized, grad_nats, None, None, None
        return (
            grad_quantized,
            grad_nats,
            grad_quantized - _push(along, squares, sums)[:, None] * error,
            None,
            None,
        )


def _push(along: Tensor, squares: Tensor, sums: Tensor) -> Tensor:
    """kappa g.e / |e|^2 of each position, from the sums of g.e, |g|^2, |e|^2 and |e|^4."""
    total, gradient, square, fourth = (part.clamp_min(_TINY) for part in sums.unbind())
    kappa = (total / (gradient.sqrt() * square.sqrt())).sqrt().clamp_max(1.0)
    # A product with _TINY first would be flushed to zero where denormals are, and 0 / 0 is no number.
    return kappa * along / (squares + _LEAST * (fourth / square))


def balance_gradients(
    quantized: Tensor,
    nats: Tensor,
    latents: Tensor,
    *,
    straight_through: bool = False,
    features: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Couple the two outputs so that the gradient of ``nats`` arrives in the units of the loss on ``quantized``.

    The result scales with the reconstruction loss: multiplying the total loss by any factor (a mixed-precision
    scaler, gradient accumulation) multiplies every gradient by that factor. The price is that a weight on this
    term *alone* has no effect on its gradient, only its sign: weigh its parts by the objective's gamma and beta.
    Sums over positions are over all ranks (four numbers, in backward), so that N processes equal one.
    Differentiated on its own, without a reconstruction loss, the gradient is the plain one.

    Args:
        quantized: sample of z, (N, D).
        nats: scalar objective, nats per position.
        latents: what was quantized, (N, D), a constant unless ``straight_through``.
        straight_through: give the latents the gradient g of ``quantized`` too, less a share of what it has along e:
            g - kappa (g.e / |e|^2) e. Taken at the codeword, g pushes a latent further off, though nothing wants it
            there: g = H e of a loss that is quadratic around the latent. Then g and e go together, and kappa =
            sqrt(rho) asks whether they do: rho = max(0, E[g.e]) / sqrt(E|g|^2 E|e|^2) is 1 where g is one multiple of
            e everywhere, 0 where pushes of either sign cancel.
        features: over how many features the error is spread, where not over all D.

    Returns:
        The same two values.
    """
    if not torch.is_grad_enabled():
        return quantized, nats
    latents = latents if straight_through else latents.detach()
    options = straight_through, features or latents.shape[-1]
    return _Coupled.apply(quantized, nats, latents, *options)  # pyright: ignore[reportReturnType]
