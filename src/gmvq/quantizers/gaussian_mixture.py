"""``GaussianMixtureVQ``: vector quantization as a Gaussian mixture, trained on an evidence bound."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import check_choice, check_size
from ..functional.balance import in_units_of_the_reconstruction_loss
from ..functional.distributed import gather_rows
from ..functional.estimators import Estimator, GumbelSoftmax
from ..functional.mixture import MIN_VARIANCE, adaptive_variance, mixture_bias, mixture_logits, mixture_query
from ..functional.noise import noise_keys
from ..functional.sampling import (
    BACKENDS,
    Backend,
    choose_backend,
    find_support,
    most_probable_codes,
)
from ..types import QuantizerOutput
from .base import Quantizer
from .config import part_from_dict, part_to_dict
from .evidence import Evidence
from .parts import Objective, Precision, Variance, check_parts
from .rows import RowStep, run_rows
from .start import principal_directions, start_from
from .statistics import batch_statistics, precision_fit, scale_fit

#: Every parameter of the mixture is stored divided by this, so that an optimizer that moves each parameter by about
#: its learning rate per step (Adam) moves the mixture ten times as fast as the network whose latents it follows. At
#: the network's own rate it lags behind them: docs/defaults.md has the figures.
_GAIN = 10.0


class GaussianMixtureVQ(Quantizer):
    r"""Quantize latents to the codewords of a Gaussian mixture.

    With z = A latents / s in d <= D dimensions, codebook mu (K, d), precision w and weights pi:

    .. math::
        q(c|x) &= \mathrm{softmax}_c\left(\log \pi_c - \tfrac12 \sum_d w_d (z_d - \mu_{cd})^2\right) \\
        q(z|x, c) &= N(\mu_c, s_c^2(x) I), \qquad s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 d)

    Training draws weights r over codes from q(c|x) by ``estimator`` and returns
    s B (sum_c r_c mu_c + sqrt(sum_c r_c s_c^2) eps); eval returns s B mu_c at c = argmax q(c|x), deterministically.
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
        codebook_dim: d: the mixture lives in d dimensions, between a learned linear map A in (``project_in``) and one
            out, B (``project_out``), which start at the principal directions of the first batch. None, or anything
            from ``dim`` up: d = D, without maps.
        objective: kind of bound, gamma and beta.
        precision: how w is fitted, and its sharpening.
        variance: of q(z|x, c), and the noise of the sample.
        estimator: gradient estimator of the categorical sample, with temperature and noise.
        mixture_weights: ``"uniform"`` or ``"learned"`` (then nearest code means largest responsibility).
        standardize: fit s to the spread of the latents; ``False`` fixes s = 1.
        init: ``"kmeans"`` on the first training batch, or ``"random"`` points of it.
        support: k: q(c|x) lives on the k most probable codes, at least 2, and everything after the search costs
            N k D instead of N K D; ``None``: on all K.
        backend: implementation of the sampling; ``"auto"`` takes the fastest that can run (``chosen_backend``).

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
        codebook_dim: int | None = None,
        objective: Objective = Objective(),
        precision: Precision = Precision(),
        variance: Variance = Variance(),
        estimator: Estimator = GumbelSoftmax(),
        mixture_weights: Literal["uniform", "learned"] = "uniform",
        standardize: bool = True,
        init: Literal["kmeans", "random"] = "kmeans",
        support: int | None = 4,
        backend: Literal["auto", "reference", "chunked", "triton"] = "auto",
    ) -> None:
        super().__init__(dim, codebook_size)
        if codebook_dim is not None:
            check_size("codebook_dim", codebook_dim)
        self.codebook_dim = dim if codebook_dim is None else min(codebook_dim, dim)
        check_choice("mixture_weights", mixture_weights, ("uniform", "learned"))
        check_choice("init", init, ("kmeans", "random"))
        check_choice("backend", backend, BACKENDS)
        if support is not None:
            check_size("support", support)
            if support < 2:
                raise ValueError(
                    "support must be at least 2, got 1: a posterior on one code is constant and gives the encoder no "
                    "gradient"
                )
        check_parts(objective, precision, variance, estimator)
        self.objective, self.precision, self.variance = objective, precision, variance
        self.estimator, self.mixture_weights = estimator, mixture_weights
        self.standardize, self.init = standardize, init
        self.support, self.backend = support, backend

        self.project_in, self.project_out = _projections(dim, self.codebook_dim)
        self.scaled_codebook = nn.Parameter(torch.randn(codebook_size, self.codebook_dim) / _GAIN)
        width = self.codebook_dim if precision.per_feature else 1
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
        self.started = False  # as ``initialized``, without a look at the device
        self.keep_codebook = (
            False  # True: the start fits scale and precision alone, the codebook is another layer's
        )
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
            "codebook_dim": self.codebook_dim,
            "objective": part_to_dict(self.objective),
            "precision": part_to_dict(self.precision),
            "variance": part_to_dict(self.variance),
            "estimator": part_to_dict(self.estimator),
            "mixture_weights": self.mixture_weights,
            "standardize": self.standardize,
            "init": self.init,
            "support": self.support,
            "backend": self.backend,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GaussianMixtureVQ:
        """Build an untrained layer from ``to_config``'s dictionary."""
        config = {
            "support": None,
            "codebook_dim": None,
            **config,
        }  # of files from before these were arguments
        return cls(**{key: part_from_dict(value) for key, value in config.items() if key != "type"})

    # The mixture

    @property
    def codebook(self) -> Tensor:
        """mu, (K, d), in standardised units; ``get_codes_from_indices`` gives codewords in units of the latents."""
        return self.scaled_codebook * _GAIN

    @property
    def log_precision(self) -> Tensor:
        """log w, (1,) or (d,), without sharpening; w is in units of the standardised latents."""
        return self.scaled_log_precision * _GAIN

    @property
    def log_scale(self) -> Tensor:
        """log s, (1,): one standardised unit in units of the (projected) latents."""
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
        """z = A latents / s, (..., D) -> (..., d)."""
        return self._project(latents) * (-self.log_scale.detach().to(latents.dtype)).exp()

    def unstandardized(self, z: Tensor) -> Tensor:
        """s B z, (..., d) -> (..., D): what the decoder reads for z; without maps the inverse of ``standardized``."""
        return self._unproject(z * self.log_scale.detach().to(z.dtype).exp())

    def _project(self, latents: Tensor) -> Tensor:
        return latents if self.project_in is None else _linear(latents, self.project_in)

    def _unproject(self, z: Tensor) -> Tensor:
        return z if self.project_out is None else _linear(z, self.project_out)

    def code_log_variance(self, squared_distance: Tensor) -> Tensor:
        """log s_c^2 for squared distances to the codes, (..., K) -> broadcastable to (..., K); -inf for ``"none"``."""
        kind, sigma = self.variance.kind, self.variance.sigma
        if kind == "adaptive":
            return adaptive_variance(squared_distance, self.codebook_dim, sigma).clamp_min(MIN_VARIANCE).log()
        if kind == "learned":
            return (self.scaled_log_variance * _GAIN).to(squared_distance.dtype)
        value = 2 * math.log(sigma) if kind == "fixed" else -math.inf
        return torch.full_like(squared_distance, value)

    def posterior_logits(self, latents: Tensor) -> Tensor:
        """log q(c|x), (..., D) -> (..., K), normalised, at the current sharpening; on all codes, not the support."""
        with torch.autocast(latents.device.type, enabled=False):
            z = self.standardized(latents if latents.dtype == torch.float64 else latents.float())
            logits = mixture_logits(
                z.reshape(-1, self.codebook_dim),
                self.codebook.to(z.dtype),
                self._sharpened_log_precision(z.dtype),
                self.log_weights().to(z.dtype),
            )
            return logits.log_softmax(-1).reshape(*z.shape[:-1], self.codebook_size)

    def _sharpened_log_precision(self, dtype: torch.dtype) -> Tensor:
        """log w of q(c|x), (1,) or (D,); only a learned w gets a gradient from it."""
        log_precision = self.log_precision.to(dtype)
        if self.precision.fit != "learned":
            log_precision = log_precision.detach()
        return log_precision + self.sharpening.to(dtype).log()

    def _log_precision_and_bias(self, codebook: Tensor) -> tuple[Tensor, Tensor]:
        """log w of q(c|x), and b, (K,), of ``mixture_bias``."""
        log_precision = self._sharpened_log_precision(codebook.dtype)
        return log_precision, mixture_bias(codebook, log_precision, self.log_weights().to(codebook.dtype))

    @property
    def _support(self) -> int | None:
        """k, or None where the posterior lives on all codes."""
        return None if self.support is None or self.support >= self.codebook_size else self.support

    def _backend_for(self, rows: Tensor, estimator: Estimator | None, support: int | None) -> Backend:
        return choose_backend(
            self.backend, device=rows.device, dtype=rows.dtype, estimator=estimator, support=support
        )

    def chosen_backend(self, latents: Tensor) -> Backend:
        """Which implementation a training step runs for latents of this device and dtype, and why."""
        rows = latents if latents.dtype == torch.float64 else latents.float()
        return self._backend_for(rows, self.estimator, self._support)

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
        iterations = 10 if self.init == "kmeans" else 0
        kept = self.codebook.to(rows.dtype) if self.keep_codebook else None
        if self.project_in is not None and self.project_out is not None:
            self.project_in.copy_(principal_directions(rows, self.codebook_dim))
            self.project_out.copy_(self.project_in.T)
        start = start_from(self._project(rows), self.codebook_size, self.standardize, iterations, seed, kept)
        self.scaled_log_scale.fill_(start.log_scale / _GAIN)
        self.scaled_codebook.copy_(start.codebook / _GAIN)
        self.scaled_log_precision.fill_(start.log_precision / _GAIN)
        self.initialized.fill_(True)
        self.started = True

    # Forward

    def _quantize(self, rows: Tensor, valid: Tensor | None) -> QuantizerOutput:
        if self.training and not self.started and self.scaled_codebook.requires_grad:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "the first training batch starts the codebook, which cannot be compiled: call "
                    "quantizer.init_codebook(latents) or run one batch before torch.compile"
                )
            with torch.no_grad():
                self._start(rows if valid is None else rows[valid])
        rows = self._project(rows)
        present = None if valid is None else valid.to(rows.dtype)
        per_row, sums = self._run_rows(rows, present)
        indices, conditional_entropy, variance, squared_error = per_row[:4]
        batch = batch_statistics(*sums, indices=indices, present=present, pooled=self.training)

        log_precision = self.log_precision.to(rows.dtype)
        evidence = Evidence.of(
            self.objective.kind,
            batch,
            conditional_entropy,
            None if self.variance.kind == "none" else variance,
            log_precision if self.precision.fit == "learned" else log_precision.detach(),
            self.log_weights().to(rows.dtype),
            self.codebook_dim,
        )
        nats = evidence.nats(self.objective, self.gamma, self.beta)
        if self.training and self.standardize:
            nats = nats + scale_fit(self.log_scale.to(rows.dtype), batch)
        if self.training and self.precision.fit == "ml":
            nats = nats + precision_fit(log_precision, batch)
        with torch.no_grad():
            terms = {
                **evidence.terms(batch),
                "precision": log_precision.mean().exp(),
                "scale": self.log_scale.exp().squeeze(0),
                "variance": (variance * batch.share).sum(),
                "temperature": self.temperature,
            }
            log_variance = self.code_log_variance(squared_error)
            if self.variance.kind == "learned":
                log_variance = log_variance[indices]
        if self.training:
            sample, loss = in_units_of_the_reconstruction_loss(per_row[4], nats, rows, pooled=True)
            quantized = self._unproject(sample)
        else:
            quantized, loss = self._lookup(indices), nats
        terms = {name: value.detach().clone() for name, value in terms.items()}
        return QuantizerOutput(quantized, indices, loss, nats, log_variance, terms)

    def _run_rows(
        self, rows: Tensor, present: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """``RowStep`` on all rows, after the search for their supports."""
        estimator = self.estimator if self.training else None
        backend = self._backend_for(rows, estimator, self._support).name
        step = RowStep(self.variance, self.codebook_dim, estimator, backend)
        codebook = self.codebook.to(rows.dtype)
        log_precision, bias = self._log_precision_and_bias(codebook)
        if self.variance.kind == "learned":
            second_moments = (self.scaled_log_variance * _GAIN).to(rows.dtype).exp()
        else:
            second_moments = codebook.square().sum(-1)
        log_scale = self.log_scale.detach().to(rows.dtype)
        center = codebook.detach().mean(0) * log_scale.exp()
        schedules = (x.to(rows.dtype) for x in (self.temperature, self.gumbel_noise, self.sample_noise))
        shared = (codebook, bias, second_moments, log_precision, log_scale, center, *schedules)
        keys = noise_keys(rows.shape[0] if self.training else 0, rows.device)
        support = None
        if self._support is not None:
            query = mixture_query(rows.detach(), log_precision.detach() - log_scale)
            support = find_support(query, codebook, bias, self._support)
        return run_rows(step, rows, present, keys, support, shared)

    def _search(self, rows: Tensor) -> Tensor:
        codebook = self.codebook.to(rows.dtype)
        log_precision, bias = self._log_precision_and_bias(codebook)
        query = mixture_query(self.standardized(rows), log_precision)
        backend = self._backend_for(rows, estimator=None, support=None).name
        return most_probable_codes(query, codebook, bias, backend)

    def _lookup(self, indices: Tensor) -> Tensor:
        table = (
            torch.compiler.is_compiling() or self.project_out is not None
        )  # fits any number of indices, bit by bit
        if table or indices.numel() > self.codebook_size:
            return F.embedding(indices, self.unstandardized(self.codebook))
        return self.unstandardized(F.embedding(indices, self.scaled_codebook) * _GAIN)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, objective={self.objective.kind}, precision={self.precision.fit}, "
            f"variance={self.variance.kind}, estimator={type(self.estimator).__name__}"
        )


def _projections(dim: int, codebook_dim: int) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """A (d, D) with orthonormal rows, B = A^T, until the start fits them to data; None where d = D."""
    if codebook_dim == dim:
        return None, None
    matrix = nn.init.orthogonal_(torch.empty(codebook_dim, dim))
    return nn.Parameter(matrix), nn.Parameter(matrix.T.clone())


def _linear(values: Tensor, matrix: Tensor) -> Tensor:
    """values @ matrix^T in the dtype of the values, whatever autocast says."""
    with torch.autocast(values.device.type, enabled=False):
        return F.linear(values, matrix.to(values.dtype))


def _after_load(module: nn.Module, _: Any) -> None:
    module.started = bool(module.initialized)  # pyright: ignore
