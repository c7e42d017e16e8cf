"""FID, KID, precision and recall of generated images against real ones, each with an interval; rFID of a tokenizer.

Features are extracted once per set (``features``); every figure and every resample comes from them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_positive
from ..models.interface import device_of, evaluating
from .batches import Images, image_batches
from .distances import check_pair, frechet_distance, kernel_distances, precision_recall
from .extractors import extractor_name, open_extractor

#: Fewer images than this leave halves too small for neighbours and covariances.
MIN_IMAGES = 16


@dataclass(frozen=True)
class Estimate:
    """A figure, and its 95 % interval; the function that made it says what the interval covers."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GenerationMetrics:
    """Figures of generated images against real ones. The lower the better for FID and KID.

    Attributes:
        extractor: whose features; figures by different extractors do not compare.
        real, generated: numbers of images; FID, precision and recall compare at equal numbers alone.
        paired: the sets are images and their reconstructions, in one order.
        resamples: half-samples behind the intervals.
        fid: Frechet distance at these numbers of images.
        fid_unbounded: ``fid`` extrapolated to infinitely many images: 2 FID - mean FID of the halves, exact where
            the bias is a constant over N (arXiv 1911.07023). With fewer images than features it is a rough guess.
        kid: squared maximum mean discrepancy, unbiased (for pairs too), not multiplied by 1,000; may be negative.
        precision: share of generated images among the real ones.
        recall: share of real images among the generated ones.
        neighbours: k of the last two.
    """

    extractor: str
    real: int
    generated: int
    paired: bool
    resamples: int
    fid: Estimate
    fid_unbounded: Estimate
    kid: Estimate
    precision: Estimate
    recall: Estimate
    neighbours: int = 3

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, of types that JSON has; estimates as {value, low, high}."""
        return asdict(self)


def features(
    images: Images,
    extractor: nn.Module,
    batch_size: int = 64,
    *,
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Features of a set of images (C, H, W) in [0, 1], or of the first ``limit``: (N, F), float32 on the CPU.

    The images are clamped and rounded to whole levels of 0 to 255, as a stored picture is. The extractor, see
    ``open_extractor``, makes of (B, C, H, W) uint8 (B, F), with F as its ``num_features``; it is moved to ``device``.
    """
    place = device_of(extractor) if device is None else torch.device(device)
    extractor.to(place)
    with evaluating(extractor):
        batches = image_batches(images, batch_size=batch_size, device=place, limit=limit)
        return torch.cat([_extract(extractor, x) for x in batches])


def generation_metrics(
    real: Tensor,
    generated: Tensor,
    *,
    extractor_name: str,
    resamples: int = 50,
    seed: int = 0,
    neighbours: int = 3,
    paired: bool = False,
) -> GenerationMetrics:
    r"""Compare the features of generated images with those of real ones.

    Intervals are by half-samples (the delete-half jackknife): each of ``resamples`` times, half of the images of
    either set are taken *without replacement* and the figure is computed anew. Its variance over half-samples of
    n is, to first order, that of the figure over sets of n, so the interval is the figure of the whole set plus
    and minus 1.96 standard deviations, times sqrt(m / (n - m)) for halves of m that are not quite half. The
    ordinary bootstrap is wrong here: its duplicates add to FID's bias, have no distance to their neighbours, and
    are counted as unequal pairs in KID.

    The intervals are of sampling: what another draw of as many images, real and generated, would change. They do
    not cover FID's bias at this number of images (see ``fid_unbounded``), nor another training seed.

    Time and memory: pairs of images are taken in blocks, N^2 F work in all and a decomposition of F x F for each
    half-sample; 5,000 images of 1,280 features take half a minute on one core. It is done where the features are:
    move them to a GPU for tens of thousands.

    Args:
        real, generated: (N, F) and (M, F), of one extractor.
        extractor_name: for the table; ``gmvq.evaluation.extractor_name(extractor)``.
        resamples: half-samples, at least 2.
        seed: of the half-samples; the global generators are left alone.
        neighbours: k of precision and recall.
        paired: row i of both sets is one image: the halves take both or neither.

    Raises:
        ValueError: fewer than ``MIN_IMAGES`` images, sets that do not fit together, or values that are not finite.
    """
    real, generated = _checked(real, generated, resamples, neighbours, paired)
    n, m = real.shape[0], generated.shape[0]
    generator = torch.Generator().manual_seed(seed)
    parts1 = _whole_and_halves(n, resamples, generator).to(real.device)
    parts2 = parts1 if paired else _whole_and_halves(m, resamples, generator).to(generated.device)
    pairs = zip(parts1, parts2, strict=True)
    fid = torch.tensor([frechet_distance(real[a], generated[b]) for a, b in pairs], dtype=torch.float64)
    shares = precision_recall(real, generated, parts1, parts2, neighbours=neighbours)
    half = min(n, m) // 2
    scale = math.sqrt(half / (min(n, m) - half))
    # It moves as FID does, as the mean of the halves does too.
    unbounded = torch.cat([2 * fid[:1] - fid[1:].mean(), fid[1:]])
    return GenerationMetrics(
        extractor=extractor_name,
        real=n,
        generated=m,
        paired=paired,
        resamples=resamples,
        fid=_estimate(fid, scale, low=0.0),
        fid_unbounded=_estimate(unbounded, scale * math.sqrt(1 + 1 / resamples)),
        kid=_estimate(kernel_distances(real, generated, parts1, parts2, paired=paired), scale),
        precision=_estimate(shares.precision, scale, low=0.0, high=1.0),
        recall=_estimate(shares.recall, scale, low=0.0, high=1.0),
        neighbours=neighbours,
    )


