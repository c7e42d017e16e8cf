"""The densities of a trained quantizer over (c, z), as plain tensors: all that a bound needs of the layer."""

# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..functional.divergences import gaussian_cross_entropy
from ..functional.mixture import MIN_VARIANCE, draw_codes, mixture_logits


@runtime_checkable
class MixtureQuantizer(Protocol):
    """What ``LatentModel.of`` reads from a layer; ``gmvq.GaussianMixtureVQ`` has it."""

    @property
    def codebook(self) -> Tensor: ...

    @property
    def log_precision(self) -> Tensor: ...

    def log_weights(self) -> Tensor: ...

    def standardized(self, latents: Tensor) -> Tensor: ...

    def unstandardized(self, z: Tensor) -> Tensor: ...

    def code_log_variance(self, squared_distance: Tensor) -> Tensor: ...


def _identity(values: Tensor) -> Tensor:
    return values


#: Below this a log-probability counts as this: its exponential is 0 in float64, and 0 times it is 0 and not NaN.
_LOG_ZERO = -1e4


class Draws(NamedTuple):
    """Samples c ~ q(c|x), each (N, L): the code, log pi_c - log q(c|x), log s_c^2(x) (None when discrete)."""

    code: Tensor
    log_ratio: Tensor
    log_variance: Tensor | None


class LatentTerms(NamedTuple):
    """Exact terms of N positions, each (N,) in nats but for q, and samples.

    Attributes:
        q: q(c|x), (N, K).
        entropy: H(q(c|x)).
        categorical: KL(q(c|x) || pi).
        gaussian_kl, gaussian_cross_entropy: E_q(c|x) of the two Gaussian terms; 0 for a discrete model.
        draws: one for each uniform number that was given.
    """

    q: Tensor
    entropy: Tensor
    categorical: Tensor
    gaussian_kl: Tensor
    gaussian_cross_entropy: Tensor
    draws: Draws


