"""What happens to each position on its own: from z to its sample, and its share of the batch's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.estimators import Estimator
from ..functional.mixture import expected_squared_distance, mixture_query
from ..functional.noise import gaussian_noise
from ..functional.row_blocks import in_row_blocks
from ..functional.sampling import Support, mixture_sample
from ..functional.schedules import Constant
from .parts import Variance
from .variances import variance_kind


class Rows(NamedTuple):
    """Positions.

    Attributes:
        z: standardised latents, (N, d).
        present: (N,), 1 for valid positions and 0 for others.
        keys: of the noise of each position, (N, 4).
    """

    z: Tensor
    present: Tensor
    keys: Tensor


class Mixture(NamedTuple):
    """The mixture as the posterior needs it.

    Attributes:
        codebook: mu, (K, d).
        bias: b_c = log pi_c - w |mu_c|^2 / 2, (K,).
        of_codes: a number per code whose mean under r is needed, (K,): s_c^2 where it is learned, else |mu_c|^2.
        log_precision: log w of q(c|x), its sharpening in it, (1,) or (d,).
        temperature, gumbel_noise, sample_noise: tau, and the factors on both noises, 0-d.
    """

    codebook: Tensor
    bias: Tensor
    of_codes: Tensor
    log_precision: Tensor
    temperature: Tensor
    gumbel_noise: Tensor
    sample_noise: Tensor


class RowOutputs(NamedTuple):
    """Of each position.

    Attributes:
        indices: argmax_c q(c|x), (N,).
        entropy: H(q(c|x)), (N,), nats.
        variance: of the sample, sum_c r_c s_c^2, (N,).
        squared_error: |z - mu_c|^2 of the most probable code, (N,), without gradient.
        sample: of z, (N, d), with the straight-through gradient beside its own; empty in eval.
        misfit: sum_d w_d (z_d - m_d)^2, (N,), m = sum_c r_c mu_c as a constant; in eval without meaning.
    """

    indices: Tensor
    entropy: Tensor
    variance: Tensor
    squared_error: Tensor
    sample: Tensor
    misfit: Tensor


class RowSums(NamedTuple):
    """Sums over valid positions.

    Attributes:
        posterior: of q(c|x), (K,).
        errors: of the squared error to the most probable code, of each feature, (d,); zero in eval.
    """

    posterior: Tensor
    errors: Tensor


@dataclass(frozen=True)
class RowStep:
    """A pure function of positions and mixture, so that it can run in blocks of rows and run again in backward.

    Attributes:
        variance: of q(z|x, c).
        estimator: of the categorical sample; None in eval, where z = mu_c at the most probable code.
        backend: implementation of ``mixture_sample``.
        straight_through: add the gradient of z itself to that of its sample.
    """

    variance: Variance
    estimator: Estimator | None
    backend: Literal["reference", "chunked", "triton"]
    straight_through: bool = True

    def __call__(self, rows: Rows, mixture: Mixture, support: Support | None) -> tuple[RowOutputs, RowSums]:
        """Sample and measure N positions, with the posterior on ``support``, None for all codes."""
        z, w = rows.z, mixture.log_precision
        drawn = mixture_sample(
            mixture_query(z, w),
            mixture.codebook,
            mixture.bias,
            mixture.of_codes,
            rows.present,
            rows.keys,
            estimator=self.estimator,
            temperature=mixture.temperature,
            noise=mixture.gumbel_noise,
            support=support,
            backend=self.backend,
        )
        kind = variance_kind(self.variance, z.shape[1])
        if self.estimator is None:
            distance = (z - drawn.mean).square().sum(-1)
            out = drawn.indices, drawn.entropy, kind.of_sample(distance, drawn.second), distance.detach()
            return RowOutputs(*out, z[:, :0], distance), RowSums(drawn.aggregate, z.new_zeros(z.shape[1]))
        distance = expected_squared_distance(z, drawn.mean, drawn.second)
        variance = kind.of_sample(distance, drawn.second)
        with torch.no_grad():
            errors = (z - F.embedding(drawn.indices, mixture.codebook)).square_()
            squared_error = errors.sum(-1)
            errors.mul_(rows.present[:, None])
        sample = drawn.mean
        if self.variance.noise != Constant(0.0):
            limit = self.variance.noise_limit * (-w.detach()).exp().mean()
            spread = variance.minimum(limit) if self.variance.kind == "adaptive" else variance
            sample = sample + mixture.sample_noise * spread.sqrt()[:, None] * gaussian_noise(rows.keys, z)
        if self.straight_through:
            sample = sample + (z - z.detach())
        misfit = ((z - drawn.mean.detach()).square() * w.detach().exp()).sum(-1)
        out = RowOutputs(drawn.indices, drawn.entropy, variance, squared_error, sample, misfit)
        return out, RowSums(drawn.aggregate, errors.sum(0))


def run_rows(
    step: RowStep, rows: Rows, mixture: Mixture, support: Support | None
) -> tuple[RowOutputs, RowSums]:
    """``step`` on all positions: in blocks of rows where a support makes its work small, else at once.

    Compiled code is not cut into blocks: the compiler plans its memory.
    """
    if support is None or step.backend == "reference" or torch.compiler.is_compiling():
        return step(rows, mixture, support)

    def block(*tensors: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        own, rest = tensors[: len(rows)], tensors[len(rows) :]
        return step(Rows(*own), Mixture(*rest[3:]), Support(*rest[:3]))

    count = block_rows(rows.z.shape[1], mixture.codebook.shape[0], rows.z.device)
    if not torch.is_grad_enabled():
        count *= 4  # without a graph a block keeps a few tensors only
    per_row, sums = in_row_blocks(block, (*rows, *support), mixture, count)
    return RowOutputs(*per_row), RowSums(*sums)


def block_rows(dim: int, codebook_size: int, device: torch.device) -> int:
    """Rows per block: a few tensors (block, d) in the cache, and no less work than the (K, d) gradients of a block."""
    values = 1 << 16 if device.type == "cpu" else 1 << 22
    return max(values // dim, codebook_size // 8, 1)
