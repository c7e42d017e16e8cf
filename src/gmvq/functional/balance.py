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

from .distributed import all_reduce_sum, world_size

#: Of the mean |u|^2: added to |u|^2, as the direction of an error of rounding says nothing.
_LEAST = 1e-3
#: Positions per feature that the ridge counts at most: sums in float32 tell no smaller errors along a direction.
_MOST = 100.0
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
        commitment: float,
        features: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(quantized - latents)
        ctx.options = straight_through, commitment, features
        ctx.set_materialize_grads(False)
        return quantized.clone(), nats.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_quantized, grad_nats = grads
        straight_through, commitment, features = ctx.options
        if grad_quantized is None or not (straight_through or grad_nats is not None):
            return grad_quantized, grad_nats, None, None, None, None
        (error,) = ctx.saved_tensors
        grad_latents = None
        if straight_through:
            with torch.autocast(error.device.type, enabled=False):
                pushed, along = _push(grad_quantized, error, commitment)
            grad_latents = grad_quantized - pushed
        else:
            along = all_reduce_sum((grad_quantized * error).sum())
        if grad_nats is not None:
            rate = along.abs() / (features * world_size())
            grad_nats = rate.to(grad_nats.dtype) * grad_nats.sign()
        return grad_quantized, grad_nats, grad_latents, None, None, None


def _push(gradient: Tensor, error: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
    """What ``balance_gradients`` takes from gradients g, (N, D), at errors e, (N, D), and the sum of g.e, 0-d."""
    dtype, dim = gradient.dtype, gradient.shape[-1]
    gradient, error = (part.to(torch.promote_types(dtype, torch.float32)) for part in (gradient, error))
    counted = (gradient * error).sum(-1, keepdim=True) != 0
    error = error * counted
    parts = (error.T @ error, error.T @ gradient, gradient.square().sum(), counted.sum())
    sums = all_reduce_sum(torch.cat([part.to(gradient).reshape(-1) for part in parts]))
    squares, products = sums[: 2 * dim * dim].reshape(2, dim, dim)
    total, count = sums[-2].clamp_min(_TINY), sums[-1].clamp_min(1.0)
    curvature = _curvature(squares, products, total, count)
    push = error @ curvature
    explained, pushes = (
        (curvature * products).sum(),
        (curvature * (curvature @ squares)).sum().clamp_min(_TINY),
    )
    kappa = _correlation(explained, total, pushes).sqrt()
    own = (push.square().sum(-1, keepdim=True) + _LEAST * pushes / count).clamp_min(_TINY)
    shares = kappa * (gradient * push).sum(-1, keepdim=True) / own
    return ((shares + commitment) * push).to(dtype), products.trace()


def _curvature(squares: Tensor, products: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """H, (D, D), of the sums of e e^T, e g^T and |g|^2 over positions: ridge regression of g on e.

    The ridge draws towards one curvature for all directions; where that is negative, H is zero.
    """
    along, square = products.trace(), squares.trace().clamp_min(_TINY)
    certainty = _correlation(along, total, square).square()
    one = torch.eye(len(squares), dtype=squares.dtype, device=squares.device) / count.clamp_max(
        _MOST * len(squares)
    )
    factor, _ = torch.linalg.cholesky_ex(certainty * squares / square + one)
    curvature = certainty * products / square + along / square * one
    for triangle, upper in ((factor, False), (factor.T, True)):  # MPS has no ``cholesky_solve``
        curvature = torch.linalg.solve_triangular(triangle, curvature, upper=upper)
    return (curvature + curvature.T) * (0.5 * (along > 0))


def _correlation(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Of sums of a.b, |a|^2 and |b|^2, and zero where it is negative."""
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
            further off, though nothing wants it there. H is fitted by least squares over the batch, g ~ H e,
            symmetric, so that each direction is taken at its own curvature; with u = H e the latents get

                g - (kappa g.u / |u|^2 + commitment) u,   kappa = sqrt(R),   R = max(0, E[g.u]) / sqrt(E|g|^2 E|u|^2).

            The ridge is one position's error over rho^2, rho the R of one curvature for all directions, towards
            which it draws: few positions, or errors that say little, fit no more. Nothing is taken where E[g.e] < 0.
        commitment: what is taken of u besides.
        features: over how many features the error is spread, where not over all D.

    Returns:
        The same two values.
    """
    if not torch.is_grad_enabled():
        return quantized, nats
    latents = latents if straight_through else latents.detach()
    options = straight_through, commitment, features or latents.shape[-1]
    return _Coupled.apply(quantized, nats, latents, *options)  # pyright: ignore[reportReturnType]
