"""``GaussianMixtureVQ``: the quantizer layer as a Gaussian mixture, trained on the ALBO."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import (
    check_choice,
    check_finite,
    check_indices,
    check_latents,
    check_mask,
    check_positive,
)
from ..functional.balance import in_units_of_the_reconstruction_loss
from ..functional.distributed import all_reduce_sum, gather_rows, world_size
from ..functional.divergences import (
    categorical_kl,
    entropy,
    entropy_from_logits,
    gaussian_cross_entropy,
    gaussian_kl,
    perplexity,
)
from ..functional.estimators import Estimator, GumbelSoftmax
from ..functional.kmeans import kmeans, nearest_code
from ..functional.mixture import (
    MIN_VARIANCE,
    adaptive_variance,
    expected_squared_distance,
    mixture_logits,
)
from ..types import QuantizerOutput
from .parts import Objective, Precision, Variance

#: log w is stored divided by this, so that an optimizer that moves every parameter by about its learning rate
#: (Adam) moves log w this much faster: at the network's own rate it lags behind the latents.
_LOG_PRECISION_GAIN = 10.0


class GaussianMixtureVQ(nn.Module):
    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        objective: Objective = Objective(),
        precision: Precision = Precision(),
        variance: Variance = Variance(),
        estimator: Estimator = GumbelSoftmax(),
        mixture_weights: Literal["uniform", "learned"] = "uniform",
        standardize: bool = True,
        init: Literal["kmeans", "random"] = "kmeans",
        straight_through: bool = False,
        map_back: bool = True,
    ) -> None:
        super().__init__()
        check_positive("dim", dim)
        check_positive("codebook_size", codebook_size)
        check_choice("mixture_weights", mixture_weights, ("uniform", "learned"))
        check_choice("init", init, ("kmeans", "random"))
        self.dim, self.codebook_size = dim, codebook_size
        self.objective, self.precision, self.variance, self.estimator = objective, precision, variance, estimator
        self.mixture_weights, self.standardize, self.init = mixture_weights, standardize, init
        self.straight_through, self.map_back = straight_through, map_back

        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        size = dim if precision.per_feature else 1
        self.log_precision_raw = nn.Parameter(
            torch.zeros(size), requires_grad=precision.fit != "fixed"
        )
        if mixture_weights == "learned":
            self.weight_logits = nn.Parameter(torch.zeros(codebook_size))
        if variance.kind == "learned":
            self.log_code_variance = nn.Parameter(torch.full((codebook_size,), 2 * math.log(variance.sigma)))
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        for name in ("temperature", "gumbel_noise", "sample_noise", "sharpening", "gamma", "beta"):
            self.register_buffer(name, torch.zeros(()))
        self._initialized = False
        self._apply_schedules(None)

    def _apply_schedules(self, progress: float | None) -> None:
        for buffer, schedule in (
            (self.temperature, self.estimator.temperature),
            (self.gumbel_noise, self.estimator.noise),
            (self.sample_noise, self.variance.noise),
            (self.sharpening, self.precision.sharpening),
            (self.gamma, self.objective.gamma),
            (self.beta, self.objective.beta),
        ):
            buffer.fill_(schedule(progress))

    def set_progress(self, progress: float) -> None:
        self._apply_schedules(progress)

    @property
    def log_precision(self) -> Tensor:
        return self.log_precision_raw * _LOG_PRECISION_GAIN

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, seed: int = 0) -> None:
        rows = gather_rows(latents.detach().reshape(-1, self.dim).float())
        if self.standardize:
            self.shift.copy_(rows.mean(0))
            self.scale.copy_(rows.std(0, correction=0).clamp_min(1e-6))
        rows = (rows - self.shift) / self.scale
        if self.init == "kmeans":
            self.codebook.copy_(kmeans(rows, self.codebook_size, seed=seed))
        _, distance = nearest_code(rows, self.codebook)
        self.log_precision_raw.fill_(float(-(distance.mean() / self.dim).clamp_min(1e-4).log()) / _LOG_PRECISION_GAIN)
        self._initialized = True

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        shape, dtype = latents.shape, latents.dtype
        if self.training and not self._initialized:
            self.init_codebook(latents)
        raw = latents.reshape(-1, self.dim).float()
        z = (raw - self.shift) / self.scale
        log_precision = self.log_precision
        sharp = log_precision + self.sharpening.log()
        log_pi = torch.full((self.codebook_size,), -math.log(self.codebook_size))
        logits = mixture_logits(z, self.codebook, sharp, log_pi)
        if not self.training:
            idx = logits.argmax(-1)
            zq = self.codebook[idx]
            out = zq * self.scale + self.shift if self.map_back else zq
            zero = torch.zeros(())
            return QuantizerOutput(out.view(shape), idx.view(shape[:-1]), zero, zero, zero, {})
        log_q = logits.log_softmax(-1)
        q = log_q.exp()
        r = self.estimator.sample(logits, self.temperature, self.gumbel_noise)
        m = r @ self.codebook
        d2 = expected_squared_distance(z, m, r, self.codebook)
        if self.variance.kind == "adaptive":
            v = adaptive_variance(d2.sum(-1), self.dim, self.variance.sigma).clamp_min(MIN_VARIANCE)
        elif self.variance.kind == "fixed":
            v = torch.full_like(z[:, 0], self.variance.sigma**2)
        elif self.variance.kind == "learned":
            v = r @ self.log_code_variance.exp()
        else:
            v = torch.zeros_like(z[:, 0])
        sample = m
        if self.variance.kind != "none":
            sample = m + self.sample_noise * v.sqrt()[:, None] * torch.randn_like(m)
        w_for_latent = log_precision.detach() if self.precision.fit == "ml" else log_precision
        if self.variance.kind == "none":
            latent = torch.zeros(())
        elif self.objective.kind == "literal":
            latent = gaussian_cross_entropy(v, w_for_latent, self.dim).mean()
        else:
            latent = gaussian_kl(v, w_for_latent, self.dim).mean()
        qbar = q.mean(0)
        kl_agg = categorical_kl(qbar, log_pi)
        cond = -(q.detach() * log_q.detach()).sum(-1).mean()
        if self.objective.kind in ("albo", "literal"):
            kl = kl_agg
        elif self.objective.kind == "elbo":
            kl = categorical_kl(q, log_pi).mean()
        else:
            kl = torch.zeros(())
        nats = self.gamma * latent + self.beta * kl
        if self.precision.fit == "ml":
            repeat = self.dim // log_precision.numel()
            e = d2.detach().mean(0)
            if log_precision.numel() == 1:
                e = e.sum()[None]
            mstep = 0.5 * ((log_precision.exp() * e).sum() - repeat * log_precision.sum())
            nats = nats + (mstep - mstep.detach())
        if self.straight_through:
            sample = sample + z - z.detach()
        zq, loss = in_units_of_the_reconstruction_loss(sample, nats, z)
        out = zq * self.scale + self.shift if self.map_back else zq
        idx = logits.argmax(-1)
        terms = dict(kl_aggregate=kl_agg, latent=latent, conditional_entropy=cond, aggregate_entropy=entropy(qbar),
            perplexity=perplexity(torch.bincount(idx, minlength=self.codebook_size).float()),
            log_precision=log_precision.mean(), var=v.mean(), z2=z.square().mean())
        return QuantizerOutput(out.view(shape).to(dtype), idx.view(shape[:-1]), loss, nats, v.log().view(shape[:-1]),
            {k: t.detach() for k, t in terms.items()})
