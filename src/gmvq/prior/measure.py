"""A prior over a set of tokens in figures: bits per token, image and pixel, beside codes without context."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evaluation.metrics import CodebookMetrics
from .data import TokenRows
from .prior import TokenPrior

_BATCH = 256


@dataclass(frozen=True)
class PriorFigures:
    """A prior on the tokens of a split.

    Attributes:
        images: number of images.
        exact: whether the likelihood is exact (causal) or a bound (masked).
        bits_per_token, bits_per_image, bits_per_pixel: -log2 p(x | y); a pixel is one place, whatever its channels.
        bits_per_token_entropy: H of the split's histogram of codes, a coder without context.
        bits_per_token_fixed: log2 K, the mean over tokens.
    """

    images: int
    exact: bool
    bits_per_token: float
    bits_per_image: float
    bits_per_pixel: float
    bits_per_token_entropy: float
    bits_per_token_fixed: float


def measure_prior(prior: TokenPrior, rows: TokenRows) -> PriorFigures:
    """Measure ``prior`` on rows of tokens, with their labels if it knows labels."""
    spec, count = prior.spec, len(rows)
    nats = 0.0
    codes = [CodebookMetrics(size) for size in spec.sizes]
    for number, start in enumerate(range(0, count, _BATCH)):
        batch = rows.__getitems__([(i, 0) for i in range(start, min(start + _BATCH, count))])
        labels = batch["label"] if spec.labels else None
        nats += float(prior.nats(batch["indices"], labels, seed=number).double().sum())
        flat = spec.codes(batch["indices"])
        for one, metrics in enumerate(codes):
            metrics.update(flat[:, spec.levels_of == one])
    entropy = sum(metrics.positions * metrics.compute()["code_entropy"] for metrics in codes)
    entropy /= count * spec.length
    fixed = sum(metrics.positions * math.log2(metrics.mean_size) for metrics in codes) / (count * spec.length)
    bits = nats / count / math.log(2)
    pixels = math.prod(rows.tokens.manifest.image_shape[1:])
    return PriorFigures(
        images=count,
        exact=prior.kind == "causal",
        bits_per_token=bits / spec.length,
        bits_per_image=bits,
        bits_per_pixel=bits / pixels,
        bits_per_token_entropy=entropy / math.log(2),
        bits_per_token_fixed=fixed,
    )
