"""The kinds of variance s_c^2(x) of q(z|x, c), one class each; ``parts.Variance`` names them.

``of_sample`` gives the variance of the sample, sum_c r_c s_c^2, (N,), from sum_c r_c |z - mu_c|^2 and sum_c r_c s_c^2
of the kinds that have one value per code; ``log_of_codes`` gives log s_c^2 of every code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional.mixture import MIN_VARIANCE, adaptive_variance
from .parts import Variance


class Adaptive:
    r"""The paper's, :math:`s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 d)`: far from its codeword a code is uncertain."""

    def __init__(self, sigma: float, dim: int) -> None:
        self.sigma, self.dim = sigma, dim

    def of_sample(self, squared_distance: Tensor, of_codes: Tensor) -> Tensor:
        return adaptive_variance(squared_distance, self.dim, self.sigma).clamp_min(MIN_VARIANCE)

    def log_of_codes(self, squared_distance: Tensor, log_variances: Tensor | None) -> Tensor:
        return self.of_sample(squared_distance, squared_distance).log()


class Fixed:
    """sigma^2, whatever code and latent."""

    def __init__(self, sigma: float, dim: int) -> None:
        self.sigma = sigma

    def of_sample(self, squared_distance: Tensor, of_codes: Tensor) -> Tensor:
        return torch.full_like(of_codes, self.sigma**2)

    def log_of_codes(self, squared_distance: Tensor, log_variances: Tensor | None) -> Tensor:
        return torch.full_like(squared_distance, 2 * math.log(self.sigma))


class Learned:
    """One parameter per code."""

    def __init__(self, sigma: float, dim: int) -> None:
        pass

    def of_sample(self, squared_distance: Tensor, of_codes: Tensor) -> Tensor:
        return of_codes

    def log_of_codes(self, squared_distance: Tensor, log_variances: Tensor | None) -> Tensor:
        assert log_variances is not None
        return log_variances.to(squared_distance.dtype)


class Absent:
    """z = mu_c: no spread, and no latent term in the objective."""

    def __init__(self, sigma: float, dim: int) -> None:
        pass

    def of_sample(self, squared_distance: Tensor, of_codes: Tensor) -> Tensor:
        return torch.zeros_like(of_codes)

    def log_of_codes(self, squared_distance: Tensor, log_variances: Tensor | None) -> Tensor:
        return torch.full_like(squared_distance, -math.inf)


VarianceKind = Adaptive | Fixed | Learned | Absent
_KINDS: dict[str, type[VarianceKind]] = {
    "adaptive": Adaptive,
    "fixed": Fixed,
    "learned": Learned,
    "none": Absent,
}


def variance_kind(choice: Variance, dim: int) -> VarianceKind:
    """The variance that ``choice`` names, in d = ``dim`` dimensions."""
    return _KINDS[choice.kind](choice.sigma, dim)
