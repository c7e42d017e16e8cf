r"""Make ``reconstruction_loss + out.loss`` work in any units: nats are converted where the two losses meet.

Added as they are, to a mean squared error, say, the nats win and nothing is learned. With the distortion D_q due to
quantization, spread over D features per position, D_q ~ exp(-2 R / D) at a rate of R nats per position, so one nat is
worth -dD_q/dR = 2 D_q / D in units of the user's loss. D_q can be read off the backward pass: with g the gradient of
the user's loss at the quantized latents and e = quantized - latents, a loss that is quadratic around the encoder's
choice has D_q = g.e / 2. The straight-through gradient of the latents meets the same g and e, and is taken here too.
"""

# pyright: reportIncompatibleMethodOverride=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .distributed import all_reduce_sum, world_size

#: Of the mean |u|^2, weighted by itself: added to |u|^2, as the direction of an error of rounding says nothing.
_LEAST = 1e-3
_TINY = torch.finfo(torch.float32).tiny


class _Coupled(torch.autograd.Function):
    """Identity on (quantized, nats); the gradients of ``balance_gradients``."""

    @staticmethod
    def forward(
        ctx: Any, quantized: Tensor, nats: Tensor, latents: Tensor, commitment: float, features: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(quantized - latents)
        ctx.options = commitment, features
        ctx.set_materialize_grads(False)
        return quantized.clone(), nats.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_quantized, grad_nats = grads
        straight_through = ctx.needs_input_grad[2]
        if grad_quantized is None or not (straight_through or grad_nats is not None):
            return grad_quantized, grad_nats, None, None, None
        (error,) = ctx.saved_tensors
        commitment, features = ctx.options
        grad_latents = None
        if straight_through:
            pushed, along = _push(grad_quantized, error, commitment)
            grad_latents = grad_quantized - pushed
        else:
            along = all_reduce_sum((grad_quantized * error).sum())
        if grad_nats is not None:
            rate = along.abs() / (features * world_size())
            grad_nats = rate.to(grad_nats.dtype) * grad_nats.sign()
        return grad_quantized, grad_nats, grad_latents, None, None


def _push(gradient: Tensor, error: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
    """What ``balance_gradients`` takes from gradients g, (N, D), at errors e, (N, D), and the sum of g.e, 0-d."""
    dtype, dim = gradient.dtype, gradient.shape[-1]
    gradient, error = (part.to(torch.promote_types(dtype, torch.float32)) for part in (gradient, error))
    products = gradient * error
    counted = products.sum(-1, keepdim=True) != 0
    squares = error.square() * counted
    parts = (products.sum(0), squares.sum(0), gradient.square().sum()[None], counted.sum(0).to(gradient))
    sums = all_reduce_sum(torch.cat(parts))
    products, squares, total, count = sums[:dim], sums[dim : 2 * dim], sums[-2], sums[-1]
    curvature = _curvature(products, squares, total, count)
    push = error * (curvature * counted)
    pushes = (curvature.square() * squares).sum().clamp_min(_TINY)
    kappa = _correlation((curvature * products).sum(), total, pushes).sqrt()
    own = push.square().sum(-1, keepdim=True)
    mean = all_reduce_sum((own * (own / pushes)).sum())  # a fourth power of gradients would not fit float32
    own = (own + _LEAST * mean).clamp_min(_TINY)
    shares = kappa * (gradient * push).sum(-1, keepdim=True) / own
    return ((shares + commitment) * push).to(dtype), products.sum()


def _curvature(products: Tensor, squares: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """h, (D,), of the sums of g_d e_d and e_d^2, (D,), and of |g|^2, over ``count`` positions: ridge regressions.

    The ridge draws towards one curvature for all features; where that is negative, h is zero.
    """
    along, square = products.sum(), squares.sum()
    certainty = _correlation(along, total, square).square()
    one = 1.0 / (count.clamp_min(1.0) * len(squares))
    curvature = (certainty * products + one * along) / (certainty * squares + one * square).clamp_min(_TINY)
    return curvature.clamp_min(0.0) * (along > 0)


def _correlation(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Of sums of a.b, |a|^2 and |b|^2, and zero where it is negative."""
    first, second = first.clamp_min(_TINY), second.clamp_min(_TINY)
    return (product.clamp_min(0.0) / (first.sqrt() * second.sqrt())).clamp_max(1.0)


def balance_gradients(
    quantized: Tensor,
    nats: Tensor,
    latents: Tensor,
    *,
    straight_through: bool = False,
    commitment: float = 0.0,
    features: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Couple the two outputs so that the gradient of ``nats`` arrives in the units of the loss on ``quantized``.

    The result scales with the reconstruction loss: multiplying the total loss by any factor (a mixed-precision
    scaler, gradient accumulation) multiplies every gradient by that factor. The price is that a weight on this
    term *alone* has no effect on its gradient, only its sign: weigh its parts by the objective's gamma and beta.
    Sums over positions are over all ranks, in backward, so that N processes equal one.
    Differentiated on its own, without a reconstruction loss, the gradient is the plain one.

    Args:
        quantized: sample of z, (N, D).
        nats: scalar objective, nats per position.
        latents: what was quantized, (N, D), a constant unless ``straight_through``.
        straight_through: give the latents the gradient g of ``quantized`` too, less a share of the push in it. g is
            taken at the codeword: of a loss that is quadratic around a latent it is H e, which carries the latent
            further off, though nothing wants it there. Of H the diagonal h is fitted over the batch, each feature at
            its own curvature; with u = h e the latents get

                g - (kappa g.u / |u|^2 + commitment) u,   kappa = sqrt(R),   R = max(0, E[g.u]) / sqrt(E|g|^2 E|u|^2).

            h_d >= 0 is the ridge regression of g_d on e_d; the ridge, one position's error over rho^2, draws towards
            one curvature for all features, rho being the R of that. Nothing is taken where E[g.e] < 0.
        commitment: what is taken of u besides.
        features: over how many features the error is spread, where not over all D.

    Returns:
        The same two values.
    """
    if not torch.is_grad_enabled():
        return quantized, nats
    latents = latents if straight_through else latents.detach()
    return _Coupled.apply(quantized, nats, latents, commitment, features or latents.shape[-1])  # pyright: ignore[reportReturnType]
