"""Bounds on log p(x) of a trained model, in nats per image: ELBO, ALBO, importance-weighted bound.

All of them are evaluations: no gradient, the latent part in float64, the decoder as it comes. Put the
decoder in eval mode first. The sum over positions is taken, so a figure is comparable across latent grids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import check_latents, check_mask, check_positive
from .information import AggregatePosterior
from .latent_model import Draws, LatentModel, MixtureQuantizer, join_draws
from .likelihoods import Likelihood

#: Samples of c drawn at once: bounds the memory for any number of samples at N * 64 * 3 numbers.
_DRAWS = 64

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bound:
    """A bound term by term, each (B,), nats per image; ``value = log_likelihood - latent - categorical``."""

    log_likelihood: Tensor
    latent: Tensor
    categorical: Tensor

    @property
    def value(self) -> Tensor:
        """(B,), nats per image."""
        return self.log_likelihood - self.latent - self.categorical


@dataclass(frozen=True)
class _Positions:
    """Latents (B, *P, D) flattened to the rows (N, D) of the valid positions, and the way back."""

    z: Tensor
    image: Tensor
    mask: Tensor | None
    shape: torch.Size
    dtype: torch.dtype

    def sum_per_image(self, values: Tensor) -> Tensor:
        """(N,) -> (B,)."""
        return values.new_zeros(self.shape[0]).index_add_(0, self.image, values)

    def to_latents(self, rows: Tensor, unstandardized: Decode) -> Tensor:
        """(N, D) -> (B, *P, D) in the coordinates and dtype of the decoder, zero where masked."""
        rows = unstandardized(rows.to(self.dtype))
        if self.mask is None:
            return rows.reshape(self.shape)
        full = rows.new_zeros(self.shape)
        full[self.mask] = rows
        return full


def _prepare(
    model: LatentModel | MixtureQuantizer, latents: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[LatentModel, _Positions]:
    model = model if isinstance(model, LatentModel) else LatentModel.of(model)
    latent_dim = model.latent_dim or model.dim
    check_latents(latents, latent_dim)
    if latents.ndim < 2 or latents.shape[0] != target.shape[0]:
        raise ValueError(
            f"latents must have shape (B, ..., {latent_dim}) with the B of target; got {tuple(latents.shape)} "
            f"and target {tuple(target.shape)}"
        )
    check_mask(mask, latents.shape[:-1])
    z = model.standardized(latents)
    model = model.in_float64()
    grid = torch.arange(latents.shape[0], device=latents.device)
    grid = grid.view(-1, *(1,) * (latents.ndim - 2)).expand(latents.shape[:-1])
    if mask is None:
        rows, image = z.reshape(-1, model.dim), grid.reshape(-1)
    else:
        rows, image = z[mask], grid[mask]
    return model, _Positions(rows.to(model.codebook), image, mask, latents.shape, latents.dtype)


def _samples(
    model: LatentModel, positions: _Positions, samples: int, generator: torch.Generator | None, block: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(z, log p(c, z) - log q(c, z|x)) for each sample: (N, D) and (N,)."""
    check_positive("samples", samples)
    for start in range(0, samples, _DRAWS):
        draws = model.draw(positions.z, min(_DRAWS, samples - start), generator, block)
        for index in range(draws.code.shape[1]):
            noise = None if model.discrete else _normal(positions, generator)
            yield _realised(model, draws, index, noise)


def _normal(positions: _Positions, generator: torch.Generator | None) -> Tensor:
    z = positions.z
    return torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)


