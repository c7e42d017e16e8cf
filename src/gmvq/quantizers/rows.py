"""What happens to each row on its own: from a latent to its sample of z, and its share of the batch's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.estimators import Estimator
from ..functional.mixture import MIN_VARIANCE, adaptive_variance, expected_squared_distance, mixture_query
from ..functional.noise import gaussian_noise
from ..functional.row_blocks import in_row_blocks
from ..functional.sampling import Support, mixture_sample
from ..functional.schedules import Constant
from .parts import Variance


@dataclass(frozen=True)
class RowStep:
    """A pure function of rows and parameters, so that it can run in blocks of rows and run again in backward.

    Attributes:
        variance: of q(z|x, c).
        dim: D.
        estimator: of the categorical sample; None in eval, where z = mu_c at the most probable code.
        backend: implementation of ``mixture_sample``.
        straight_through: add the gradient of z itself to that of its sample.
    """

    variance: Variance
    dim: int
    estimator: Estimator | None
    backend: Literal["reference", "chunked", "triton"]
    straight_through: bool = True

    def __call__(
        self,
        z: Tensor,
        present: Tensor | None,
        keys: Tensor,
        support: Support | None,
        codebook: Tensor,
        bias: Tensor,
        second_moments: Tensor,
        log_precision: Tensor,
        temperature: Tensor,
        gumbel_noise: Tensor,
        sample_noise: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Sample and measure N rows.

        Args:
            z: standardised latents, (N, D).
            present: (N,), 1 for valid rows and 0 for others; None for all valid.
            keys: row keys of the noise, (N, 4).
            support: codes that the posterior lives on; None for all.
            codebook, bias, second_moments: mu (K, D), b (K,), and e (K,) of ``mixture_sample``.
            log_precision: log w with its sharpening, (1,) or (D,).
            temperature, gumbel_noise, sample_noise: 0-d.

        Returns:
            Per row: indices (N,), entropy of q(c|x) (N,), variance of the sample (N,), squared distance to the most
            probable code (N,), and in training the sample of z (N, D), with the straight-through gradient beside its
            own, and sum_d w_d (z_d - m_d)^2 (N,), m = sum_c r_c mu_c as a constant. Sums over valid rows: q(c|x) (K,)
            and, zero in eval, the squared error to the most probable code per feature (D,).
        """
        sample = mixture_sample(
            mixture_query(z, log_precision),
            codebook,
            bias,
            second_moments,
            present,
            keys,
            estimator=self.estimator,
            temperature=temperature,
            noise=gumbel_noise,
            support=support,
            backend=self.backend,
        )
        if self.estimator is None:
            error = (z - sample.mean).square()
            distance = error.sum(-1)
            variance = self._variance(distance, sample.second)
            sums = sample.aggregate, z.new_zeros(self.dim)  # nothing is fitted in eval
            return (sample.indices, sample.entropy, variance, distance.detach()), sums
        variance = self._variance(expected_squared_distance(z, sample.mean, sample.second), sample.second)
        with torch.no_grad():
            error = (z - F.embedding(sample.indices, codebook)).square_()
            distance = error.sum(-1)
            if present is not None:
                error.mul_(present[:, None])
        mean = sample.mean
        if self.variance.kind != "none":
            spread = variance
            if self.variance.kind == "adaptive":
                spread = variance.minimum(self.variance.noise_limit * (-log_precision.detach()).exp().mean())
            if self.variance.noise != Constant(0.0):
                mean = mean + sample_noise * spread.sqrt()[:, None] * gaussian_noise(keys, z)
        if self.straight_through:
            mean = mean + (z - z.detach())
        misfit = ((z - sample.mean.detach()).square() * log_precision.detach().exp()).sum(-1)
        per_row = sample.indices, sample.entropy, variance, distance, mean, misfit
        return per_row, (sample.aggregate, error.sum(0))

    def _variance(self, squared_distance: Tensor, second: Tensor) -> Tensor:
        """Variance of the sample of z, sum_c r_c s_c^2, (N,); 0 for z = mu_c."""
        kind, sigma = self.variance.kind, self.variance.sigma
        if kind == "adaptive":
            return adaptive_variance(squared_distance, self.dim, sigma).clamp_min(MIN_VARIANCE)
        if kind == "learned":
            return second
        return torch.full_like(second, sigma**2 if kind == "fixed" else 0.0)


def run_rows(
    step: RowStep,
    z: Tensor,
    present: Tensor | None,
    keys: Tensor,
    support: Support | None,
    shared: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """``step`` on all rows: in blocks after a search, where its work is small; else at once.

    Compiled code is not cut into blocks: the compiler plans its memory.

    Args:
        step, z, present, keys, support: of ``RowStep``.
        shared: its other arguments.
    """
    if support is None or step.backend == "reference" or torch.compiler.is_compiling():
        return step(z, present, keys, support, *shared)

    def block(
        z: Tensor, present: Tensor, keys: Tensor, *rest: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return step(z, present, keys, Support(*rest[:3]), *rest[3:])

    present = z.new_ones(z.shape[0]) if present is None else present
    count = block_rows(z.shape[1], shared[0].shape[0], z.device)
    if not torch.is_grad_enabled():
        count *= 4  # without a graph a block keeps a few tensors only
    return in_row_blocks(block, (z, present, keys, *support), shared, count)


def block_rows(dim: int, codebook_size: int, device: torch.device) -> int:
    """Rows per block: a few tensors (block, D) in the cache, and no less work than the (K, D) gradients of a block."""
    values = 1 << 16 if device.type == "cpu" else 1 << 22
    return max(values // dim, codebook_size // 8, 1)