@dataclass(frozen=True)
class LatentModel:
    r"""p(c), p(z|c), q(c|x) and q(z|x, c) of one latent position.

    ===================== ======================================================
    p(c)                  pi_c
    p(z\|c)               N(mu_c, diag(1/w))
    q(c\|x)               softmax_c(log pi_c - sharpening / 2 sum_d w_d (z - mu_c)_d^2)
    q(z\|x, c)            N(mu_c, s_c^2(x) I)
    ===================== ======================================================

    With ``code_log_variance=None`` the model is *discrete*: z = mu_c without noise in p and in q. That is
    the limit s_c = s_z -> 0, in which the Gaussian term is zero; with s_c -> 0 alone it is infinite.

    Args:
        codebook: mu, (K, d), in standardised coordinates.
        log_precision: log w, (1,) or (d,).
        log_weights: log pi, (K,), normalised.
        code_log_variance: log s_c^2 from the squared distances (..., K) of a position to the K codes; the
            result must broadcast to (..., K). None for the discrete model.
        sharpening: factor on w in q(c|x) only; any value leaves the bounds valid.
        standardized: maps latents (..., D) to z (..., d), the coordinates of the codebook.
        unstandardized: maps z to what the decoder reads, (..., D).
        latent_dim: D, where it is not d.
    """

    codebook: Tensor
    log_precision: Tensor
    log_weights: Tensor
    code_log_variance: Callable[[Tensor], Tensor] | None
    sharpening: float = 1.0
    standardized: Callable[[Tensor], Tensor] = _identity
    unstandardized: Callable[[Tensor], Tensor] = _identity
    latent_dim: int | None = None

    @classmethod
    def of(cls, quantizer: MixtureQuantizer, *, discrete: bool = False) -> LatentModel:
        """Read the densities of a layer; nothing is copied. q(c|x) is on all codes, whatever the layer's ``support``.

        Args:
            quantizer: see ``MixtureQuantizer``; a ``sharpening`` attribute is used if there is one.
            discrete: score the model whose z is mu_c exactly, as the test-time path of every layer is.
        """
        return cls(
            codebook=quantizer.codebook,
            log_precision=quantizer.log_precision,
            log_weights=quantizer.log_weights(),
            code_log_variance=None if discrete else quantizer.code_log_variance,
            sharpening=float(getattr(quantizer, "sharpening", 1.0)),
            standardized=quantizer.standardized,
            unstandardized=quantizer.unstandardized,
            latent_dim=getattr(quantizer, "dim", None),
        )

    @property
    def discrete(self) -> bool:
        """Whether z = mu_c without noise."""
        return self.code_log_variance is None

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.codebook.shape[0]

    @property
    def dim(self) -> int:
        """d."""
        return self.codebook.shape[1]

    def in_float64(self) -> LatentModel:
        """The same densities with every tensor in float64 (float32 where the device has none), detached."""
        dtype = torch.float32 if self.codebook.device.type == "mps" else torch.float64
        return replace(
            self,
            codebook=self.codebook.detach().to(dtype),
            log_precision=self.log_precision.detach().to(dtype),
            log_weights=self.log_weights.detach().to(dtype),
        )

    def log_responsibilities(self, z: Tensor) -> Tensor:
        """log q(c|x), z (N, D) -> (N, K), normalised."""
        log_precision = self.log_precision + math.log(self.sharpening)
        return mixture_logits(z, self.codebook, log_precision, self.log_weights).log_softmax(-1)

    def log_variances(self, z: Tensor) -> Tensor:
        """log s_c^2(x), z (N, D) -> (N, K), at least log ``MIN_VARIANCE``; not for a discrete model."""
        if self.code_log_variance is None:
            raise ValueError("a discrete model has no variance of z: z = mu_c")
        distance = torch.addmm(self.codebook.square().sum(-1), z, self.codebook.T, alpha=-2.0)
        distance = (distance + z.square().sum(-1, keepdim=True)).clamp_min(0.0)
        return self.code_log_variance(distance).to(z).expand_as(distance).clamp_min(math.log(MIN_VARIANCE))

    def blocks(self, z: Tensor, block: int = 4096, uniforms: Tensor | None = None) -> Iterator[LatentTerms]:
        """The exact latent terms of z (N, D), at most ``block`` rows at a time, and draws, in one pass over N x K.

        Args:
            z: positions, (N, D).
            block: rows of the N x K matrices held at once; a few cache-sized blocks are fastest.
            uniforms: (N, L) in [0, 1): each gives a code by the inverse of the distribution function of q(c|x).
        """
        uniforms = z.new_empty(z.shape[0], 0) if uniforms is None else uniforms
        log_weights = self.log_weights.clamp_min(_LOG_ZERO)
        for rows, chances in zip(z.split(block), uniforms.split(block), strict=True):
            log_q = self.log_responsibilities(rows).clamp_min_(_LOG_ZERO)
            q = log_q.exp()
            entropy = -_mean(q, log_q)
            kl = cross = torch.zeros_like(entropy)
            log_variance = None
            if not self.discrete:
                log_variance = self.log_variances(rows)
                # Both terms are affine in s^2 and log s^2, so their mean over c needs only the means of the two.
                cross = gaussian_cross_entropy(_mean(q, log_variance.exp()), self.log_precision, self.dim)
                kl = cross - 0.5 * self.dim * (math.log(2 * math.pi * math.e) + _mean(q, log_variance))
            code = draw_codes(q, chances)
            draws = Draws(
                code,
                log_weights[code] - log_q.gather(-1, code),
                None if log_variance is None else log_variance.gather(-1, code),
            )
            yield LatentTerms(q, entropy, -entropy - q @ log_weights, kl, cross, draws)

    def draw(
        self, z: Tensor, count: int, generator: torch.Generator | None = None, block: int = 4096
    ) -> Draws:
        """Sample ``count`` codes per row of z (N, D) from q(c|x), at most ``block`` rows at a time."""
        uniforms = torch.rand(z.shape[0], count, generator=generator, device=z.device, dtype=z.dtype)
        return join_draws(terms.draws for terms in self.blocks(z, block, uniforms))


def join_draws(parts: Iterable[Draws]) -> Draws:
    """Put the draws of several blocks of positions one below the other."""
    code, log_ratio, log_variance = zip(*parts, strict=True)
    variances = None if log_variance[0] is None else torch.cat(log_variance)
    return Draws(torch.cat(code), torch.cat(log_ratio), variances)


def _mean(q: Tensor, values: Tensor) -> Tensor:
    """sum_c q_c v_c, (N, K) twice -> (N,), without an N x K product."""
    return torch.linalg.vecdot(q, values)
