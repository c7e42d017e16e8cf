"""``evaluate``: every metric of a tokenizer over a whole set in one pass, holding only K-sized sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MissingExtraError
from ..models.interface import decode_latents
from ..objectives import (
    AggregatePosterior,
    LatentModel,
    Likelihood,
    MixtureQuantizer,
    bits_per_dimension,
    importance_weighted_bound,
)
from ..objectives.bounds import elbo_with_and_without_noise
from .batches import Images, check_codes, count_batches, description_of, device_of, evaluating, image_batches
from .metrics import CodebookMetrics, ImageMetrics, per_image_ssim, rates
from .signals import SignalMetrics, signal_figures

Progress = Callable[[int, int | None], None]
"""Called after each batch with the number of batches done and in all (None where unknown)."""

_BLOCK_VALUES = 1 << 16  # entries of one block of the N x K posterior: half a megabyte stays in the cache


@dataclass(frozen=True)
class Evaluation:
    """The figures of a tokenizer over a set; None where one does not exist, with the reason in ``skipped``.

    Attributes:
        images, image_shape: number of images, and their (C, ...).
        codebook_size, positions_per_image: K and the mean number of unmasked latent positions P.
        mse, psnr, psnr_per_image, ssim: see ``ImageMetrics``; of reconstructions clamped to [0, 1].
        codes_used, usage, code_entropy, perplexity: of the hard codes, see ``CodebookMetrics``.
        bits_per_pixel_fixed, bits_per_pixel_entropy: see ``rates``.
        conditional_entropy: mean of H(q(c|x)), nats per position.
        aggregate_entropy: H(qbar), qbar the mean of q(c|x) over the set, nats.
        information: I_q(x; c) = H(qbar) - mean H(q(c|x)), nats per position.
        kl_aggregate: KL(qbar || pi), nats.
        elbo: negative ELBO of the stochastic model, bits per dimension; an upper bound on the code length.
        albo: the same with KL(qbar || pi) of the set: lower by P I_q, and no bound by itself.
        elbo_discrete: negative ELBO of the model with z = mu_c, the one of the test-time path.
        importance_weighted: negative importance-weighted bound, bits per dimension.
        bound_samples: samples of that bound, 0 if it was not asked for.
        snr, snr_per_window, log_spectral_distance: see ``SignalMetrics``; of signals (B, C, T) alone.
        sample_rate, bits_per_second_fixed, bits_per_second_entropy: of sound alone; pixels are samples there.
        dataset: the data set's description.
        skipped: figure -> why it is None.
    """

    images: int
    image_shape: tuple[int, ...]
    codebook_size: int
    positions_per_image: float
    mse: float
    psnr: float
    psnr_per_image: float
    ssim: float | None
    codes_used: int
    usage: float
    code_entropy: float
    perplexity: float
    bits_per_pixel_fixed: float
    bits_per_pixel_entropy: float
    conditional_entropy: float | None = None
    aggregate_entropy: float | None = None
    information: float | None = None
    kl_aggregate: float | None = None
    elbo: float | None = None
    albo: float | None = None
    elbo_discrete: float | None = None
    importance_weighted: float | None = None
    bound_samples: int = 0
    snr: float | None = None
    snr_per_window: float | None = None
    log_spectral_distance: float | None = None
    sample_rate: int | None = None
    bits_per_second_fixed: float | None = None
    bits_per_second_entropy: float | None = None
    dataset: str = ""
    skipped: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, of types that JSON has."""
        return {**asdict(self), "image_shape": list(self.image_shape)}


