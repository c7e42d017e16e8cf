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
from .evidence import TERMS, Evidence
from .learning import in_backward, learn, log_uniform
from .migrate import migrate_config, migrate_state
from .parts import Objective, Precision, Variance, check_parts
from .rows import RowStep, run_rows
from .start import Pool, fit_codebook, fit_log_precision, principal_directions
from .statistics import Moments, batch_statistics, eval_statistics, moments_of


class GaussianMixtureVQ(Quantizer):
    r"""Quantize latents to the codewords of a Gaussian mixture.

    With y = (latents - m) / s and z = A y in d <= D dimensions, codebook mu (K, d), precision w and weights pi:

    .. math::
        q(c|x) &= \mathrm{softmax}_c\left(\log \pi_c - \tfrac12 \sum_d w_d (z_d - \mu_{cd})^2\right) \\
        q(z|x, c) &= N(\mu_c, s_c^2(x) I), \qquad s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 d)

    Training draws weights r over codes from q(c|x) by ``estimator`` and returns
    B (sum_c r_c mu_c + sqrt(sum_c r_c s_c^2) eps); eval returns B mu_c at c = argmax q(c|x), deterministically.
    The objective is ``objective``: gamma * latent + beta * KL, in nats per position, mean over valid positions.

    **What ``quantized`` means**: latents in standardised units, of mean zero and mean variance one whatever the encoder
    does; that is what a decoder learns from fastest. ``units="latents"`` returns m + s (...), the latents' own units,
    for a decoder that is trained already.

    ``out.loss`` and ``out.nats`` hold one number with two gradients. ``reconstruction_loss + out.loss`` works
    for a reconstruction loss in any units and reduction: the gradient is converted to those units on the way back
    (``gmvq.functional.balance``). Add ``out.nats`` to a negative log-likelihood in nats
    (``gmvq.objectives.negative_evidence`` does).

    **How it learns.** m, s, w and mu follow the latents by M-steps of the mixture (``learning``): no optimizer, rate or
    unit of the loss enters, and mu has the gradient of the reconstruction on top. A forward in train mode leaves the
    sums of its batch, and the next one applies them first, so a step counts once under activation checkpointing. With
    N processes the sums are pooled: N processes equal one. Eval, and a layer whose ``codebook`` requires no gradient,
    change nothing.

    **The start.** A new codebook is zero, and that is how the layer knows: no flag can be lost or arrive alone.
    Training runs ``start_after`` batches without codes, on the standardised latents (index -1, loss 0): an untrained
    encoder has nothing to place codes on. Then k-means on the latents of the last batches places them. ``eval()``
    starts a shorter training's codebook from what it has seen. Latents that require no gradient start it at once, as
    does ``init_codebook``. In eval without a codebook indices are -1 and ``quantized`` is continuous.

    Args:
        dim: D, size of the last axis of the latents.
        codebook_size: K. K = 1 is a Gaussian bottleneck.
        codebook_dim: d: the mixture lives in d dimensions, between a learned linear map A in (``project_in``) and one
            out, B (``project_out``), which start at the principal directions of the latents. None, or anything
            from ``dim`` up: d = D, without maps.
        objective: kind of bound, gamma and beta.
        precision: how w is fitted, and its sharpening.
        variance: of q(z|x, c), and the noise of the sample.
        estimator: gradient estimator of the categorical sample, with temperature and noise.
        mixture_weights: ``"uniform"`` or ``"learned"`` (then nearest code means largest responsibility).
        standardize: follow the mean m and the scale s of the latents; ``False`` fixes m = 0, s = 1.
        units: of ``quantized`` and of the codewords of indices: ``"standardized"`` or ``"latents"``.
        start_after: number of training batches before the codebook starts; 0: at the first.
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
    batches: Tensor
    share: Tensor

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
        units: Literal["standardized", "latents"] = "standardized",
        start_after: int = 50,
        support: int | None = 4,
        backend: Literal["auto", "reference", "chunked", "triton"] = "auto",
    ) -> None:
        super().__init__(dim, codebook_size)
        if codebook_dim is not None:
            check_size("codebook_dim", codebook_dim)
        self.codebook_dim = dim if codebook_dim is None else min(codebook_dim, dim)
        check_choice("mixture_weights", mixture_weights, ("uniform", "learned"))
        check_choice("units", units, ("standardized", "latents"))
        if start_after < 0:
            raise ValueError(f"start_after is a number of batches, 0 or more, got {start_after}")
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
        self.standardize, self.units, self.start_after = standardize, units, start_after
        self.support, self.backend = support, backend

        self.project_in, self.project_out = _projections(dim, self.codebook_dim)
        self.codebook = nn.Parameter(torch.zeros(codebook_size, self.codebook_dim))
        width = self.codebook_dim if precision.per_feature else 1
        self.log_precision = nn.Parameter(torch.zeros(width), requires_grad=precision.fit == "learned")
        self.mean = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.scale = nn.Parameter(torch.full((1,), 0.0 if standardize else 1.0), requires_grad=False)
        if mixture_weights == "learned":
            self.weight_logits = nn.Parameter(torch.zeros(codebook_size))
        if variance.kind == "learned":
            self.log_variances = nn.Parameter(torch.full((codebook_size,), 2 * math.log(variance.sigma)))
        for name in ("temperature", "gumbel_noise", "sample_noise", "sharpening", "gamma", "beta"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("share", torch.full((codebook_size,), 1.0 / codebook_size))
        #: False: the codebook is another layer's too, so a code that is dead here may live there.
        self.births = True
        #: True: ``init_codebook`` fits scale and precision alone.
        self.keep_codebook = False
        #: Whether the sample of z has the straight-through gradient; of residual levels the first alone has.
        self.straight_through = True
        self._pool: Pool | None = None
        self._pending: tuple[Moments, Tensor] | None = None
        #: Whether the codebook was seen to have started, so that no step has to look at the device again.
        self._ready = False
        self._apply_schedules(None)
        self.register_load_state_dict_pre_hook(migrate_state)
        self.register_load_state_dict_post_hook(_look_again)
        self.register_state_dict_pre_hook(_settle)

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
        """Optimizer groups at the network's rate ``lr``, without decay."""
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
            "units": self.units,
            "start_after": self.start_after,
            "support": self.support,
            "backend": self.backend,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GaussianMixtureVQ:
        """Build an untrained layer from ``to_config``'s dictionary."""
        config = migrate_config(config)
        return cls(**{key: part_from_dict(value) for key, value in config.items() if key != "type"})

    # The mixture

    @property
    def started(self) -> bool:
        """Whether there is a codebook: it is zero before its start."""
        return bool(self.codebook.detach().any())

    def log_weights(self) -> Tensor:
        """log pi, (K,), normalised, in float32 at least."""
        if self.mixture_weights == "learned":
            dtype = torch.promote_types(self.codebook.dtype, torch.float32)
            return self.weight_logits.to(dtype).log_softmax(-1)
        return log_uniform(self.codebook)

    def standardized(self, latents: Tensor) -> Tensor:
        """z = A (latents - m) / s, (..., D) -> (..., d)."""
        return self._project(self._scaled(latents))

    def unstandardized(self, z: Tensor) -> Tensor:
        """B z, or m + s B z for ``units="latents"``: what the decoder reads for z, (..., d) -> (..., D)."""
        y = self._unproject(z)
        return y * self._divisor(y) + self.mean.to(y.dtype) if self.units == "latents" else y

    def decoder_units(self, latents: Tensor) -> Tensor:
        """What the decoder would read for latents (..., D) without a code."""
        return self.unstandardized(self.standardized(latents))

    def from_decoder_units(self, read: Tensor) -> Tensor:
        """Latents (..., D) for which ``decoder_units`` gives ``read``, (..., D), if there are any."""
        y = self._scaled(read) if self.units == "latents" else read
        if self.project_in is not None and self.project_out is not None:
            maps = [
                matrix.to(torch.promote_types(y.dtype, torch.float32))
                for matrix in (self.project_in, self.project_out)
            ]
            y = _linear(y, torch.linalg.pinv(maps[0]) @ torch.linalg.pinv(maps[1]))
        return y * self._divisor(y) + self.mean.to(y.dtype)

    def _scaled(self, latents: Tensor) -> Tensor:
        """y = (latents - m) / s, (..., D)."""
        return (latents - self.mean.to(latents.dtype)) / self._divisor(latents)

    def _divisor(self, like: Tensor) -> Tensor:
        """s, or one before it is known."""
        scale = self.scale.to(like.dtype)
        return torch.where(scale > 0, scale, 1.0)

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
            return self.log_variances.to(squared_distance.dtype)
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

    # The start, and what is learned of a batch

    @torch.no_grad()
    def init_codebook(self, latents: Tensor, *, seed: int = 0) -> None:
        """Start mean, scale, codebook and precision from latents (..., D), pooled over all ranks, by k-means.

        Every rank must call it together. With fewer vectors than codes the rest starts at random, with a warning.

        Raises:
            TypeError, ValueError: as ``forward``.
        """
        self._start_on(gather_rows(self._rows(latents, None)[0].detach()), seed)

    def _start_on(self, rows: Tensor, seed: int = 0) -> None:
        """Start on rows, (N, D), of all ranks."""
        with torch.autocast(rows.device.type, enabled=False):
            self._pending = None
            self._fit_scale(rows)
            if self.project_in is not None and self.project_out is not None:
                self.project_in.copy_(principal_directions(rows, self.codebook_dim))
                self.project_out.copy_(self.project_in.T)
            self._fit_codebook(self.standardized(rows), seed, keep=self.keep_codebook)

    def _fit_scale(self, rows: Tensor) -> None:
        """m and s of rows, (N, D), of all ranks; s stays unknown where they have no spread."""
        if self.standardize:
            mean = rows.mean(0)
            self.mean.copy_(mean)
            self.scale.fill_((rows - mean).square().mean().sqrt())

    def _fit_codebook(self, z: Tensor, seed: int = 0, *, keep: bool = False) -> None:
        """mu, unless it is kept, and w of z, (N, d), of all ranks."""
        if not keep:
            self.codebook.copy_(fit_codebook(z, self.codebook_size, seed))
        self.log_precision.fill_(fit_log_precision(z, self.codebook.to(z.dtype)))
        self.share.fill_(1.0 / self.codebook_size)
        self._pool, self._ready = None, True

    @torch.no_grad()
    def settle(self) -> None:
        """Apply what the last training batch taught; ``eval()``, ``state_dict()`` and the next batch do this."""
        if self._pending is not None:
            (moments, frame), self._pending = self._pending, None
            here = self.codebook.device  # the layer may have moved since
            moments, frame = Moments(*(part.to(here) for part in moments)), frame.to(here)
            learn(self, moments, (frame == self._frame().to(frame)).all())

    def _frame(self) -> Tensor:
        """A copy of what M-steps alone change: another value says that other weights were copied in since."""
        own = (
            (self.mean, self.scale)
            if self.log_precision.requires_grad
            else (self.mean, self.scale, self.log_precision)
        )
        return torch.cat([value.detach() for value in own])

    def train(self, mode: bool = True) -> GaussianMixtureVQ:
        """As ``nn.Module.train``; eval mode settles what was learned, and starts what has not started."""
        if not mode and self.training and self._learns:
            self.settle()
            if self._pool is not None:
                with torch.no_grad(), torch.autocast(self.codebook.device.type, enabled=False):
                    self._start()
        return super().train(mode)

    @property
    def _learns(self) -> bool:
        """Whether a forward in train mode changes the mixture; a frozen codebook says no."""
        return self.codebook.requires_grad

    @torch.no_grad()
    def _prepare(self, rows: Tensor, valid: Tensor | None, waits: bool) -> bool:
        """Before a training step: apply the last one's lesson, start if it is time. Whether there is a codebook.

        Args:
            rows: latents, (N, D).
            valid: (N,), or None for all.
            waits: whether the start waits for ``start_after``.
        """
        self.settle()
        if self._ready:
            return True
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "the first training batches start the codebook, which cannot be compiled: call "
                "quantizer.init_codebook(latents) or train some batches before torch.compile"
            )
        rows = gather_rows(rows if valid is None else rows[valid])
        if len(rows) == 0:
            return self.started
        if not bool((self.scale > 0).all()):
            self._fit_scale(rows)
        if self.started:
            if not bool(self.log_precision.any()):  # the codebook was another layer's, or set by hand
                self._fit_codebook(self.standardized(rows), keep=True)
            self._ready = True
            return True
        self._pool = self._pool or Pool(self.codebook_size)
        self._pool.add(self._scaled(rows))
        self.batches += 1
        if waits and int(self.batches) <= self.start_after:
            return False
        return self._start()

    def _start(self) -> bool:
        """Start from the pool; whether there was anything to start from."""
        y = None if self._pool is None else self._pool.rows()
        if y is None:
            return False
        y = y.to(self.codebook.device)
        if self.project_in is not None and self.project_out is not None:
            self.project_in.copy_(principal_directions(y, self.codebook_dim))
            self.project_out.copy_(self.project_in.T)
        self._fit_codebook(self._project(y))
        return True

    def _has_codebook(self) -> bool:
        """Whether there is a codebook, without a look at the device once there is; compiled code assumes it."""
        if torch.compiler.is_compiling():
            return True
        self._ready = self._ready or self.started
        return self._ready

    # Forward

    def _quantize(self, rows: Tensor, valid: Tensor | None) -> QuantizerOutput:
        learns = self.training and self._learns and not in_backward()
        if learns:
            has_codebook = self._prepare(rows, valid, rows.requires_grad or not torch.is_grad_enabled())
        else:
            has_codebook = self._has_codebook()
        y = self._scaled(rows)
        z = self._project(y)
        present = None if valid is None else valid.to(rows.dtype)
        if not has_codebook:
            return self._without_codes(y, z, present, learns)
        per_row, (soft, errors) = self._run_rows(z, present)
        indices, conditional_entropy, variance, squared_error = per_row[:4]
        weights = z.new_ones(indices.shape) if present is None else present
        if self.training:
            moments = moments_of(y, z, indices, errors, weights, self.codebook_size)
            batch = batch_statistics(soft, moments, weights)
            if learns:
                assert batch.moments is not None
                self._pending = batch.moments, self._frame()
        else:
            batch = eval_statistics(soft, indices, weights)

        log_precision = self.log_precision.to(rows.dtype)
        evidence = Evidence.of(
            self.objective.kind,
            batch,
            conditional_entropy,
            None if self.variance.kind == "none" else variance,
            log_precision,
            self.log_weights().to(rows.dtype),
            self.codebook_dim,
        )
        nats = evidence.nats(self.objective, self.gamma, self.beta)
        with torch.no_grad():
            terms = {
                **evidence.terms(batch),
                "precision": log_precision.mean().exp(),
                "scale": self.scale.squeeze(0),
                "variance": (variance * batch.share).sum(),
                "temperature": self.temperature,
            }
            log_variance = self.code_log_variance(squared_error)
            if self.variance.kind == "learned":
                log_variance = log_variance[indices]
        if self.training:
            misfit = 0.5 * self.objective.commitment * (per_row[5] / self.sharpening * batch.share).sum()
            nats = nats + (
                misfit - misfit.detach()
            )  # a gradient alone: the objective keeps its meaning as a number
            sample, loss = in_units_of_the_reconstruction_loss(per_row[4], nats, z, pooled=True)
            quantized = self.unstandardized(sample)
        else:
            quantized, loss = self._lookup(indices), nats
        terms = {name: value.detach().clone() for name, value in terms.items()}
        return QuantizerOutput(quantized, indices, loss, nats, log_variance, terms)

    def _without_codes(self, y: Tensor, z: Tensor, present: Tensor | None, learns: bool) -> QuantizerOutput:
        """Before the start: the latents themselves as the decoder reads them, index -1, loss 0."""
        count = y.shape[0]
        if learns:
            nothing = z.new_zeros(self.codebook_size), z.new_zeros(self.codebook_size, self.codebook_dim)
            weights = y.new_ones(count) if present is None else present
            none = torch.zeros(count, dtype=torch.int64, device=y.device)
            moments = moments_of(y, z, none, z.new_zeros(self.codebook_dim), weights, self.codebook_size)
            pooled = batch_statistics(nothing[0], moments, weights).moments
            assert pooled is not None
            self._pending = pooled, self._frame()
        zero = z.new_zeros(()) + sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)
        return QuantizerOutput(
            quantized=self.unstandardized(z),
            indices=torch.full((count,), -1, device=y.device),
            loss=zero,
            nats=zero,
            log_variance=y.new_zeros(count),
            terms={name: y.new_zeros(()) for name in TERMS},
        )

    def _run_rows(self, z: Tensor, present: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """``RowStep`` on all rows, after the search for their supports."""
        estimator = self.estimator if self.training else None
        backend = self._backend_for(z, estimator, self._support).name
        step = RowStep(self.variance, self.codebook_dim, estimator, backend, self.straight_through)
        codebook = self.codebook.to(z.dtype)
        if self.training:
            codebook = (
                codebook.clone()
            )  # the next step's M-step is in place, and this graph may still be in use
        log_precision, bias = self._log_precision_and_bias(codebook)
        if self.variance.kind == "learned":
            second_moments = self.log_variances.to(z.dtype).exp()
        else:
            second_moments = codebook.square().sum(-1)
        schedules = (x.to(z.dtype) for x in (self.temperature, self.gumbel_noise, self.sample_noise))
        shared = (codebook, bias, second_moments, log_precision, *schedules)
        keys = noise_keys(z.shape[0] if self.training else 0, z.device)
        support = None
        if self._support is not None:
            query = mixture_query(z.detach(), log_precision.detach())
            support = find_support(query, codebook, bias, self._support)
        return run_rows(step, z, present, keys, support, shared)

    def _search(self, rows: Tensor) -> Tensor:
        if not self._has_codebook():
            return torch.full(rows.shape[:1], -1, device=rows.device)
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
        return self.unstandardized(F.embedding(indices, self.codebook))

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
    return nn.Parameter(matrix), nn.Parameter(matrix.T.contiguous())


def _linear(values: Tensor, matrix: Tensor) -> Tensor:
    """values @ matrix^T in the dtype of the values, whatever autocast says."""
    with torch.autocast(values.device.type, enabled=False):
        return F.linear(values, matrix.to(values.dtype))


def _look_again(module: Any, _: Any) -> None:
    """After weights were loaded: neither what was pending nor what was known holds any longer."""
    module._pending, module._pool, module._ready = None, None, False
    module._ready = module.started


def _settle(module: Any, *_: Any) -> None:
    """Before weights are saved."""
    if module._learns:
        module.settle()
