"""What happens to each position on its own: from z to its sample, and its share of the batch's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.estimators import Estimator
from ..functional.mixture import adaptive_variance, expected_squared_distance, mixture_query
from ..functional.noise import gaussian_noise
from ..functional.row_blocks import in_row_blocks
from ..functional.sampling import Support, mixture_sample
from ..functional.schedules import Constant
from .parts import Variance


class Rows(NamedTuple):
    """Positions: standardised latents z (N, d); mask (N,), 1 for valid ones and 0 for others; noise keys (N, 4)."""

    z: Tensor
    mask: Tensor
    keys: Tensor


class Mixture(NamedTuple):
    """The mixture as the posterior needs it.

    Attributes:
        codebook: mu, (K, d).
        bias: b_c = log pi_c - w |mu_c|^2 / 2, (K,).
        squares: |mu_c|^2, (K,).
        log_precision: log w of q(c|x), its sharpening in it, (1,) or (d,).
        temperature, gumbel_noise, sample_noise: tau, and the factors on both noises, 0-d.
    """

    codebook: Tensor
    bias: Tensor
    squares: Tensor
    log_precision: Tensor
    temperature: Tensor
    gumbel_noise: Tensor
    sample_noise: Tensor


class Drawn(NamedTuple):
    """Of each position, and two sums over valid positions.

    Attributes:
        indices: argmax_c q(c|x), (N,).
        entropy: H(q(c|x)), (N,), nats.
        variance: of the sample, sum_c r_c s_c^2, (N,).
        squared_error: |z - mu_c|^2 of the most probable code, (N,), without gradient.
        sample: of z, (N, d); empty in eval.
        posterior: sum of q(c|x), (K,).
        errors: sum of the squared error to the most probable code, of each feature, (d,); zero in eval.
    """

    indices: Tensor
    entropy: Tensor
    variance: Tensor
    squared_error: Tensor
    sample: Tensor
    posterior: Tensor
    errors: Tensor


def sample_rows(
    rows: Rows,
    mixture: Mixture,
    support: Support,
    variance: Variance,
    estimator: Estimator | None,
) -> Drawn:
    """Sample and measure N positions, in blocks of rows.

    Compiled code is not cut into blocks: the compiler plans its memory. Without an estimator, in eval, z = mu_c at the
    most probable code.
    """
    options = (variance, estimator)
    if torch.compiler.is_compiling():
        return _sample(rows, mixture, support, *options)

    def block(*tensors: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        own, rest = tensors[: len(rows)], tensors[len(rows) :]
        drawn = _sample(Rows(*own), Mixture(*rest[3:]), Support(*rest[:3]), *options)
        return drawn[:-2], drawn[-2:]

    count = block_rows(rows.z.shape[1], mixture.codebook.shape[0], support, rows.z.device)
    per_row, sums = in_row_blocks(block, (*rows, *support), mixture, count)
    return Drawn(*per_row, *sums)


def _sample(
    rows: Rows,
    mixture: Mixture,
    support: Support,
    variance: Variance,
    estimator: Estimator | None,
) -> Drawn:
    """``sample_rows`` at once: a pure function, so that it can run in blocks of rows and again in backward."""
    z, w = rows.z, mixture.log_precision
    drawn = mixture_sample(
        *(
            mixture_query(z, w),
            mixture.codebook,
            mixture.bias,
            mixture.squares,
            rows.mask,
            rows.keys,
            support,
        ),
        estimator=estimator,
        temperature=mixture.temperature,
        noise=mixture.gumbel_noise,
    )
    if estimator is None:
        distance = (z - drawn.mean).square().sum(-1)
        spread = adaptive_variance(distance, z.shape[1], variance.sigma)
        of_rows = (drawn.indices, drawn.entropy, spread, distance.detach(), z[:, :0])
        return Drawn(*of_rows, drawn.aggregate, z.new_zeros(z.shape[1]))
    distance = expected_squared_distance(z, drawn.mean, drawn.second)
    spread = adaptive_variance(distance, z.shape[1], variance.sigma)
    with torch.no_grad():
        errors = (z - F.embedding(drawn.indices, mixture.codebook)).square_()
        squared_error = errors.sum(-1)
        errors.mul_(rows.mask[:, None])
    sample = drawn.mean
    # Not by ``Constant``'s own comparison, which the compiler cannot follow where sizes are symbols.
    if not (isinstance(variance.noise, Constant) and variance.noise.value == 0.0):
        limited = spread.minimum(variance.noise_limit * (-w.detach()).exp().mean())
        sample = sample + mixture.sample_noise * limited.sqrt()[:, None] * gaussian_noise(rows.keys, z)
    of_rows = (drawn.indices, drawn.entropy, spread, squared_error, sample)
    return Drawn(*of_rows, drawn.aggregate, errors.sum(0))


def block_rows(dim: int, codebook_size: int, support: Support, device: torch.device) -> int:
    """Rows per block: a few tensors (block, d) in the cache, and no less work than the (K, d) gradients of a block.

    On all codes a few tensors (block, K), and no fewer rows than a matrix product wants.
    """
    if support.on_all_codes:
        return max((1 << 18 if device.type == "cpu" else 1 << 24) // codebook_size, 16)
    count = max((1 << 17 if device.type == "cpu" else 1 << 22) // dim, codebook_size // 8, 1)
    return count if torch.is_grad_enabled() else 4 * count  # without a graph a block keeps a few tensors only
