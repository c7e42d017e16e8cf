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
class _Problem:
    """Latents (B, *P, D) as z (N, d) of the valid positions, in float64, and the way back to images and their fit."""

    model: LatentModel
    z: Tensor
    image: Tensor
    mask: Tensor | None
    latents: Tensor
    target: Tensor
    decode: Decode
    likelihood: Likelihood

    @staticmethod
    def of(
        model: LatentModel | MixtureQuantizer,
        latents: Tensor,
        target: Tensor,
        decode: Decode,
        likelihood: Likelihood,
        mask: Tensor | None,
    ) -> _Problem:
        model = model if isinstance(model, LatentModel) else LatentModel.of(model)
        latent_dim = model.latent_dim or model.dim
        check_latents(latents, latent_dim)
        if latents.ndim < 2 or latents.shape[0] != target.shape[0]:
            raise ValueError(
                f"latents must have shape (B, ..., {latent_dim}) with the B of target; got {tuple(latents.shape)} "
                f"and target {tuple(target.shape)}"
            )
        check_mask(mask, latents.shape[:-1])
        z, model = model.standardized(latents), model.in_float64()
        image = torch.arange(latents.shape[0], device=latents.device)
        image = image.view(-1, *(1,) * (latents.ndim - 2)).expand(latents.shape[:-1])
        valid = slice(None) if mask is None else mask
        z, image = z[valid].reshape(-1, model.dim), image[valid].reshape(-1)
        return _Problem(model, z.to(model.codebook), image, mask, latents, target, decode, likelihood)

    def per_image(self, values: Tensor) -> Tensor:
        """Sums over positions, (N,) -> (B,)."""
        return values.new_zeros(len(self.latents)).index_add_(0, self.image, values)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p(x|z) of z (N, d), decoded in the dtype of the latents, with zeros where masked; (B,)."""
        read = self.model.unstandardized(z.to(self.latents.dtype))
        if self.mask is not None:
            full = read.new_zeros(self.latents.shape)
            full[self.mask] = read
            read = full
        return self.likelihood.log_prob(self.decode(read.reshape(self.latents.shape)), self.target).to(z)

    def expected_log_likelihood(self, samples: int, generator: torch.Generator | None, block: int) -> Tensor:
        """E_q log p(x|z) by Monte Carlo, (B,)."""
        total = self.z.new_zeros(len(self.latents))
        for z, _ in self.samples(samples, generator, block):
            total += self.log_likelihood(z)
        return total / samples

    def samples(
        self, samples: int, generator: torch.Generator | None, block: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(z, log p(c, z) - log q(c, z|x)) for each sample: (N, d) and (N,)."""
        check_positive("samples", samples)
        for start in range(0, samples, _DRAWS):
            draws = self.model.draw(self.z, min(_DRAWS, samples - start), generator, block)
            for index in range(draws.code.shape[1]):
                yield self.realised(draws, index, None if self.model.discrete else self.normal(generator))

    def normal(self, generator: torch.Generator | None) -> Tensor:
        z = self.z
        return torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)

    def uniform(self, generator: torch.Generator | None) -> Tensor:
        z = self.z
        return torch.rand(len(z), 1, generator=generator, device=z.device, dtype=z.dtype)

    def realised(self, draws: Draws, index: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """z of one draw of the codes, with standard normal noise (N, d) unless discrete, and its log-ratio."""
        model, log_ratio = self.model, draws.log_ratio[:, index]
        z = model.codebook[draws.code[:, index]]
        if draws.log_variance is not None and noise is not None:
            log_variance = draws.log_variance[:, index, None]
            z = z + (0.5 * log_variance).exp() * noise
            excess = 1.0 - model.log_precision.exp() * log_variance.exp()
            gap = model.log_precision + log_variance + excess * noise.square()
            log_ratio = log_ratio + 0.5 * gap.sum(-1)
        return z, log_ratio


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
    (``LatentModel.of(quantizer, discrete=True)``) has z = mu_c in p and q: the
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
    problem = _Problem.of(model, latents, target, decode, likelihood, mask)
    terms = [(t.gaussian_kl, t.categorical) for t in problem.model.blocks(problem.z, block)]
    latent, categorical = (problem.per_image(torch.cat(t)) for t in zip(*terms, strict=True))
    return Bound(problem.expected_log_likelihood(samples, generator, block), latent, categorical)


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
    problem = _Problem.of(model, latents, target, decode, likelihood, mask)
    first = problem.uniform(generator)
    noise = None if problem.model.discrete else problem.normal(generator)
    second = problem.uniform(generator)
    kept: list[tuple[Tensor, Tensor, Draws]] = []
    for terms in problem.model.blocks(problem.z, block, torch.cat([first, second], 1)):
        kept.append((terms.gaussian_kl, terms.categorical, terms.draws))
        if aggregate is not None:
            aggregate.add(terms.q, terms.entropy)
    gaussian, categorical, draws = zip(*kept, strict=True)
    latent, categorical = (problem.per_image(torch.cat(t)) for t in (gaussian, categorical))
    joined = join_draws(draws)
    noisy, discrete = problem.realised(joined, 0, noise)[0], problem.realised(joined, 1, None)[0]
    return (
        Bound(problem.log_likelihood(noisy), latent, categorical),
        Bound(problem.log_likelihood(discrete), torch.zeros_like(latent), categorical),
    )


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
    problem = _Problem.of(model, latents, target, decode, likelihood, mask)
    here = AggregatePosterior(problem.model.codebook_size, problem.z.device)
    latent_terms: list[Tensor] = []
    for terms in problem.model.blocks(problem.z, block):
        latent_terms.append(terms.gaussian_cross_entropy if literal else terms.gaussian_kl)
        here.add(terms.q, terms.entropy)
    kl = (aggregate or here).kl(problem.model.log_weights).to(problem.z)
    latent = problem.per_image(torch.cat(latent_terms))
    categorical = problem.per_image(kl.expand(problem.z.shape[0]))
    return Bound(problem.expected_log_likelihood(samples, generator, block), latent, categorical)


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
    problem = _Problem.of(model, latents, target, decode, likelihood, mask)
    total = problem.z.new_full((len(target),), -math.inf)
    for z, log_ratio in problem.samples(samples, generator, block):
        total = torch.logaddexp(total, problem.log_likelihood(z) + problem.per_image(log_ratio))
    return total - math.log(samples)
