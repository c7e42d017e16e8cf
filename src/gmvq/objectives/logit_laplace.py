"""``LogitLaplaceLikelihood``: absolute error on a logit scale, for values that end at 0 and 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .likelihoods import LaplaceLikelihood

#: [0, 1] is mapped to [_EDGE, 1 - _EDGE], so that the logit stays finite.
_EDGE = 0.1
#: du/dx at 0 and at 1.
_SLOPE = (1.0 - 2.0 * _EDGE) / (_EDGE * (1.0 - _EDGE))


def _logit(x: Tensor) -> Tensor:
    """u(x): the logit of x squeezed into (0, 1), and outside of [0, 1] its tangent there."""
    inside = x.clamp(0.0, 1.0)
    return torch.logit(_EDGE + (1.0 - 2.0 * _EDGE) * inside) + _SLOPE * (x - inside)


def _log_slope(x: Tensor) -> Tensor:
    """log du/dx."""
    squeezed = _EDGE + (1.0 - 2.0 * _EDGE) * x.clamp(0.0, 1.0)
    return math.log(1.0 - 2.0 * _EDGE) - squeezed.log() - (-squeezed).log1p()


class LogitLaplaceLikelihood(LaplaceLikelihood):
    r"""u(x) | z ~ Laplace(u(Dec(z)), b): absolute error of logits, in nats of x.

    .. math:: -\log p(x|z) = n \log(2 b) + \frac{|u(x) - u(Dec(z))|_1}{b} - \sum_i \log u'(x_i),
              \quad u(x) = \operatorname{logit}(\epsilon + (1 - 2 \epsilon) x), \epsilon = 0.1

    Errors near 0 and 1 weigh more, by u'(0) / u'(1/2) = 2.8. Outside of [0, 1], where images have no values and a
    decoder may, u is continued by its tangents: the density is normalised over all real x, and the gradient never
    vanishes. Units: nats per image. ``scale`` is b, in units of u. Source: Ramesh et al. (2021, arXiv 2102.12092),
    with the location given by the reconstruction.

    Example:
        >>> images = torch.rand(4, 3, 8, 8)
        >>> LogitLaplaceLikelihood(0.5).log_prob(images + 0.1, images).shape
        torch.Size([4])
    """

    def deviation(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (_logit(reconstruction) - _logit(target)).abs()

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        value = super().forward(reconstruction, target)
        return value - _log_slope(target.to(value.dtype)).sum() / target.shape[0]

    def log_prob(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        values = super().log_prob(reconstruction, target)
        return values + _log_slope(target.to(values.dtype)).flatten(1).sum(1)
