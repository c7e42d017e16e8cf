"""A linear-Gaussian image model small enough to enumerate: every bound has an exact value to compare."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gmvq.functional.mixture import adaptive_variance
from gmvq.objectives import GaussianLikelihood, LatentModel


def _log_normal(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


@dataclass(frozen=True)
class LinearGaussian:
    """x = A z + noise with z of P positions x D features, each position a mixture of K Gaussians."""

    model: LatentModel
    matrix: Tensor  # (n, P * D)
    sigma_x: float
    positions: int

    @property
    def likelihood(self) -> GaussianLikelihood:
        return GaussianLikelihood(self.sigma_x).double()

    def decode(self, z: Tensor) -> Tensor:
        return z.flatten(1).to(self.matrix) @ self.matrix.T

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) by summing over all codes and integrating z in closed form, (B, n) -> (B,)."""
        n = self.matrix.shape[0]
        covariance = self.sigma_x**2 * torch.eye(n, dtype=torch.float64)
        if not self.model.discrete:
            variance = (-self.model.log_precision).exp().expand(self.model.dim).repeat(self.positions)
            covariance = covariance + self.matrix @ torch.diag(variance) @ self.matrix.T
        terms = []
        for codes in itertools.product(range(self.model.codebook_size), repeat=self.positions):
            mean = self.matrix @ self.model.codebook[list(codes)].flatten()
            weight = self.model.log_weights[list(codes)].sum()
            terms.append(weight + _log_normal(x, mean, covariance))
        return torch.stack(terms).logsumexp(0)

    def expected_log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """E_q log p(x|z) by summing over all codes, z (B, P, D) and x (B, n) -> (B,)."""
        log_q = self.model.log_responsibilities(z.flatten(0, 1)).view(*z.shape[:2], -1)
        shape, n = (*z.shape[:2], self.model.codebook_size), self.matrix.shape[0]
        variance = torch.zeros(shape, dtype=torch.float64)
        if not self.model.discrete:
            variance = self.model.log_variances(z.flatten(0, 1)).exp().view(shape)
        columns = self.matrix.square().sum(0).view(self.positions, -1).sum(-1)
        total = torch.zeros(x.shape[0], dtype=torch.float64)
        for codes in itertools.product(range(self.model.codebook_size), repeat=self.positions):
            index = list(codes)
            p = range(self.positions)
            q = log_q[:, p, index].sum(-1).exp()
            error = (x - self.matrix @ self.model.codebook[index].flatten()).square().sum(-1)
            error = error + (variance[:, p, index] * columns).sum(-1)
            constant = -0.5 * n * math.log(2 * math.pi * self.sigma_x**2)
            total = total + q * (constant - 0.5 * error / self.sigma_x**2)
        return total


MakeProblem = Callable[..., LinearGaussian]


@pytest.fixture
def make_problem() -> MakeProblem:
    """Build a problem; K = 3, D = 2, P = 2, n = 3 unless told."""

    def make(
        codebook_size: int = 3,
        dim: int = 2,
        positions: int = 2,
        n: int = 3,
        sigma_x: float = 0.5,
        discrete: bool = False,
        per_feature: bool = True,
        sharpening: float = 1.0,
    ) -> LinearGaussian:
        generator = torch.Generator().manual_seed(codebook_size + 10 * dim)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        model = LatentModel(
            codebook=normal(codebook_size, dim),
            log_precision=0.5 + 0.3 * normal(dim if per_feature else 1),
            log_weights=(0.5 * normal(codebook_size)).log_softmax(-1),
            code_log_variance=None if discrete else lambda d: adaptive_variance(d, dim).log(),
            sharpening=sharpening,
        )
        return LinearGaussian(model, 0.7 * normal(n, positions * dim), sigma_x, positions)

    return make


@pytest.fixture
def images_and_latents() -> Callable[[LinearGaussian, int], tuple[Tensor, Tensor]]:
    """Images drawn around the codes, and the latents of a linear encoder, (B, n) and (B, P, D)."""

    def draw(problem: LinearGaussian, count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(count)
        codes = torch.randint(problem.model.codebook_size, (count, problem.positions), generator=generator)
        noise = torch.randn(count, problem.positions, problem.model.dim, generator=generator)
        z = problem.model.codebook[codes] + 0.4 * noise.double()
        x = problem.decode(z)
        x = x + problem.sigma_x * torch.randn(x.shape, generator=generator).double()
        return x, z

    return draw
