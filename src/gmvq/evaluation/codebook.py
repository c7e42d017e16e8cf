"""Look into a codebook: which codes are used, how far apart they are, how many are really distinct."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..models.interface import code_sizes, device_of, evaluating
from ..objectives import MixtureQuantizer
from .batches import Images, image_batches
from .metrics import CodebookMetrics

#: Two codewords are near-duplicates when, at one of them, the other has at least this share of its posterior
#: odds: exp(-d^2 / 2) >= 0.9, or d <= 0.46 component standard deviations.
DUPLICATE_ODDS = 0.9
_BLOCK_VALUES = 1 << 22  # entries of one block of pairs: 32 MiB in float64
_MAX_ROWS = 8192  # of a larger codebook a sample of so many codewords is compared with all


@dataclass(frozen=True)
class CodebookReport:
    """What ``inspect_codebook`` found. Distances are in component standard deviations (or see ``unit``).

    Attributes:
        codebook_size: K.
        dim: D.
        rows: number R of codewords inspected; below K where a large codebook was sampled.
        histogram: positions per code over the data set, (K,), int64; None without a data set.
        nearest: distance of each inspected codeword to its nearest other one, (R,); empty for K = 1.
        unit: the unit of ``nearest``.
        component_std: 1 / sqrt(w), (1,) or (D,), in units of the standardised latents. This and what follows is None
            for a quantizer that is no mixture.
        weights: pi, (K,).
        near_duplicates: inspected codewords that nearly coincide with one of a lower number, so that m copies
            of one codeword count m - 1.
        effective_codes: effective number of distinct codewords, all counting alike, 1 to K.
        effective_codes_used: the same with every code weighted by its use, 1 to perplexity.
    """

    codebook_size: int
    dim: int
    rows: int
    histogram: Tensor | None
    nearest: Tensor
    unit: str = "units of the latents"
    component_std: Tensor | None = None
    weights: Tensor | None = None
    near_duplicates: int | None = None
    effective_codes: float | None = None
    effective_codes_used: float | None = None

    def summary(self) -> dict[str, Any]:
        """Return the scalars, JSON-able: sizes, duplicates, effective numbers, quantiles of the distances."""
        arrays = ("histogram", "nearest", "component_std", "weights")
        values: dict[str, Any] = {name: value for name, value in vars(self).items() if name not in arrays}
        if self.nearest.numel():
            quantiles = self.nearest.quantile(self.nearest.new_tensor([0.0, 0.5, 1.0])).tolist()
            values |= dict(zip(("nearest_min", "nearest_median", "nearest_max"), quantiles, strict=True))
        if self.component_std is not None:
            values["component_std"] = float(self.component_std.log().mean().exp())
        if self.weights is not None:
            values["weights_perplexity"] = math.exp(float(-torch.xlogy(self.weights, self.weights).sum()))
        if self.histogram is not None and int(self.histogram.sum()):
            metrics = CodebookMetrics(self.codebook_size)
            metrics.histogram = self.histogram
            values |= {"positions": metrics.positions, **metrics.compute()}
        return values


def inspect_codebook(
    model: nn.Module, dataset: Images | None = None, *, batch_size: int = 64, max_rows: int = _MAX_ROWS
) -> CodebookReport:
    r"""Measure a codebook's use, distances and number of distinct codewords.

    The effective number of distinct codewords is the similarity-aware diversity of order 1 of Leinster and
    Cobbold (Ecology 93, 2012):

    .. math:: \exp\Bigl(-\sum_i p_i \log \sum_j Z_{ij} p_j\Bigr), \qquad
              Z_{ij} = \exp\bigl(-\tfrac12 \sum_d w_d (\mu_{id} - \mu_{jd})^2\bigr)

    Z_ij is the posterior odds of code j against code i at the codeword i, under equal weights and before any
    sharpening: codes that the mixture itself cannot tell apart count as one. m exact copies give 1, K
    far-apart codewords K; weighted by use it is at most the perplexity, and the gap between the two is
    perplexity faked by copies.

    Pairs are computed in blocks in float64; memory does not grow with K^2. Above ``max_rows`` codewords a
    fixed random sample of that many is compared with all of them, which leaves the numbers estimates.

    Args:
        model: a model with a ``quantizer``, or a quantizer.
        dataset: images to count the codes of (a dataset, loader or tensor); needs a model.
        batch_size: images per batch.
        max_rows: largest number of codewords compared with all.

    Raises:
        ValueError: the quantizer has more than one codebook.
        TypeError: a data set was given with a quantizer alone.
    """
    quantizer: Any = getattr(model, "quantizer", model)
    histogram = None
    if dataset is not None:
        if quantizer is model:
            raise TypeError("a data set needs the whole model to be encoded, got a quantizer alone")
        histogram = code_histogram(model, dataset, batch_size=batch_size)
    with evaluating(model):
        points, std, weights = codewords(quantizer), None, None
        if isinstance(quantizer, MixtureQuantizer):
            std = (-0.5 * quantizer.log_precision.detach().reshape(-1)).double().exp().cpu()
            weights = quantizer.log_weights().detach().double().softmax(-1).cpu()
            points = points / std
        rows = _choose(points.shape[0], max_rows)
        nearest, duplicates, effective, used = _compare(points, rows, histogram)
    report = CodebookReport(len(points), points.shape[1], rows.numel(), histogram, nearest)
    if std is None:
        return report
    distinct = {"near_duplicates": duplicates, "effective_codes": effective, "effective_codes_used": used}
    unit = "component standard deviations"
    return replace(report, unit=unit, component_std=std, weights=weights, **distinct)


def code_histogram(model: nn.Module, dataset: Images, *, batch_size: int = 64) -> Tensor:
    """Count the positions that get each code over a data set: (K,), int64; of levels with other sizes one by one."""
    encoder: Any = model
    metrics = CodebookMetrics(code_sizes(encoder.quantizer))
    with evaluating(model):
        for batch in image_batches(dataset, batch_size=batch_size, device=device_of(model)):
            metrics.update(encoder.encode(batch))
    return metrics.histogram


def codewords(quantizer: Any) -> Tensor:
    """All codewords, (K, D), float64 on the CPU: a mixture's own (standardised), else the decoded indices."""
    if isinstance(quantizer, MixtureQuantizer):
        return quantizer.codebook.detach().double().cpu()
    size = quantizer.codebook_size
    points = None
    with contextlib.suppress(ValueError, IndexError, RuntimeError):
        points = quantizer.get_codes_from_indices(torch.arange(size, device=device_of(quantizer)))
    if not isinstance(points, Tensor) or points.ndim != 2 or points.shape[0] != size:
        raise ValueError(
            f"{type(quantizer).__name__} has no single codebook of {size} codewords to inspect; "
            "inspect its parts one by one"
        )
    return points.detach().double().cpu()


