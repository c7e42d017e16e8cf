r"""Bias and variance of a gradient estimator against the exact gradient, with all K^P joint codes enumerated.

The target is the discrete model's loss of one image, with P latent positions and z = mu_c (no Gaussian noise):

.. math:: L = \sum_c q(c|x) f(\mu_c), \quad q(c|x) = \prod_p \mathrm{softmax}(l_p)_{c_p}, \qquad
          \frac{\partial L}{\partial l_{pk}} = \sum_{c: c_p = k} q(c|x) (f(\mu_c) - L)

An estimator's moments are sums over joint codes too: its Gumbel noise is drawn given which codes win, and each joint
code weighs q(c|x). Codes of probability 1e-9 are so counted as exactly as likely ones; plain sampling would miss the
rare large gradients of a sharp posterior and call it accurate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmvq.functional.estimators import Estimator

#: f: samples z (M, B, P, D), M of each image, to losses (M, B).
DecodeLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientError:
    r"""How far single samples g of an estimator lie from the exact gradient e, (B, P, K), for each of B images.

    ``bias`` is the squared \|E g - e\|^2 without ``monte_carlo``, the part that noise adds, so it may be negative;
    ``difference`` E g - e as estimated. Norms are Euclidean in the logits, or with ``metric`` in the parameters.
    """

    bias: Tensor
    variance: Tensor
    exact_norm: Tensor
    exact: Tensor
    difference: Tensor
    monte_carlo: Tensor

    @property
    def error(self) -> Tensor:
        r"""E \|g - e\|^2 = squared bias + variance, (B,)."""
        return self.bias + self.variance

    def relative(self, squared: Tensor) -> Tensor:
        r"""A squared norm (B,) in units of \|e\|^2; 0 / 0 = 0, and infinite where e alone is 0."""
        return torch.where(squared == 0, 0.0, squared / self.exact_norm.square())


def joint_codes(positions: int, codes: int) -> Tensor:
    """All K^P joint codes, (K^P, P)."""
    return torch.cartesian_prod(*[torch.arange(codes)] * positions).reshape(-1, positions)


def exact_gradient(logits: Tensor, codebook: Tensor, decode_loss: DecodeLoss) -> tuple[Tensor, Tensor]:
    """L, (B,), and its gradient dL/dl, (B, P, K), by enumeration.

    ``logits`` are l, (B, P, K), normalised or not; the codebook is (K, D), or (B, P, K, D) where positions have their
    own.
    """
    codes = joint_codes(logits.shape[1], logits.shape[2])
    weights = _weights(logits, codes)
    with torch.no_grad():
        words = codebook.expand(*logits.shape, -1)
        losses = decode_loss(words[:, torch.arange(codes.shape[1]), codes].movedim(1, 0))
    value = (weights * losses).sum(0)
    shares = weights * (losses - value)
    gradient = torch.stack(
        [torch.zeros_like(logits[:, 0].T).index_add(0, code, shares) for code in codes.unbind(1)]
    )
    return value, gradient.permute(2, 0, 1)


def estimator_error(
    logits: Tensor,
    codebook: Tensor,
    decode_loss: DecodeLoss,
    estimator: Estimator,
    temperature: float,
    samples: int,
    generator: torch.Generator | None = None,
    *,
    metric: Tensor | None = None,
) -> GradientError:
    """Moments of ``estimator``, with standard Gumbel noise at tau, about ``exact_gradient``; use float64.

    ``samples`` draws of the noise per image are spread over joint codes in proportion to q(c|x), besides two for each.
    ``metric`` is J J^T, (B, P, K, P, K), J the Jacobian of an image's logits with respect to the parameters whose
    gradient is meant; None for the logits themselves.
    """
    logits = logits.detach().log_softmax(-1)
    exact = exact_gradient(logits, codebook, decode_loss)[1]
    codes = joint_codes(logits.shape[1], logits.shape[2])
    weights = _weights(logits, codes)
    count, first = torch.zeros_like(weights), torch.zeros_like(weights[..., None, None] * logits)
    second = torch.zeros_like(weights)
    for drawn in _allocate(weights, samples).split(256):
        gumbel = _gumbel_given_codes(logits, codes[drawn], generator)
        offset = _gradient(logits, codebook, decode_loss, estimator, temperature, gumbel) - exact
        count.scatter_add_(0, drawn, torch.ones_like(weights[:1]).expand(drawn.shape))
        first.scatter_add_(0, drawn[..., None, None].expand_as(offset), offset)
        second.scatter_add_(0, drawn, _dot(offset, offset, metric))
    first, second = first / count[..., None, None], second / count
    within = (second - _dot(first, first, metric)).clamp_min(0.0) / (count - 1)  # variance of a code's mean
    difference = torch.einsum("mb,mbpk->bpk", weights, first)
    monte_carlo = (weights.square() * within).sum(0)
    bias = _dot(difference, difference, metric) - monte_carlo
    exact_norm = _dot(exact, exact, metric).clamp_min(0.0).sqrt()
    variance = (weights * second).sum(0) - bias
    return GradientError(bias, variance, exact_norm, exact, difference, monte_carlo)


def _weights(logits: Tensor, codes: Tensor) -> Tensor:
    """q(c|x) of joint codes, (M, B)."""
    log_q = logits.log_softmax(-1)
    return sum((log_q[:, p, code] for p, code in enumerate(codes.unbind(1))), torch.zeros(())).exp().T


def _allocate(weights: Tensor, samples: int) -> Tensor:
    """Which joint codes to draw noise for, (2 M + S, B): each twice, and S more at evenly spaced quantiles of q."""
    joint, images = weights.shape
    twice = torch.arange(joint, device=weights.device).repeat(2)[:, None].expand(-1, images)
    levels = (torch.arange(samples, dtype=weights.dtype, device=weights.device) + 0.5) / samples
    cumulative = weights.cumsum(0).T.contiguous()
    more = torch.searchsorted(cumulative, levels.expand(images, -1).contiguous()).clamp_max(joint - 1)
    return torch.cat([twice, more.T])


def _gumbel_given_codes(logits: Tensor, codes: Tensor, generator: torch.Generator | None) -> Tensor:
    r"""Gumbel noise given that logits + g have their maximum at ``codes`` (M, B, P), (M, B, P, K).

    With normalised logits the maximum T is a standard Gumbel variable, and the others are cut off at it:
    g_k = -log(E_k + exp(l_k - T)), E_k exponential.
    """
    shape = (codes.shape[0], *logits.shape)
    exponential = torch.empty(shape, dtype=logits.dtype, device=logits.device).exponential_(
        generator=generator
    )
    winner = codes[..., None]
    highest = -exponential.gather(-1, winner).log()
    others = -(exponential + (logits - highest).exp()).log()
    return others.scatter(-1, winner, highest - logits.expand(shape).gather(-1, winner))


def _gradient(
    logits: Tensor,
    codebook: Tensor,
    decode_loss: DecodeLoss,
    estimator: Estimator,
    temperature: float,
    gumbel: Tensor,
) -> Tensor:
    """The estimator's gradient at one draw of the noise, in the shape of the noise, (M, B, P, K)."""
    leaf = logits.expand(gumbel.shape).reshape(-1, logits.shape[-1]).clone().requires_grad_()
    tau = torch.tensor(temperature, dtype=logits.dtype, device=logits.device)
    with torch.enable_grad():
        sample = estimator.sample(leaf, tau, gumbel.reshape(leaf.shape)).reshape(gumbel.shape)
        words = torch.einsum("mbpk,bpkd->mbpd", sample, codebook.expand(*logits.shape, -1))
        loss = decode_loss(words).sum()
        return torch.autograd.grad(loss, leaf)[0].reshape(gumbel.shape)


def _dot(a: Tensor, b: Tensor, metric: Tensor | None) -> Tensor:
    """Inner product of gradients (..., B, P, K) -> (..., B)."""
    if metric is None:
        return (a * b).sum((-2, -1))
    flat = metric.flatten(3).flatten(1, 2)
    return (torch.einsum("...bi,bij->...bj", a.flatten(-2), flat) * b.flatten(-2)).sum(-1)
