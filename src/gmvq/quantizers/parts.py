"""The choices of ``GaussianMixtureVQ`` as small frozen objects: objective, precision, variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import check_choice, check_part, check_positive, check_schedule, check_size
from ..functional.estimators import Estimator, GumbelSoftmax
from ..functional.schedules import Constant, Schedule


@dataclass(frozen=True)
class Objective:
    r"""What the layer adds to the negative log-likelihood: gamma * latent + beta * KL, in nats per position.

    ============= ============================================== ==============================
    kind          KL                                             latent
    ============= ============================================== ==============================
    ``albo``      KL(qbar || pi), qbar = batch mean of q(c|x)    KL(N(mu, s_c^2) || N(mu, 1/w))
    ``elbo``      batch mean of KL(q(c|x) || pi)                 the same
    ``literal``   KL(qbar || pi)                                 -E log N(z; mu, 1/w)
    ============= ============================================== ==============================

    Args:
        kind: one of the above. ``literal`` is the paper's form: no bound, see docs/mathematics.md.
        gamma: weight of the latent term. 0, the default, is the bound of the discrete model z = mu_c, which is the
            one that eval runs; 1 is the literature's.
        beta: weight of the KL; 1 is the literature's GM-VQ, more its "+ Entropy", 0 leaves the KL out.
        commitment: how strongly, in the encoder's gradient alone, latents are pulled to their codewords, in units of
            the push of the quantization error (``functional.balance.balance_gradients``). The objective leaves it out.
    """

    kind: Literal["albo", "elbo", "literal"] = "albo"
    gamma: Schedule = Constant(0.0)
    beta: Schedule = Constant(3.0)
    commitment: float = 0.25

    def __post_init__(self) -> None:
        check_choice("Objective.kind", self.kind, ("albo", "elbo", "literal"))
        if not self.commitment >= 0:
            raise ValueError(f"Objective.commitment must not be negative, got {self.commitment}")


#: Effective features that latents are taken to have, at most.
_EFFECTIVE = 4.0


@dataclass(frozen=True)
class Precision:
    r"""The mixture's precision w = 1 / s_z^2, which follows the latents: 1/w is the running mean squared error per
    feature to the nearest code (the M-step, ``learning``).

    Args:
        per_feature: one value per feature instead of one.
        sharpening: factor on w in q(c|x), over training; above 1, posteriors harden. None, the default, is
            min(D/2, 4) / D: w is a sum over all D features, and latents have about four effective ones.
    """

    per_feature: bool = False
    sharpening: Schedule | None = None

    def factor(self, dim: int) -> Schedule:
        """The sharpening of latents with D features."""
        return Constant(min(dim / 2, _EFFECTIVE) / dim) if self.sharpening is None else self.sharpening


@dataclass(frozen=True)
class Variance:
    r"""The variance of q(z|x, c), s_c^2(x) = \|z - mu_c\|^2 / (2 sigma^2 D), in units of the standardised latents.

    Args:
        sigma: see there. With the default, 2 sigma^2 = 1, a residual of the size that w stands for costs nothing in
            the latent term.
        noise: factor on the standard deviation of the sample of z, over training; 0, the default: z = mu_c.
        noise_limit: the sample of z has at most this share of a component's variance, 1/w with its sharpening. An
            outlier would else get noise as large as its distance, whose gradient throws it further off. s_c^2(x)
            itself, and with it ``log_variance`` and the latent term, has no limit.
    """

    sigma: float = math.sqrt(0.5)
    noise: Schedule = Constant(0.0)
    noise_limit: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Variance.sigma", self.sigma)
        check_positive("Variance.noise_limit", self.noise_limit)


def check_parts(objective: Objective, precision: Precision, variance: Variance, estimator: Estimator) -> None:
    """Raise unless these are objects with what the layer asks of them, and schedules that are not negative."""
    check_part("objective", objective, Objective(), ("kind", "gamma", "beta"))
    check_part("precision", precision, Precision(), ("per_feature", "sharpening"))
    check_part("variance", variance, Variance(), ("sigma", "noise", "noise_limit"))
    check_part("estimator", estimator, GumbelSoftmax(), ("sample", "temperature", "noise"))
    check_schedule("objective.gamma", objective.gamma)
    check_schedule("objective.beta", objective.beta)
    if precision.sharpening is not None:
        check_schedule("precision.sharpening", precision.sharpening, positive=True)
    check_schedule("variance.noise", variance.noise)
    check_schedule("estimator.temperature", estimator.temperature, positive=True)
    check_schedule("estimator.noise", estimator.noise)


def check_counts(start_after: int, support: int | None) -> None:
    """Raise unless the first is a number of batches, and a posterior on so many codes has a gradient."""
    if start_after < 0:
        raise ValueError(f"start_after is a number of batches, 0 or more, got {start_after}")
    if support is not None:
        check_size("support", support)
    if support == 1:
        raise ValueError(
            "support must be at least 2, got 1: a posterior on one code is constant and gives the encoder no gradient"
        )


def level_sizes(
    codebook_size: int | Sequence[int], num_quantizers: int | None, name: str = "num_quantizers"
) -> tuple[int, ...]:
    """K of each level, from one size or from all; 4 levels where ``name``, the argument, does not say how many."""
    if num_quantizers is not None:
        check_size(name, num_quantizers)
    if not isinstance(codebook_size, Sequence):
        check_size("codebook_size", codebook_size)
        return (codebook_size,) * (4 if num_quantizers is None else num_quantizers)
    sizes = tuple(codebook_size)
    if not sizes or num_quantizers not in (None, len(sizes)):
        raise ValueError(
            f"codebook_size={list(sizes)} has the sizes of {len(sizes)} levels and {name} is {num_quantizers}: leave "
            f"{name} out, or give as many sizes as levels"
        )
    for size in sizes:
        check_size("codebook_size", size)
    return sizes