def evaluate(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int = 64,
    likelihood: Likelihood | None = None,
    bound_samples: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure reconstruction, codebook, rate, posterior and bounds of a tokenizer over a set.

    Runs in eval mode without gradients and restores every module's mode. Nothing of the set is kept but
    sums, the largest of size K. Bounds take one sample of the latents per image, drawn from ``seed``; the
    mean over a set needs no more.

    Args:
        model: a ``VQAutoencoder`` around any quantizer. What needs a mixture is skipped for others.
        images: a map-style dataset of (C, ...) images in [0, 1], a loader, or a tensor (N, C, ...).
        batch_size: images per batch (a loader keeps its own).
        likelihood: of the bounds, at its stored scale; default: ``model.likelihood`` if there is one.
        bound_samples: samples of the importance-weighted bound; 0 leaves it out.
        device: move the model there first; default: where it is.
        progress: called after each batch with the batches done and in all.
        limit: use only the first so many images.
        seed: of the bounds' samples. The global generators are left alone (unless a loader passed in uses
        them).

    Raises:
        TypeError: batches are no floating-point tensors.
        ValueError: there is no image, or no codebook, or the reconstructions differ from the images in shape.
    """
    if bound_samples < 0:
        raise ValueError(f"bound_samples must be at least 0, got {bound_samples}")
    if device is not None:
        model.to(device)
    place = device_of(model)
    tokenizer: Any = model
    likelihood = likelihood if likelihood is not None else getattr(model, "likelihood", None)
    quality: ImageMetrics | None = None
    signals: SignalMetrics | None = None
    codes = CodebookMetrics(tokenizer.quantizer.codebook_size)
    posterior: _Posterior | None = None
    skipped: dict[str, str] = {}
    shape: torch.Size | None = None
    total = count_batches(images, batch_size)
    batches = image_batches(images, batch_size=batch_size, device=place, limit=limit)
    with evaluating(model), latents_of(tokenizer.quantizer) as caught:
        for number, x in enumerate(batches, 1):
            out = tokenizer(x)
            if quality is None:
                check_codes(out.quantizer.indices)
                shape = x.shape[1:]
                quality = ImageMetrics(ssim=_can_ssim(x, skipped))
                signals = SignalMetrics() if x.ndim == 3 else None
                posterior = _Posterior.of(tokenizer, likelihood, bound_samples, seed, skipped)
            quality.update(out.reconstruction, x)
            if signals is not None:
                signals.update(out.reconstruction, x)
            codes.update(out.quantizer.indices)
            if posterior is not None:
                posterior.update(caught.pop(), x, out.quantizer.indices)
            caught.clear()
            if progress is not None:
                progress(number, total)
    assert quality is not None  # image_batches raises on an empty set
    assert shape is not None
    code_values = codes.compute()
    bits = rates(
        positions=codes.positions,
        pixels=quality.images * math.prod(shape[1:]),
        codebook_size=codes.histogram.numel(),
        code_entropy=code_values["code_entropy"],
    )
    return Evaluation(
        images=quality.images,
        image_shape=tuple(shape),
        codebook_size=codes.histogram.numel(),
        positions_per_image=codes.positions / quality.images,
        **{"ssim": None, **quality.compute()},  # pyright: ignore[reportArgumentType]
        **code_values,  # pyright: ignore[reportArgumentType]
        **bits,
        **signal_figures(signals, images, bits),  # pyright: ignore[reportArgumentType]
        **({} if posterior is None else posterior.compute()),  # pyright: ignore[reportArgumentType]
        bound_samples=bound_samples if posterior is not None and posterior.likelihood is not None else 0,
        dataset=description_of(images),
        skipped=skipped,
    )


class _Posterior:
    """Sums over a set of what needs the mixture: q(c|x), and the bounds if there is a likelihood."""

    def __init__(
        self, tokenizer: Any, likelihood: Likelihood | None, samples: int, seed: int, device: torch.device
    ) -> None:
        self.model = LatentModel.of(tokenizer.quantizer).in_float64()
        self.likelihood, self._samples = likelihood, samples
        self._decode = decoder_of(tokenizer)
        self._aggregate = AggregatePosterior(self.model.codebook_size, device)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._sums: dict[str, float] = dict.fromkeys(("elbo", "elbo_discrete", "importance_weighted"), 0.0)
        self._images, self._dimensions = 0, 1

    @classmethod
    def of(
        cls, tokenizer: Any, likelihood: Likelihood | None, samples: int, seed: int, skipped: dict[str, str]
    ) -> _Posterior | None:
        """Decide what can be measured; the rest goes to ``skipped`` with its reason."""
        bounds = ("elbo", "albo", "elbo_discrete", *(("importance_weighted",) if samples else ()))
        if not isinstance(tokenizer.quantizer, MixtureQuantizer):
            reason = f"{type(tokenizer.quantizer).__name__} is no mixture: it has no q(c|x)"
            entropies = ("conditional_entropy", "aggregate_entropy", "information", "kl_aggregate")
            skipped.update(dict.fromkeys((*entropies, *bounds), reason))
            return None
        reason = _no_likelihood(likelihood)
        if reason:
            skipped.update(dict.fromkeys(bounds, reason))
        return cls(tokenizer, None if reason else likelihood, samples, seed, device_of(tokenizer))

    def update(self, latents: Tensor, x: Tensor, indices: Tensor) -> None:
        mask = indices >= 0
        block = max(1, _BLOCK_VALUES // self.model.codebook_size)
        self._images += x.shape[0]
        self._dimensions = x[0].numel()
        if self.likelihood is None:
            z = self.model.standardized(latents)[mask].to(self.model.codebook)
            for rows in z.split(block):
                self._aggregate.update(self.model.log_responsibilities(rows))
            return
        shared = (latents, x, self._decode, self.likelihood.to(x.device))
        options = {"generator": self._generator, "block": block, "mask": None if bool(mask.all()) else mask}
        bounds = elbo_with_and_without_noise(self.model, *shared, aggregate=self._aggregate, **options)
        for name, bound in zip(("elbo", "elbo_discrete"), bounds, strict=True):
            self._sums[name] += float(bound.value.sum())
        if self._samples:
            bound = importance_weighted_bound(self.model, *shared, samples=self._samples, **options)
            self._sums["importance_weighted"] += float(bound.sum())

    def compute(self) -> dict[str, float]:
        aggregate = self._aggregate
        values = {
            "conditional_entropy": float(aggregate.conditional_entropy),
            "aggregate_entropy": float(aggregate.aggregate_entropy),
            "information": float(aggregate.information),
            "kl_aggregate": float(aggregate.kl(self.model.log_weights)),
        }
        if self.likelihood is None:
            return values
        sums = dict(self._sums)
        # The mean ALBO over the set that qbar was taken over is the mean ELBO plus P I_q.
        sums["albo"] = sums["elbo"] + aggregate.count * values["information"]
        if not self._samples:
            del sums["importance_weighted"]
        bits = {k: bits_per_dimension(-v / self._images, self._dimensions) for k, v in sums.items()}
        return {**values, **bits}


def decoder_of(tokenizer: Any) -> Callable[[Tensor], Tensor]:
    """From z (B, *P, D) to reconstructions, in the layout and dtype of the model's decoder."""
    return partial(decode_latents, tokenizer)


@contextmanager
def latents_of(quantizer: Any) -> Iterator[list[Tensor]]:
    """Catch what the quantizer is called with: the latents (B, *P, D) of the forward pass."""
    caught: list[Tensor] = []
    if not isinstance(quantizer, nn.Module):
        yield caught
        return

    def catch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        caught.append(arguments[0])

    handle = quantizer.register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


def _can_ssim(x: Tensor, skipped: dict[str, str]) -> bool:
    if x.ndim == 3:
        skipped["ssim"] = "these are signals, and SSIM compares pictures"
        return False
    try:
        per_image_ssim(x[:1], x[:1])
    except (ValueError, MissingExtraError) as error:
        skipped["ssim"] = str(error)
        return False
    return True


def _no_likelihood(likelihood: Likelihood | None) -> str:
    if likelihood is None:
        return "no likelihood: the model has none; pass evaluate(..., likelihood=...)"
    if likelihood.scale == "ml" and int(likelihood.observations) == 0:
        return "the likelihood's scale was never set; call likelihood.observe(...) on training data"
    return ""