def _checked(
    real: Tensor, generated: Tensor, resamples: int, neighbours: int, paired: bool
) -> tuple[Tensor, Tensor]:
    """Both sets in float64, once they and the numbers are known to fit."""
    real, generated = check_pair(real, generated)
    n, m = real.shape[0], generated.shape[0]
    check_positive("neighbours", neighbours)
    if min(n, m) < MIN_IMAGES:
        raise ValueError(
            f"FID and its intervals need at least {MIN_IMAGES} images of both kinds (thousands, to be of use), "
            f"got {n} real and {m} generated"
        )
    if paired and n != m:
        raise ValueError(f"paired sets have one size, got {n} and {m}; pass paired=False for samples")
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, for an interval, got {resamples}")
    return real, generated


def reconstruction_metrics(
    model: nn.Module,
    images: Images,
    extractor: nn.Module | None = None,
    *,
    batch_size: int = 64,
    limit: int | None = None,
    resamples: int = 50,
    seed: int = 0,
    **spend: Any,
) -> GenerationMetrics:
    """rFID and the rest of a tokenizer: its reconstructions against the images themselves, in one pass.

    Args:
        model: a ``VQAutoencoder``; its reconstructions are clamped and rounded as stored pictures are.
        images: a dataset, a loader or a tensor of images (C, H, W) in [0, 1].
        extractor: default: the packaged EfficientNet-Lite0 on the model's device.
        batch_size, limit: as in ``features``.
        resamples, seed: as in ``generation_metrics``, whose intervals keep an image with its reconstruction.
        spend: ``budget`` or ``distortion``, for a ``RaggedGMVQ``.
    """
    place = device_of(model)
    extractor = (open_extractor() if extractor is None else extractor).to(place)
    tokenizer: Any = model
    originals: list[Tensor] = []
    copies: list[Tensor] = []
    with evaluating(model), evaluating(extractor):
        for x in image_batches(images, batch_size=batch_size, device=place, limit=limit):
            originals.append(_extract(extractor, x))
            copies.append(_extract(extractor, tokenizer(x, **spend).reconstruction))
    pair, name = (torch.cat(originals), torch.cat(copies)), extractor_name(extractor)
    return generation_metrics(*pair, extractor_name=name, resamples=resamples, seed=seed, paired=True)


def format_generation(metrics: GenerationMetrics) -> str:
    """The figures as an aligned plain-text table with intervals, and below it what they are made with."""
    prefix = "r" if metrics.paired else ""
    figures = [
        (f"{prefix}FID", metrics.fid, 1.0, ".2f"),
        (f"{prefix}FID, to infinitely many images", metrics.fid_unbounded, 1.0, ".2f"),
        ("KID x 1e3", metrics.kid, 1e3, ".2f"),
        (f"precision (k = {metrics.neighbours})", metrics.precision, 1.0, ".3f"),
        (f"recall (k = {metrics.neighbours})", metrics.recall, 1.0, ".3f"),
    ]
    rows = [
        (label, *(format(scale * v, style) for v in (e.value, e.low, e.high)))
        for label, e, scale, style in figures
    ]
    width, digits = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [f"{label:<{width}}  {value:>{digits}}  [{low}, {high}]" for label, value, low, high in rows]
    kind = "reconstructions" if metrics.paired else "generated images"
    lines.append(f"features: {metrics.extractor}; {metrics.real:,} images, {metrics.generated:,} {kind}")
    lines.append(f"intervals: 95 %, {metrics.resamples} half-samples without replacement")
    return "\n".join(lines)


def _extract(extractor: nn.Module, images: Tensor) -> Tensor:
    if images.ndim != 4:
        raise ValueError(
            f"FID and its like are of images, (B, C, H, W), got {tuple(images.shape)}; leave them out for signals"
        )
    levels = images.clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
    found = extractor(levels)
    wanted = (images.shape[0], getattr(extractor, "num_features", found.shape[-1]))
    if tuple(found.shape) != wanted:
        raise ValueError(
            f"the extractor must give features of shape {wanted} (its num_features), got {tuple(found.shape)}"
        )
    return found.float().cpu()


def _whole_and_halves(count: int, resamples: int, generator: torch.Generator) -> Tensor:
    """(1 + R, N), boolean: everything, then R random halves."""
    parts = torch.zeros(1 + resamples, count, dtype=torch.bool)
    parts[0] = True
    for row in parts[1:]:
        row[torch.randperm(count, generator=generator)[: count // 2]] = True
    return parts


def _estimate(values: Tensor, scale: float, *, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """From the figure of the whole, values[0], and of the halves."""
    value = float(values[0])
    width = 1.96 * scale * float(values[1:].std())
    return Estimate(value, max(low, value - width), min(high, value + width))
