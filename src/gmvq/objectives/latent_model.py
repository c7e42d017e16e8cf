"""The densities of a trained quantizer over (c, z), as plain tensors: all that a bound needs of the layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..functional.divergences import categorical_kl, gaussian_cross_entropy, gaussian_kl
from ..functional.mixture import MIN_VARIANCE, mixture_logits


class _HasKind(Protocol):
    @property
    def kind(self) -> str: ...


@runtime_checkable
class MixtureQuantizer(Protocol):
    """What ``LatentModel.of`` reads from a layer; ``gmvq.GaussianMixtureVQ`` has it."""

    @property
    def codebook(self) -> Tensor: ...

    @property
    def log_precision(self) -> Tensor: ...

    @property
    def variance(self) -> _HasKind: ...

    def log_weights(self) -> Tensor: ...

    def standardized(self, latents: Tensor) -> Tensor: ...

    def unstandardized(self, z: Tensor) -> Tensor: ...

    def code_log_variance(self, squared_distance: Tensor) -> Tensor: ...


def _identity(values: Tensor) -> Tensor:
    return values


class LatentTerms(NamedTuple):
    """Per-position terms, each (N,) in nats: KL(q(c|x) || pi), and E_q(c|x) of the two Gaussian terms."""

    categorical: Tensor
    gaussian_kl: Tensor
    gaussian_cross_entropy: Tensor
    log_q: Tensor


class Draws(NamedTuple):
    """Samples c ~ q(c|x), each (N, L): the code, log pi_c - log q(c|x), log s_c^2(x) (None when discrete)."""

    code: Tensor
    log_ratio: Tensor
    log_variance: Tensor | None


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
        codebook: mu, (K, D), in standardised coordinates.
        log_precision: log w, (1,) or (D,).
        log_weights: log pi, (K,), normalised.
        code_log_variance: log s_c^2 from the squared distances (..., K) of a position to the K codes; the
            result must broadcast to (..., K). None for the discrete model.
        sharpening: factor on w in q(c|x) only; any value leaves the bounds valid.
        standardized: maps latents to z, the coordinates of the codebook.
        unstandardized: its inverse, what the decoder reads.
    """

    codebook: Tensor
    log_precision: Tensor
    log_weights: Tensor
    code_log_variance: Callable[[Tensor], Tensor] | None
    sharpening: float = 1.0
    standardized: Callable[[Tensor], Tensor] = _identity
    unstandardized: Callable[[Tensor], Tensor] = _identity

    @classmethod
    def of(cls, quantizer: MixtureQuantizer, *, discrete: bool = False) -> LatentModel:
        """Read the densities of a layer; nothing is copied.

        Args:
            quantizer: see ``MixtureQuantizer``; a ``sharpening`` attribute is used if there is one.
            discrete: score the model whose z is mu_c exactly, as the test-time path of every layer is.
                A layer with ``variance.kind == "none"`` is always discrete.
        """
        discrete = discrete or quantizer.variance.kind == "none"
        return cls(
            codebook=quantizer.codebook,
            log_precision=quantizer.log_precision,
            log_weights=quantizer.log_weights(),
            code_log_variance=None if discrete else quantizer.code_log_variance,
            sharpening=float(getattr(quantizer, "sharpening", 1.0)),
            standardized=quantizer.standardized,
            unstandardized=quantizer.unstandardized,
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
        """D."""
        return self.codebook.shape[1]

    def in_float64(self) -> LatentModel:
        """The same densities with every tensor in float64 (float32 where the device has none), detached."""
        dtype = torch.float32 if self.codebook.device.type == "mps" else torch.float64
        return LatentModel(
            self.codebook.detach().to(dtype),
            self.log_precision.detach().to(dtype),
            self.log_weights.detach().to(dtype),
            self.code_log_variance,
            self.sharpening,
            self.standardized,
            self.unstandardized,
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

    def blocks(self, z: Tensor, block: int = 4096) -> Iterator[LatentTerms]:
        """The exact latent terms of z (N, D), at most ``block`` rows at a time."""
        for rows in z.split(block):
            log_q = self.log_responsibilities(rows)
            q = log_q.exp()
            kl = cross = rows.new_zeros(rows.shape[0])
            if not self.discrete:
                variance = self.log_variances(rows).exp()
                kl = (q * gaussian_kl(variance, self.log_precision, self.dim)).sum(-1)
                cross = (q * gaussian_cross_entropy(variance, self.log_precision, self.dim)).sum(-1)
            yield LatentTerms(categorical_kl(q, self.log_weights), kl, cross, log_q)

    def draw(
        self, z: Tensor, count: int, generator: torch.Generator | None = None, block: int = 4096
    ) -> Draws:
        """Sample ``count`` codes per row of z (N, D) from q(c|x), at most ``block`` rows at a time."""
        codes, ratios, variances = [], [], []
        for rows in z.split(block):
            log_q = self.log_responsibilities(rows)
            code = torch.multinomial(log_q.exp(), count, replacement=True, generator=generator)
            codes.append(code)
            ratios.append(self.log_weights[code] - log_q.gather(-1, code))
            if not self.discrete:
                variances.append(self.log_variances(rows).gather(-1, code))
        return Draws(torch.cat(codes), torch.cat(ratios), torch.cat(variances) if variances else None)