def _realised(model: LatentModel, draws: Draws, index: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """z of one draw of the codes, with standard normal noise (N, D) unless discrete, and its log-ratio."""
    z, log_ratio = model.codebook[draws.code[:, index]], draws.log_ratio[:, index]
    if draws.log_variance is not None and noise is not None:
        log_variance = draws.log_variance[:, index, None]
        z = z + (0.5 * log_variance).exp() * noise
        excess = 1.0 - model.log_precision.exp() * log_variance.exp()
        gap = model.log_precision + log_variance + excess * noise.square()
        log_ratio = log_ratio + 0.5 * gap.sum(-1)
    return z, log_ratio


def _expected_log_likelihood(
    model: LatentModel,
    positions: _Positions,
    target: Tensor,
    decode: Decode,
    likelihood: Likelihood,
    samples: int,
    generator: torch.Generator | None,
    block: int,
) -> Tensor:
    total = torch.zeros(target.shape[0], device=positions.z.device, dtype=positions.z.dtype)
    for z, _ in _samples(model, positions, samples, generator, block):
        total += likelihood.log_prob(decode(positions.to_latents(z, model.unstandardized)), target).to(total)
    return total / samples


@torch.no_grad()
def elbo(
    model: LatentModel | MixtureQuantizer,
    latents: Tensor,
    target: Tensor,
    decode: Decode,
    likelihood: Likelihood,
    *,
    samples: int = 1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    block: int = 4096,
) -> Bound:
    r"""Evidence lower bound of each image, with both KL terms exact and the likelihood by Monte Carlo.

    .. math:: E_{q(c,z|x)} \log p(x|z)
        - \sum_p \left[ \sum_c q(c|x_p) KL(q(z|x_p,c) \| p(z|c)) + KL(q(c|x_p) \| \pi) \right] \le \log p(x)

    The first term is unbiased for any number of samples, so the mean over a set needs few. A *discrete* model
    (variance kind ``"none"``, or ``LatentModel.of(quantizer, discrete=True)``) has z = mu_c in p and q: the
    Gaussian term, infinite in the limit s_c -> 0 with s_z fixed, is absent, and the bound is
    E_q(c|x) log p(x|mu_c) - KL(q(c|x) || pi). With K = 1 it is the bound of a Gaussian VAE.

    Args:
        model: a trained quantizer, or its densities.
        latents: encoder output, (B, *P, D), before standardisation.
        target: x, (B, ...).
        decode: maps what the decoder reads, (B, *P, D) of ``unstandardized(z)``, to a reconstruction shaped as target.
        likelihood: at its stored scale.
        samples: of (c, z) per image.
        mask: (B, *P), True = valid. Masked positions count for nothing and are decoded from zeros.
        generator: of the samples, on the device of ``latents``.
        block: rows of the N x K matrix held at once.

    Returns:
        The three terms, (B,) each, float64, nats per image.
    """
    model, positions = _prepare(model, latents, target, mask)
    terms = [(t.gaussian_kl, t.categorical) for t in model.blocks(positions.z, block)]
    latent, categorical = (positions.sum_per_image(torch.cat(t)) for t in zip(*terms, strict=True))
    fit = _expected_log_likelihood(model, positions, target, decode, likelihood, samples, generator, block)
    return Bound(fit, latent, categorical)


@torch.no_grad()
def elbo_with_and_without_noise(
    model: LatentModel | MixtureQuantizer,
    latents: Tensor,
    target: Tensor,
    decode: Decode,
    likelihood: Likelihood,
    *,
    aggregate: AggregatePosterior | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    block: int = 4096,
) -> tuple[Bound, Bound]:
    """``elbo`` of a model and of its discrete form, one sample each, in one pass over the N x K posterior.

    The values and the numbers taken from ``generator`` are those of the two calls one after the other.

    Args:
        aggregate: adds up q(c|x) on the way.
        model, latents, target, decode, likelihood, mask, generator, block: as in ``elbo``.
    """
    model, positions = _prepare(model, latents, target, mask)
    options = {"generator": generator, "device": positions.z.device, "dtype": positions.z.dtype}
    first = torch.rand(positions.z.shape[0], 1, **options)
    noise = None if model.discrete else _normal(positions, generator)
    second = torch.rand(positions.z.shape[0], 1, **options)
    kept: list[tuple[Tensor, Tensor, Draws]] = []
    for terms in model.blocks(positions.z, block, torch.cat([first, second], 1)):
        kept.append((terms.gaussian_kl, terms.categorical, terms.draws))
        if aggregate is not None:
            aggregate.add(terms.q, terms.entropy)
    gaussian, categorical, draws = zip(*kept, strict=True)
    latent, categorical = (positions.sum_per_image(torch.cat(t)) for t in (gaussian, categorical))
    joined = join_draws(draws)
    fits = [
        likelihood.log_prob(decode(positions.to_latents(z, model.unstandardized)), target).to(latent)
        for z, _ in (_realised(model, joined, 0, noise), _realised(model, joined, 1, None))
    ]
    return Bound(fits[0], latent, categorical), Bound(fits[1], torch.zeros_like(latent), categorical)


@torch.no_grad()
def albo(
    model: LatentModel | MixtureQuantizer,
    latents: Tensor,
    target: Tensor,
    decode: Decode,
    likelihood: Likelihood,
    *,
    samples: int = 1,
    literal: bool = False,
    aggregate: AggregatePosterior | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    block: int = 4096,
) -> Bound:
    r"""Aggregated-posterior objective of each image: the ELBO with KL(qbar || pi) for KL(q(c|x) || pi).

    .. math:: E_{q(c,z|x)} \log p(x|z)
        - \sum_p \sum_c q(c|x_p) KL(q(z|x_p,c) \| p(z|c)) - P \, KL(\bar q \| \pi)

    The mean over the set that qbar was taken over is the mean ELBO plus P * I_q(x; c), with I_q <= log K:
    *not* a lower bound on log p(x), but one after subtracting P log K. ``literal=True`` replaces the
    Gaussian KL by -E log p(z|c), the paper's form (arXiv 2410.10180); it drops the differential entropy of
    q(z|x, c), which is negative for a small s_c, and no constant makes a bound of it. See
    docs/mathematics.md.

    Args:
        literal: use the Gaussian cross-entropy. Infinite precision is not reached: s_c^2 has a floor.
        aggregate: qbar of a whole set; without it qbar is that of the positions passed in.
        model, latents, target, decode, likelihood, samples, mask, generator, block: as in ``elbo``.

    Returns:
        The three terms, (B,) each, float64, nats per image.
    """
    model, positions = _prepare(model, latents, target, mask)
    here = AggregatePosterior(model.codebook_size, positions.z.device)
    latent_terms: list[Tensor] = []
    for terms in model.blocks(positions.z, block):
        latent_terms.append(terms.gaussian_cross_entropy if literal else terms.gaussian_kl)
        here.add(terms.q, terms.entropy)
    kl = (aggregate or here).kl(model.log_weights).to(positions.z)
    latent = positions.sum_per_image(torch.cat(latent_terms))
    categorical = positions.sum_per_image(kl.expand(positions.z.shape[0]))
    fit = _expected_log_likelihood(model, positions, target, decode, likelihood, samples, generator, block)
    return Bound(fit, latent, categorical)


@torch.no_grad()
def importance_weighted_bound(
    model: LatentModel | MixtureQuantizer,
    latents: Tensor,
    target: Tensor,
    decode: Decode,
    likelihood: Likelihood,
    *,
    samples: int = 64,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    block: int = 4096,
) -> Tensor:
    r"""Importance-weighted lower bound of each image; the ELBO at one sample, log p(x) at infinitely many.

    .. math:: \log \frac1L \sum_{l=1}^{L} p(x|z_l) \prod_p
        \frac{p(z_{lp}|c_{lp}) \, \pi_{c_{lp}}}{q(c_{lp}|x) \, q(z_{lp}|x,c_{lp})}

    In expectation it is at most log p(x) and does not fall with L; a single evaluation may lie above. The
    gap closes slowly when q is far from the posterior, which with many positions is the rule: read it as a
    bound and not as log p(x). Weights are added by log-sum-exp in float64. Memory does not grow with L. For
    a discrete model the two Gaussian densities are absent. Source: arXiv 1509.00519, equation 8.

    Args:
        samples: L.
        model, latents, target, decode, likelihood, mask, generator, block: as in ``elbo``.

    Returns:
        (B,), float64, nats per image.
    """
    model, positions = _prepare(model, latents, target, mask)
    total = torch.full((target.shape[0],), -math.inf, device=positions.z.device, dtype=positions.z.dtype)
    for z, log_ratio in _samples(model, positions, samples, generator, block):
        fit = likelihood.log_prob(decode(positions.to_latents(z, model.unstandardized)), target)
        total = torch.logaddexp(total, fit.to(total) + positions.sum_per_image(log_ratio))
    return total - math.log(samples)
