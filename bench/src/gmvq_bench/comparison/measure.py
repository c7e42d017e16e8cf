"""The figures of a trained tokenizer over a split, the same for every method: errors, KID, codes, rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmvq.errors import MissingExtraError
from gmvq.evaluation.batches import image_batches
from gmvq.evaluation.codebook import codewords, diversity
from gmvq.evaluation.distances import kernel_distances
from gmvq.evaluation.extractors import EXTRACTOR, EfficientNetLite
from gmvq.evaluation.generation import features
from gmvq.evaluation.metrics import CodebookMetrics, ImageMetrics, rates
from gmvq.models.interface import device_of, evaluating

#: Images at most that enter KID, spread evenly over the split: the extractor costs more than the tokenizer.
_KID_IMAGES = 512
_BATCH = 256


def measure_validation(model: Any, images: Any) -> dict[str, float]:
    """MSE, perplexity and usage, float32 in eval mode."""
    quality, codes = ImageMetrics(ssim=False), CodebookMetrics(model.quantizer.codebook_size)
    with evaluating(model):
        for x in image_batches(images, batch_size=_BATCH, device=device_of(model)):
            out = model(x)
            quality.update(out.reconstruction, x)
            codes.update(out.quantizer.indices)
    values = {**quality.compute(), **codes.compute()}
    return {name: values[name] for name in ("mse", "perplexity", "usage")}


def measure_test(model: Any, images: Any) -> dict[str, Any]:
    """Every figure of the table, as ``test``, and the name of KID's ``extractor`` (None: not installed).

    ``distinct`` is the effective number of distinct codewords in use (``evaluation.codebook.diversity``) at the
    scale of the quantization error: two codewords are alike at odds exp(-d^2 / 2 e), e the mean squared error per
    feature between latents and codewords. It exists for every quantizer, mixture or not, whose codewords stand for
    latents: None for codes on a sphere, behind a projection or picked by logits (``codewords_are_latents``).
    """
    quality, codes = ImageMetrics(), CodebookMetrics(model.quantizer.codebook_size)
    squared, values, pixels, seen = 0.0, 0, 0, 0
    stride, pairs = math.ceil(len(images) / _KID_IMAGES), list[tuple[Tensor, Tensor]]()
    read: Any = getattr(model.quantizer, "decoder_units", lambda latents: latents)
    with evaluating(model):
        for x in image_batches(images, batch_size=_BATCH, device=device_of(model)):
            latents = model.encoder(x).movedim(1, -1)
            out = model.quantizer(latents)
            reconstruction = model.decoder(out.quantized.movedim(-1, 1).contiguous())
            quality.update(reconstruction, x)
            codes.update(out.indices)
            squared += float((out.quantized - read(latents)).double().square().sum())
            values, pixels = values + latents.numel(), pixels + x.numel() // x.shape[1]
            some = slice(-seen % stride, None, stride)
            pairs.append((x[some], reconstruction[some].clamp(0.0, 1.0)))
            seen += len(x)
    kid = _kid(*(torch.cat(part) for part in zip(*pairs, strict=True)))
    used = codes.compute()
    sizes = {"positions": codes.positions, "pixels": pixels, "codebook_size": codes.histogram.numel()}
    rate = rates(**sizes, code_entropy=used["code_entropy"])
    figures: dict[str, Any] = {
        **{name: value for name, value in quality.compute().items() if name != "psnr_per_image"},
        **{name: used[name] for name in ("perplexity", "usage", "codes_used")},
        "bits_per_pixel": rate["bits_per_pixel_fixed"],
        "bits_per_pixel_entropy": rate["bits_per_pixel_entropy"],
        "kid": kid,
        "distinct": _distinct(model.quantizer, codes, squared / values),
    }
    return {"test": figures, "extractor": None if kid is None else EXTRACTOR}


def _kid(images: Tensor, reconstructions: Tensor) -> float | None:
    """The unbiased kernel distance over all of them; None without the extractor's package."""
    try:
        extractor = EfficientNetLite()
    except MissingExtraError:
        return None
    parts = (images, reconstructions)
    real, made = (features(part, extractor, device=images.device).double() for part in parts)
    whole = torch.ones(1, len(images), dtype=torch.bool)
    return float(kernel_distances(real, made, whole, whole))


def _distinct(quantizer: Any, codes: CodebookMetrics, error: float) -> float | None:
    """Effective number of distinct codewords in use; None where codewords are no points among the latents."""
    if not getattr(quantizer, "codewords_are_latents", True):
        return None
    try:
        points = codewords(quantizer)
    except ValueError:
        return None
    if hasattr(quantizer, "unstandardized"):  # a mixture's codewords are in its own units
        with torch.no_grad():
            points = quantizer.unstandardized(points.to(quantizer.codebook)).double().cpu()
    return diversity(points / math.sqrt(max(error, 1e-20)), codes.histogram)
