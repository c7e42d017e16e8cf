"""``GaussianMixtureVQ``: vector quantization as a Gaussian mixture, trained on an evidence bound."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.balance import balance_gradients
from ..functional.estimators import Estimator, StraightThroughGumbel
from ..functional.mixture import adaptive_variance, mixture_bias, mixture_query
from ..functional.noise import noise_keys
from ..functional.sampling import find_support, most_probable_codes
from ..functional.schedules import Schedule, known_zero
from ..types import QuantizerOutput
from .base import masked
from .evidence import KL_OF, TERMS, Batch, Moments, evidence
from .learning import in_backward
from .parts import Objective, Precision, Variance, check_counts, check_parts
from .posterior import CodePosterior
from .rows import Drawn, Mixture, Rows, sample_rows
from .start import held, ready
from .state import MixtureState


class GaussianMixtureVQ(MixtureState):
    r"""Quantize latents to the codewords of a Gaussian mixture.

    With y = (latents - m) / s and z = A y in d <= D dimensions, codebook mu (K, d), precision w and weights pi:

    .. math::
        q(c|x) &= \mathrm{softmax}_c\left(\log \pi_c - \tfrac12 \sum_d w_d (z_d - \mu_{cd})^2\right) \\
        q(z|x, c) &= N(\mu_c, s_c^2(x) I), \qquad s_c^2(x) = |z - \mu_c|^2 / (2 \sigma^2 d)

    Eval returns m + s B mu_c at c = argmax q(c|x). Training returns m + s B z for weights r over codes by
    ``estimator``, z = sum_c r_c mu_c + sqrt(sum_c r_c s_c^2) eps: by default the same codeword, with the gradient
    of the posterior's mean.
    The objective is ``objective``: gamma * latent + beta * KL, in nats per position, mean over valid positions.

    **What ``quantized`` means**: latents, in their own units; with ``units="standardized"`` without m + s, as the
    decoders of former versions want it.

    ``out.loss`` and ``out.nats`` hold one number with two gradients. ``reconstruction_loss + out.loss`` works for a
    reconstruction loss in any units (``gmvq.functional.balance``). Add ``out.nats`` to a negative log-likelihood in
    nats (``gmvq.objectives.negative_evidence`` does).

    **How it learns.** w and mu follow the latents by M-steps (``learning``), on the sums of a batch over all
    ranks, applied by the next forward in train mode; mu has the gradient of the reconstruction on top. Eval, and a
    layer whose ``codebook`` requires no gradient, change nothing.

    **The start.** A new codebook is zero, and that is how the layer knows. Training runs ``start_after`` batches
    without codes, on latents (index -1, loss 0) that a single Gaussian holds (``quantizers/start.py``); then
    k-means on the last latents places them, and m and s are the mean and deviation of these.
    ``eval()`` starts a shorter training's codebook from what it has seen. Latents that require no gradient, where
    gradients are on, start it at once, as does ``init_codebook``. In eval without a codebook indices are -1 and
    ``quantized`` is continuous.

    Args:
        dim: D, size of the last axis of the latents.
        codebook_size: K. K = 1 is a Gaussian bottleneck.
        codebook_dim: d: the mixture lives in d dimensions, between a learned linear map A in (``project_in``) and one
            out, B (``project_out``), which start at the principal directions of the latents. None, or anything
            from ``dim`` up: d = D, without maps.
        objective: kind of bound, gamma and beta.
        precision: one w or one per feature, and its sharpening.
        variance: of q(z|x, c), and the noise of the sample.
        estimator: gradient estimator of the categorical sample, with temperature and noise.
        mixture_weights: ``"uniform"`` or ``"learned"`` (then nearest code means largest responsibility).
        standardize: take m and s from the latents at the start; ``False``: m = 0, s = 1.
        units: of ``quantized`` and of the codewords of indices: ``"latents"`` or ``"standardized"``.
        start_after: number of training batches before the codebook starts; 0: at the first.
        frozen_codes: whether ``set_codebook`` has frozen codes, so that a file of the layer has room for them.
        support: k: q(c|x) lives on the k most probable codes, at least 2, and everything after the search costs
            N k D instead of N K D; ``None``: on all K.

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

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook_dim: int | None = None,
        objective: Objective = Objective(),
        precision: Precision = Precision(),
        variance: Variance = Variance(),
        estimator: Estimator = StraightThroughGumbel(),
        mixture_weights: Literal["uniform", "learned"] = "uniform",
        standardize: bool = True,
        units: Literal["latents", "standardized"] = "latents",
        start_after: int = 50,
        frozen_codes: bool = False,
        support: int | None = 4,
    ) -> None:
        check_parts(objective, precision, variance, estimator)
        super().__init__(
            *(dim, codebook_size, codebook_dim, precision, variance),
            *(mixture_weights, standardize, units, frozen_codes),
        )
        check_counts(start_after, support)
        self.objective, self.estimator = objective, estimator
        self.start_after, self.support = start_after, support
        #: Whether latents have the straight-through gradient and the commitment; of residual levels the first's alone.
        self.straight_through = True
        for name, schedule in self._schedules().items():
            self.register_buffer(name, torch.tensor(float(schedule(None))))

    def _schedules(self) -> dict[str, Schedule]:
        """Every schedule by the name of the buffer that holds its value."""
        return {
            "temperature": self.estimator.temperature,
            "gumbel_noise": self.estimator.noise,
            "sample_noise": self.variance.noise,
            "sharpening": self.precision.factor(self.codebook_dim),
            "gamma": self.objective.gamma,
            "beta": self.objective.beta,
        }

    # Posterior

    def log_weights(self) -> Tensor:
        """log pi, (K,), normalised, in float32 at least."""
        dtype = torch.promote_types(self.codebook.dtype, torch.float32)
        if self.mixture_weights == "learned":
            return self.weight_logits.to(dtype).log_softmax(-1)
        return self.codebook.new_zeros(self.codebook_size, dtype=dtype).log_softmax(-1)

    def posterior(self, latents: Tensor, mask: Tensor | None = None) -> CodePosterior:
        """q(c|x) of latents (..., D) with a mask (...): likeliest codes, draws, log-probabilities, entropy, mean."""
        return CodePosterior.of(self, latents, mask)

    def posterior_logits(self, latents: Tensor) -> Tensor:
        """log q(c|x), (..., D) -> (..., K), normalised, at the current sharpening; on all codes, not the support."""
        return self.posterior(latents).log_probs()

    def code_log_variance(self, squared_distance: Tensor) -> Tensor:
        """log s_c^2 of codes at such squared distances, of any shape."""
        return adaptive_variance(squared_distance, self.codebook_dim, self.variance.sigma).log()

    def _mixture(self, codebook: Tensor) -> Mixture:
        """The posterior's parameters in the dtype of ``codebook``."""
        if self.training:
            # The next step's M-step is in place, and this graph may still be in use.
            codebook = codebook.clone()
        dtype = codebook.dtype
        log_precision = self.log_precision.detach().to(dtype) + self.sharpening.to(dtype).log()
        return Mixture(
            codebook,
            squares=codebook.square().sum(-1),
            bias=mixture_bias(codebook, log_precision, self.log_weights().to(dtype)),
            log_precision=log_precision,
            # Copies, as ``set_progress`` may be called while this graph is in use.
            temperature=self.temperature.to(dtype, copy=True),
            gumbel_noise=self.gumbel_noise.to(dtype, copy=True),
            sample_noise=self.sample_noise.to(dtype, copy=True),
        )

    def _search(self, latents: Tensor) -> Tensor:
        if not self._has_codebook():
            return torch.full(latents.shape[:1], -1, device=latents.device)
        mixture = self._mixture(self.codebook.to(latents.dtype))
        query = mixture_query(self.standardized(latents), mixture.log_precision)
        return most_probable_codes(query, mixture.codebook, mixture.bias)

    def _lookup(self, indices: Tensor) -> Tensor:
        # A table fits any number of indices, bit by bit.
        many = indices.numel() > self.codebook_size
        if torch.compiler.is_compiling() or self.project_out is not None or many:
            return F.embedding(indices, self.unstandardized(self.codebook))
        return self.unstandardized(F.embedding(indices, self.codebook))

    # Sample

    def _quantize(self, latents: Tensor, mask: Tensor | None) -> QuantizerOutput:
        learns = self.training and self._learns
        steps = learns and not in_backward()
        started = self._before_step(latents, mask) if steps else self._has_codebook()
        if not started:
            pool = self._pool if self.training else None
            elapsed = (self.batches - 1) / max(self.start_after, 1)
            return self._without_codes(self.standardized(held(latents, mask, pool, elapsed)))
        z = self.standardized(latents)
        counted = masked(z.detach(), mask, 0.0)
        mask = latents.new_ones(latents.shape[0]) if mask is None else mask.to(latents.dtype)
        drawn = self._sample(z, mask)
        if self.training:
            moments = Moments.of(counted, drawn.indices, drawn.errors, mask, self.codebook_size)
            batch = Batch.pooled(drawn.posterior, moments, mask)
        else:
            batch = Batch.alone(drawn.posterior, drawn.indices, mask)
        if steps:
            self._pending = batch.moments, self._frame(), self.share.clone()
        return self._output(z, drawn, batch)

    def _before_step(self, latents: Tensor, mask: Tensor | None) -> bool:
        """Apply the last batch's lesson, and start if it is time; whether there is a codebook."""
        if getattr(self, "_is_replica", False):
            warnings.warn(
                "torch.nn.DataParallel throws its replicas away, and with them what a batch teaches: use "
                "torch.nn.parallel.DistributedDataParallel, or freeze the codebook with requires_grad_(False)",
                UserWarning,
                stacklevel=2,
            )
        self.settle()
        waits = latents.requires_grad or not torch.is_grad_enabled()
        return self._ready or ready(self, latents, mask, self.start_after if waits else 0)

    def _sample(self, z: Tensor, mask: Tensor) -> Drawn:
        """Sample and measure every position, after the search for its support."""
        estimator = self.estimator if self.training else None
        mixture = self._mixture(self._held(self.codebook).to(z.dtype))
        query = mixture_query(z.detach(), mixture.log_precision)
        support = find_support(query, mixture.codebook, mixture.bias, self._support)
        rows = Rows(z, mask, noise_keys(z.shape[0] if self.training else 0, z.device))
        return sample_rows(rows, mixture, support, self.variance, estimator)

    def _without_codes(self, z: Tensor) -> QuantizerOutput:
        """Before the start: latents without codes, index -1, loss 0."""
        nothing = z.new_zeros(z.shape[0])
        zero = z.new_zeros(()) + sum(p.sum() * 0.0 for p in self.parameters() if p.requires_grad)
        terms = {name: z.new_zeros(()) for name in TERMS}
        return QuantizerOutput(self.unstandardized(z), nothing.long() - 1, zero, zero, nothing, terms)

    # Evidence

    def _output(self, z: Tensor, drawn: Drawn, batch: Batch) -> QuantizerOutput:
        """gamma * latent + beta * KL, and what the decoder reads."""
        log_precision, log_weights = self.log_precision.detach().to(z.dtype), self.log_weights().to(z.dtype)
        kind, dim = self.objective.kind, self.codebook_dim
        terms = evidence(kind, batch, drawn.entropy, drawn.variance, log_precision, log_weights, dim)
        latent = terms["latent"].detach() if known_zero(self.gamma) else terms["latent"]
        nats = self.gamma.clone() * latent + self.beta.clone() * terms[KL_OF[kind]]
        if self.training:
            through, pull = self.straight_through, self.objective.commitment
            sample, loss = balance_gradients(drawn.sample, nats, z, straight_through=through, commitment=pull)
            quantized = self.unstandardized(sample)
        else:
            quantized, loss = self._lookup(drawn.indices), nats
        terms |= {
            "precision": self.log_precision.mean().exp(),
            "scale": self.scale.squeeze(0).clone(),
            "variance": (drawn.variance.detach() * batch.share).sum(),
            "temperature": self.temperature.clone(),
        }
        terms = {name: value.detach() for name, value in terms.items()}
        log_variance = self.code_log_variance(drawn.squared_error)
        return QuantizerOutput(quantized, drawn.indices, loss, nats, log_variance, terms)

    @property
    def _support(self) -> int | None:
        """k, or None where the posterior lives on all codes."""
        return None if self.support is None or self.support >= self.codebook_size else self.support

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, objective={self.objective.kind}, estimator={type(self.estimator).__name__}, "
            f"support={self.support}"
        )