def diversity(points: Tensor, histogram: Tensor | None = None) -> float:
    """Effective number of distinct codewords, exp(-sum_i p_i log sum_j Z_ij p_j), Z_ij = exp(-|a_i - a_j|^2 / 2).

    ``points`` are a, (K, D), in units in which a distance of 1 can hardly be told from 0; ``histogram`` is p up to a
    factor, (K,), None: all alike.
    """
    _, _, uniform, used = _compare(points, _choose(points.shape[0], _MAX_ROWS), histogram)
    return uniform if used is None else used


def _choose(size: int, max_rows: int) -> Tensor:
    if size <= max_rows:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:max_rows].sort().values


def _compare(
    points: Tensor, rows: Tensor, histogram: Tensor | None
) -> tuple[Tensor, int, float, float | None]:
    """Nearest distances (R,), copies of a lower-numbered point, diversity uniform and weighted by use."""
    size = points.shape[0]
    points = points - points.mean(0)  # less cancellation in |a|^2 + |b|^2 - 2 a.b
    norms = points.square().sum(-1)
    used = None if histogram is None or not int(histogram.sum()) else histogram.double() / histogram.sum()
    p = torch.full((size, 1), 1.0 / size, dtype=torch.float64)
    if used is not None:
        p = torch.cat([p, used[:, None]], 1)
    threshold = -2.0 * math.log(DUPLICATE_ODDS)
    nearest, ordinary, duplicates = [], [], 0
    for block in rows.split(max(1, _BLOCK_VALUES // size)):
        squared = torch.addmm(norms, points[block], points.T, alpha=-2.0)
        squared = squared.add_(norms[block][:, None]).clamp_min_(0.0)
        here = torch.arange(block.numel())
        squared[here, block] = 0.0  # exact, whatever the rounding
        ordinary.append(squared.mul(-0.5).exp_() @ p)
        squared[here, block] = math.inf
        nearest.append(squared.amin(1).sqrt())
        lower = torch.arange(size) < block[:, None]
        duplicates += int(((squared <= threshold) & lower).any(1).sum())
    log_ordinary = torch.cat(ordinary).log()
    uniform = math.exp(-float(log_ordinary[:, 0].mean()))
    weighted = None
    if used is not None:
        share = used[rows] / used[rows].sum().clamp_min(1e-300)
        # A code without use may have an ordinariness of 0, whose logarithm must not meet its weight 0.
        weighted = math.exp(-float((share * log_ordinary[:, 1].masked_fill(share == 0, 0.0)).sum()))
    return (torch.cat(nearest) if size > 1 else points.new_empty(0)), duplicates, uniform, weighted
