"""``evaluate``: every metric of a tokenizer over a whole set in one pass, holding only K-sized sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MissingExtraError
from ..models.interface import code_sizes, device_of, evaluating
from ..objectives import Likelihood
from ..quantizers import RaggedGMVQ
from ..quantizers.leaves import to_leaves, tree_bits
from .batches import Images, check_codes, count_batches, description_of, image_batches
from .metrics import CodebookMetrics, ImageMetrics, per_image_ssim, rates
from .posterior import Posterior
from .signals import SignalMetrics, signal_figures

Progress = Callable[[int, int | None], None]
"""Called after each batch with the number of batches done and in all (None where unknown)."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of a tokenizer over a set; None where one does not exist, with the reason in ``skipped``.

    Attributes:
        images, image_shape: number of images, and their (C, ...).
        codebook_size, positions_per_image: K and the mean number of unmasked latent positions P.
        codebook_sizes: K of each level, where they differ; ``codebook_size`` is then their sum, and codes are counted
            level by level.
        mse, psnr, psnr_per_image, ssim: see ``ImageMetrics``; of reconstructions clamped to [0, 1].
        tree_bits_per_image: of a ``RaggedGMVQ``, a bit for each block of which its tree says if it is divided. Codes
            are then those of the leaves, as they are stored, P their mean number, and the rates count both.
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
    codebook_sizes: tuple[int, ...] | None = None
    tree_bits_per_image: float | None = None
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
    **spend: Any,
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
        spend: ``budget`` or ``distortion``, for a ``RaggedGMVQ``; figures of q(c|x) at each position are then skipped.

    Raises:
        TypeError: batches are no floating-point tensors.
        ValueError: there is no image, or no codebook, or the reconstructions differ from the images in shape.
    """
    if bound_samples < 0:
        raise ValueError(f"bound_samples must be at least 0, got {bound_samples}")
    if device is not None:
        model.to(device)
    tokenizer: Any = model
    likelihood = likelihood if likelihood is not None else getattr(model, "likelihood", None)
    skipped: dict[str, str] = {}
    posterior = Posterior.of(tokenizer, likelihood, bound_samples, seed, skipped, spend)
    sums: _Sums | None = None
    total = count_batches(images, batch_size)
    batches = image_batches(images, batch_size=batch_size, device=device_of(model), limit=limit)
    with evaluating(model), latents_of(tokenizer.quantizer) as caught:
        for number, x in enumerate(batches, 1):
            out = tokenizer(x, **spend)
            sums = sums or _Sums(tokenizer.quantizer, posterior, skipped, x, out)
            sums.update(x, out, caught[-1] if caught else None)
            caught.clear()
            if progress is not None:
                progress(number, total)
    assert sums is not None  # image_batches raises on an empty set
    return sums.compute(images)


class _Sums:
    """Every sum over a set; the first batch says what can be measured."""

    def __init__(
        self, quantizer: Any, posterior: Posterior | None, skipped: dict[str, str], x: Tensor, out: Any
    ) -> None:
        check_codes(out.quantizer.indices)
        self._shape = x.shape[1:]
        self._posterior, self._skipped = posterior, skipped
        self._codes = CodebookMetrics(code_sizes(quantizer))
        self._quality = ImageMetrics(ssim=_can_ssim(x, skipped))
        self._signals = SignalMetrics() if x.ndim == 3 else None
        self._scales = quantizer.scales if isinstance(quantizer, RaggedGMVQ) else 1
        self._tree = 0

    def update(self, x: Tensor, out: Any, latents: Tensor | None) -> None:
        self._quality.update(out.reconstruction, x)
        if self._signals is not None:
            self._signals.update(out.reconstruction, x)
        codes = out.quantizer.indices
        if self._scales > 1:
            self._tree += int(tree_bits(codes, self._scales).sum())
            codes, _, _ = to_leaves(codes, self._scales)
        self._codes.update(codes)
        if self._posterior is not None and latents is not None:
            self._posterior.update(latents, x, out.quantizer.indices)

    def compute(self, images: Images) -> Evaluation:
        count, codes = self._quality.images, self._codes.compute()
        sizes, positions = self._codes.sizes, self._codes.positions
        bits = rates(
            positions=positions,
            pixels=count * math.prod(self._shape[1:]),
            codebook_size=self._codes.mean_size,
            code_entropy=codes["code_entropy"],
            tree_bits=self._tree,
        )
        posterior = self._posterior
        values: dict[str, Any] = {
            "ssim": None,
            **self._quality.compute(),
            **codes,
            **bits,
            **signal_figures(self._signals, images, bits),
            **({} if posterior is None else posterior.compute()),
        }
        return Evaluation(
            images=count,
            image_shape=tuple(self._shape),
            codebook_size=sum(sizes),
            codebook_sizes=sizes if len(sizes) > 1 else None,
            tree_bits_per_image=self._tree / count if self._scales > 1 else None,
            positions_per_image=positions / count,
            bound_samples=0 if posterior is None or posterior.likelihood is None else posterior.samples,
            dataset=description_of(images),
            skipped=self._skipped,
            **values,
        )


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
