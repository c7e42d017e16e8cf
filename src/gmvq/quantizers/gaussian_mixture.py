"""``GaussianMixtureVQ``: vector quantization as a Gaussian mixture, trained on an evidence bound."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import check_choice, check_part, check_schedule
from ..functional.balance import in_units_of_the_reconstruction_loss
from ..functional.distributed import gather_rows
from ..functional.divergences import (
    categorical_kl,
    entropy,
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
from .base import Quantizer
from .config import part_from_dict, part_to_dict
from .parts import Objective, Precision, Variance
from .statistics import batch_statistics, precision_fit, scale_fit

#: Every parameter of the mixture is stored divided by this, so that an optimizer that moves each parameter by about
#: its learning rate per step (Adam) moves the mixture ten times as fast as the network whose latents it follows. At
#: the network's own rate it lags behind them: docs/defaults.md has the figures.
_GAIN = 10.0


class GaussianMixtureVQ(Quantizer):
    r"""Quantize latents to the codewords of a Gaussian mixture.

    With z = latents / s, codebook mu (K, D), precision w and weights pi:

    .. math::
        q(c|x) &= \mathrm{softmax}_c\left(\log \pi_c - \tfrac12 \sum_d w_d (z_d - \mu_{cd})^2\right) \\
        q(z|x, c) &= N(\mu_c, s_c^2(x) I), \qquad s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 D)

    Training draws weights r over codes from q(c|x) by ``estimator`` and returns
    s (sum_c r_c mu_c + sqrt(sum_c r_c s_c^2) eps); eval returns s mu_c at c = argmax q(c|x), deterministically.
    The objective is ``objective``: gamma * latent + beta * KL, in nats per position, mean over valid positions.

    ``out.loss`` and ``out.nats`` hold that one number with two gradients. ``reconstruction_loss + out.loss`` works
    for a reconstruction loss in any units and reduction: the gradient is converted to those units on the way back
    (``gmvq.functional.balance``). Add ``out.nats`` to a negative log-likelihood in nats
    (``gmvq.objectives.negative_evidence`` does).

    The scale s and, with ``Precision(fit="ml")``, w are parameters whose only gradient is that of their own
    log-likelihood given the latents: ``forward`` updates nothing, so a step counts nothing twice under activation
    checkpointing or gradient accumulation, and N processes equal one. (The aggregated KL of two half batches is not
    that of the whole: accumulation keeps its meaning, not its value.) The first training batch starts the codebook
    (``init_codebook``); until then eval uses random codes.

    Args:
        dim: D, size of the last axis of the latents.
        codebook_size: K. K = 1 is a Gaussian bottleneck.
        objective: kind of bound, gamma and beta.
        precision: how w is fitted, and its sharpening.
        variance: of q(z|x, c), and the noise of the sample.
        estimator: gradient estimator of the categorical sample, with temperature and noise.
        mixture_weights: ``"uniform"`` or ``"learned"`` (then nearest code means largest responsibility).
        standardize: fit s to the spread of the latents; ``False`` fixes s = 1.
        init: ``"kmeans"`` on the first training batch, or ``"random"`` points of it.

    Source: Yan, Wu, Shah, Liu, "Gaussian Mixture Vector Quantization with Aggregated Categorical Posterior",
    arXiv 2410.10180. What differs from it and why: docs/mathematics.md.

    Example:
        >>> quantizer = GaussianMixtureVQ(dim=64, codebook_size=1024)
        >>> quantized, indices, loss = quantizer(torch.randn(8, 16, 16, 64))
        >>> quantized.shape, indices.shape, loss.shape
        (torch.Size([8, 16, 16, 64]), torch.Size([8, 16, 16]), torch.Size([]))
    """

    temperature: Tensor
    gumbel_noise: Tensor
    sample_noise: Tensor
    sharpening: Tensor
    gamma: Tensor
    beta: Tensor
    initialized: Tensor

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
    ) -> None:
        super().__init__(dim, codebook_size)
        check_choice("mixture_weights", mixture_weights, ("uniform", "learned"))
        check_choice("init", init, ("kmeans", "random"))
        _check_parts(objective, precision, variance, estimator)
        self.objective, self.precision, self.variance = objective, precision, variance
        self.estimator, self.mixture_weights = estimator, mixture_weights
        self.standardize, self.init = standardize, init

        self.scaled_codebook = nn.Parameter(torch.randn(codebook_size, dim) / _GAIN)
        width = dim if precision.per_feature else 1
        self.scaled_log_precision = nn.Parameter(torch.zeros(width), requires_grad=precision.fit != "fixed")
        self.scaled_log_scale = nn.Parameter(torch.zeros(1), requires_grad=standardize)
        if mixture_weights == "learned":
            self.scaled_weight_logits = nn.Parameter(torch.zeros(codebook_size))
        if variance.kind == "learned":
            self.scaled_log_variance = nn.Parameter(
                torch.full((codebook_size,), 2 * math.log(variance.sigma) / _GAIN)
            )
        for name in ("temperature", "gumbel_noise", "sample_noise", "sharpening", "gamma", "beta"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("initialized", torch.tensor(False))
        self._started = False
        self._apply_schedules(None)
        self.register_load_state_dict_post_hook(_after_load)

    # Schedules, optimizer, config

    def set_progress(self, progress: float) -> None:
        """Advance every schedule to ``progress`` in [0, 1] of training; call it before a step, as often as you like.

        Raises:
            ValueError: progress outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is the fraction of training done, 0 to 1, got {progress}")
        self._apply_schedules(progress)

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

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups at the network's rate ``lr`` (the mixture's faster rate is built in), without decay."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": 0.0}]

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as a JSON-able dictionary; ``gmvq.quantizers.from_config`` inverts it."""
        return {
            "type": "GaussianMixtureVQ",
            "dim": self.dim,
            "codebook_size": self.codebook_size,
            "objective": part_to_dict(self.objective),
            "precision": part_to_dict(self.precision),
            "variance": part_to_dict(self.variance),
            "estimator": part_to_dict(self.estimator),
            "mixture_weights": self.mixture_weights,
            "standardize": self.standardize,
            "init": self.init,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GaussianMixtureVQ:
        """Build an untrained layer from ``to_config``'s dictionary."""
        return cls(**{key: part_from_dict(value) for key, value in config.items() if key != "type"})

    # The mixture

    @property
    def codebook(self) -> Tensor:
        """mu, (K, D), in standardised units; ``get_codes_from_indices`` gives codewords in units of the latents."""
        return self.scaled_codebook * _GAIN

    @property
    def log_precision(self) -> Tensor:
        """log w, (1,) or (D,), without sharpening; w is in units of the standardised latents."""
        return self.scaled_log_precision * _GAIN

    @property
    def log_scale(self) -> Tensor:
        """log s, (1,): one standardised unit in units of the latents."""
        return self.scaled_log_scale * _GAIN

    def log_weights(self) -> Tensor:
        """log pi, (K,), normalised, in float32 at least."""
        dtype = torch.promote_types(self.scaled_codebook.dtype, torch.float32)
        if self.mixture_weights == "learned":
            return (self.scaled_weight_logits * _GAIN).to(dtype).log_softmax(-1)
        return self.scaled_codebook.new_full(
            (self.codebook_size,), -math.log(self.codebook_size), dtype=dtype
        )

    def standardized(self, latents: Tensor) -> Tensor:
        """z = latents / s, (..., D)."""
        return latents * (-self.log_scale.detach().to(latents.dtype)).exp()

    def unstandardized(self, z: Tensor) -> Tensor:
        """s z, (..., D): the inverse of ``standardized``."""
        return z * self.log_scale.detach().to(z.dtype).exp()

    def code_log_variance(self, squared_distance: Tensor) -> Tensor:
        """log s_c^2 for squared distances to the codes, (..., K) -> broadcastable to (..., K); -inf for ``"none"``."""
        kind, sigma = self.variance.kind, self.variance.sigma
        if kind == "adaptive":
            return adaptive_variance(squared_distance, self.dim, sigma).clamp_min(MIN_VARIANCE).log()
        if kind == "learned":
            return (self.scaled_log_variance * _GAIN).to(squared_distance.dtype)
        value = 2 * math.log(sigma) if kind == "fixed" else -math.inf
        return torch.full_like(squared_distance, value)

    def posterior_logits(self, latents: Tensor) -> Tensor:
        """log q(c|x), (..., D) -> (..., K), normalised, at the current sharpening."""
        with torch.autocast(latents.device.type, enabled=False):
            z = self.standardized(latents if latents.dtype == torch.float64 else latents.float())
            return self._logits(z).log_softmax(-1)

    def _logits(self, z: Tensor) -> Tensor:
        log_precision = self.log_precision.to(z.dtype)
        if self.precision.fit != "learned":
            log_precision = log_precision.detach()
        sharpened = log_precision + self.sharpening.to(z.dtype).log()
        flat = mixture_logits(
            z.reshape(-1, self.dim), self.codebook.to(z.dtype), sharpened, self.log_weights().to(z.dtype)
        )
        return flat.reshape(*z.shape[:-1], self.codebook_size)

    # The start

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start scale, codebook and precision from data: k-means on latents (..., D), pooled over all ranks.

        Called by the first training forward when you have not; every rank must call it together. With fewer
        vectors than codes the rest starts at random, with a warning.

        Raises:
            TypeError, ValueError: as ``forward``.
        """
        rows, _ = self._rows(latents, None)
        with torch.autocast(latents.device.type, enabled=False):
            self._start(rows, seed)

    def _start(self, rows: Tensor, seed: int = 0) -> None:
        rows = gather_rows(rows.detach())
        if rows.shape[0] == 0:
            raise ValueError(
                "the first training batch starts the codebook, but every position of it is masked; pass one with "
                "valid positions, or call quantizer.init_codebook(latents)"
            )
        if self.standardize:
            # Below the floor, which only latents without spread reach, float32 holds no distances.
            floor = rows.abs().max().mul(1e-4).clamp_min(1e-6)
            spread = (rows - rows.mean(0)).square().mean().sqrt().maximum(floor)
            self.scaled_log_scale.fill_(float(spread.log()) / _GAIN)
        rows = self.standardized(rows)
        iterations = 10 if self.init == "kmeans" else 0
        self.scaled_codebook.copy_(kmeans(rows, self.codebook_size, iterations=iterations, seed=seed) / _GAIN)
        _, distance = nearest_code(rows, self.codebook.to(rows.dtype))
        variance = (distance.mean() / self.dim).clamp_min(1e-4)
        self.scaled_log_precision.fill_(-float(variance.log()) / _GAIN)
        self.initialized.fill_(True)
        self._started = True

    # Forward

    def _quantize(self, rows: Tensor, valid: Tensor | None) -> QuantizerOutput:
        if self.training and not self._started and self.scaled_codebook.requires_grad:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "the first training batch starts the codebook, which cannot be compiled: call "
                    "quantizer.init_codebook(latents) or run one batch before torch.compile"
                )
            with torch.no_grad():
                self._start(rows if valid is None else rows[valid])
        z = self.standardized(rows)
        logits = self._logits(z)
        log_q = logits.log_softmax(-1)
        indices = logits.argmax(-1)
        codebook = self.codebook.to(z.dtype)
        nearest_error = (z.detach() - codebook.detach()[indices]).square()

        if self.training:
            weights = self.estimator.sample(logits, self.temperature, self.gumbel_noise)
            mean = weights @ codebook
            distance = expected_squared_distance(z, mean, weights, codebook).sum(-1)
        else:
            weights = F.one_hot(indices, self.codebook_size).to(z.dtype)
            mean = codebook[indices]
            distance = (z - mean).square().sum(-1)
        variance = self._variance(distance, weights)

        if self.training:
            noise = self.sample_noise.to(z.dtype) * variance.sqrt()[:, None] * torch.randn_like(mean)
            quantized = self.unstandardized(mean + noise if self.variance.kind != "none" else mean)
        else:
            quantized = self._lookup(indices)
        nats, terms = self._objective(log_q, variance, nearest_error, rows, indices, valid)
        quantized, loss = in_units_of_the_reconstruction_loss(quantized, nats, rows, pooled=self.training)
        if self.variance.kind == "none":
            log_variance = self.code_log_variance(distance.detach())
        else:
            log_variance = self._variance_of(nearest_error.sum(-1), indices).log()
        return QuantizerOutput(quantized, indices, loss, nats, log_variance, terms)

    def _variance(self, distance: Tensor, weights: Tensor) -> Tensor:
        """Variance of the sample, (N,): sum_c r_c s_c^2."""
        if self.variance.kind == "learned":
            return weights @ (self.scaled_log_variance * _GAIN).to(weights.dtype).exp()
        return self.code_log_variance(distance).exp()

    def _variance_of(self, distance: Tensor, indices: Tensor) -> Tensor:
        """s_c^2 of given codes, (N,), without gradient."""
        with torch.no_grad():
            if self.variance.kind == "learned":
                return self.code_log_variance(distance)[indices].exp()
            return self.code_log_variance(distance).exp()

    def _objective(
        self,
        log_q: Tensor,
        variance: Tensor,
        nearest_error: Tensor,
        rows: Tensor,
        indices: Tensor,
        valid: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """gamma * latent + beta * KL in nats per valid position, and the terms by name."""
        q = log_q.exp()
        center = self.unstandardized(self.codebook.detach().to(rows.dtype).mean(0))
        batch = batch_statistics(q, indices, rows - center, valid, pooled=self.training)
        share = batch.share

        log_precision = self.log_precision.to(variance.dtype)
        own = log_precision if self.precision.fit == "learned" else log_precision.detach()
        if self.variance.kind == "none":
            latent = variance.sum() * 0.0
        elif self.objective.kind == "literal":
            latent = (gaussian_cross_entropy(variance, own, self.dim) * share).sum()
        else:
            latent = (gaussian_kl(variance, own, self.dim) * share).sum()

        log_pi = self.log_weights().to(variance.dtype)
        kl_aggregate = categorical_kl(batch.aggregate, log_pi)
        kl_conditional = (categorical_kl(q, log_pi) * share).sum()
        kl = {
            "albo": kl_aggregate,
            "literal": kl_aggregate,
            "elbo": kl_conditional,
            "none": 0.0 * kl_aggregate,
        }
        nats = self.gamma * latent + self.beta * kl[self.objective.kind]
        if self.training and self.standardize:
            nats = nats + scale_fit(self.log_scale.to(rows.dtype), batch)
        if self.training and self.precision.fit == "ml":
            nats = nats + precision_fit(log_precision, nearest_error, batch)
        with torch.no_grad():
            terms = {
                "kl_aggregate": kl_aggregate,
                "kl_conditional": kl_conditional,
                "latent": latent,
                "conditional_entropy": -((q * log_q).sum(-1) * share).sum(),
                "aggregate_entropy": entropy(batch.aggregate),
                "perplexity": perplexity(batch.counts),
                "usage": (batch.counts > 0).to(variance.dtype).mean(),
                "precision": log_precision.mean().exp(),
                "scale": self.log_scale.exp().squeeze(0),
                "variance": (variance * share).sum(),
                "temperature": self.temperature,
            }
        return nats, {name: value.detach().clone() for name, value in terms.items()}

    def _search(self, rows: Tensor) -> Tensor:
        return self._logits(self.standardized(rows)).argmax(-1)

    def _lookup(self, indices: Tensor) -> Tensor:
        return self.unstandardized(F.embedding(indices, self.scaled_codebook) * _GAIN)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, objective={self.objective.kind}, precision={self.precision.fit}, "
            f"variance={self.variance.kind}, estimator={type(self.estimator).__name__}"
        )


def _check_parts(
    objective: Objective, precision: Precision, variance: Variance, estimator: Estimator
) -> None:
    check_part("objective", objective, Objective(), ("kind", "gamma", "beta"))
    check_part("precision", precision, Precision(), ("fit", "per_feature", "sharpening"))
    check_part("variance", variance, Variance(), ("kind", "sigma", "noise"))
    check_part("estimator", estimator, GumbelSoftmax(), ("sample", "temperature", "noise"))
    check_schedule("objective.gamma", objective.gamma)
    check_schedule("objective.beta", objective.beta)
    check_schedule("precision.sharpening", precision.sharpening, positive=True)
    check_schedule("variance.noise", variance.noise)
    check_schedule("estimator.temperature", estimator.temperature, positive=True)
    check_schedule("estimator.noise", estimator.noise)


def _after_load(module: nn.Module, _: Any) -> None:
    module._started = bool(module.initialized)  # pyright: ignore
