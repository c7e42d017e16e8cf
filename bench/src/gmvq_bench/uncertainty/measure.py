"""Does a tokenizer know when it errs: rank correlation, calibration, and images it was not trained on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from gmvq.errors import check_size
from gmvq.evaluation.generation import Estimate

from ..markdown import render
from .scores import Scores

Values = NDArray[np.float64]
#: What each score is called in tables.
LABELS = {
    "log_variance": "log s²",
    "entropy": "H(q(c|x))",
    "negative_elbo": "negative ELBO",
    "mse": "MSE",
    "contrast": "contrast of the image (no model)",
}
_LOCAL = ("log_variance", "entropy", "contrast")


@dataclass(frozen=True)
class Bin:
    """Positions between two quantiles of log s^2: its mean, and that of the error around them with an interval."""

    log_variance: float
    error: Estimate


@dataclass(frozen=True)
class Uncertainty:
    """What the scores of a set of images say of the error, and of other images (``out``). Intervals are 95 %.

    Attributes:
        local: score -> Spearman correlation over latent positions with the squared error around the position.
        partial: of log s^2 and that error, over positions, given the contrast of the image there: what log s^2 adds
            to knowing that busy places are hard.
        whole: score -> the same over images, with the MSE of the image.
        bins: error by quantile of log s^2, over positions.
        slope: of log error against log s^2 over the bins: 1 where the error is proportional to s^2.
        auroc: score -> odds that an image of the other set scores higher than one of this set.
        advantage: score -> its AUROC less that of the reconstruction's MSE, over the same resamples.
    """

    images: int
    positions: int
    local: dict[str, Estimate]
    partial: Estimate
    whole: dict[str, Estimate]
    bins: list[Bin]
    slope: float
    dataset: str = ""
    out_images: int = 0
    out_dataset: str = ""
    auroc: dict[str, Estimate] | None = None
    advantage: dict[str, Estimate] | None = None


def measure_uncertainty(
    scores: Scores, out: Scores | None = None, *, bins: int = 10, resamples: int = 200, seed: int = 0
) -> Uncertainty:
    """Compare scores with the error they should predict, and with those of other images.

    Intervals are by the bootstrap over *images*: the positions of one image stay together, being anything but
    independent. They cover the choice of images, not the training of the model.

    The adaptive variance is by definition s_c^2(x) = |z - mu_c|^2 / (2 sigma^2 D), the squared distance of the
    encoder's output to its codeword: as a score it ranks images as the quantization error of any VQ does.

    ``scores`` are of images that the model should know, ``out`` of such as it should not: a score detects these where
    it is higher. ``bins`` are of equal size, by log s^2.
    """
    check_size("bins", bins)
    check_size("resamples", resamples)
    if scores.images < 2 or (out is not None and out.images < 2):
        raise ValueError("uncertainty needs at least two images of either set; give more")
    if scores.log_variance.numel() < bins:
        raise ValueError(f"{scores.log_variance.numel()} positions do not fill {bins} bins; give more images")
    whole = {name: v.numpy() for name, v in scores.per_image().items()}
    names = [name for name in _LOCAL if name in whole]
    error, drawn = scores.error.numpy(), (resamples, seed)
    positions = {name: getattr(scores, name).numpy() for name in names}
    found = _bins(positions["log_variance"], error, bins, drawn)
    return Uncertainty(
        images=scores.images,
        positions=error.shape[1],
        local={name: _correlation(positions[name], error, drawn) for name in names},
        partial=_partial(positions["log_variance"], error, positions["contrast"], drawn),
        whole={name: _correlation(whole[name], whole["mse"], drawn) for name in names},
        bins=found,
        slope=_slope(found),
        dataset=scores.dataset,
        **({} if out is None else _detection(whole, out, drawn)),
    )


def bootstrap(statistic: Callable[..., float], sizes: list[int], drawn: tuple[int, int]) -> Estimate:
    """A statistic of the numbers of images, with its percentile interval, 2.5 to 97.5 %.

    ``statistic`` takes an array of numbers for each of the sets of images, whose ``sizes`` are drawn from separately.
    ``drawn`` is the number of resamples and their seed: two statistics with one seed see the same resamples.
    """
    sets: Any = tuple(np.arange(size) for size in sizes)

    def of(*numbers: Values) -> float:
        with warnings.catch_warnings():
            # A rank correlation of values that do not vary is NaN.
            warnings.simplefilter("ignore")
            return statistic(*(n.astype(int) for n in numbers))

    how: Any = {"n_resamples": drawn[0], "vectorized": False, "method": "percentile"}
    found = stats.bootstrap(sets, of, rng=np.random.default_rng(drawn[1]), **how).bootstrap_distribution
    low, high = np.nanquantile(found, [0.025, 0.975]) if np.isfinite(found).any() else (np.nan, np.nan)
    return Estimate(of(*sets), float(low), float(high))


def spearman(first: Values, second: Values) -> float:
    """Spearman's rank correlation of all entries; NaN where one side does not vary."""
    found: Any = stats.spearmanr(first.ravel(), second.ravel())
    return float(found.statistic)


def _correlation(score: Values, error: Values, drawn: tuple[int, int]) -> Estimate:
    """Spearman over all entries (N, P) or (N,), resampled by rows."""
    return bootstrap(lambda rows: spearman(score[rows], error[rows]), [len(score)], drawn)


def _partial(score: Values, error: Values, given: Values, drawn: tuple[int, int]) -> Estimate:
    """Spearman of score and error given the contrast: (r_se - r_sc r_ec) / sqrt((1 - r_sc^2)(1 - r_ec^2))."""

    def statistic(rows: Any) -> float:
        pairs = ((score, error), (score, given), (error, given))
        direct, first, second = (spearman(a[rows], b[rows]) for a, b in pairs)
        rest = (1.0 - first**2) * (1.0 - second**2)
        return (direct - first * second) / math.sqrt(rest) if rest > 0 else float("nan")

    return bootstrap(statistic, [len(score)], drawn)


def _bins(variance: Values, error: Values, count: int, drawn: tuple[int, int]) -> list[Bin]:
    """Quantile bins of log s^2 over positions; the error's interval is by resampling images."""
    number = np.empty(variance.size, dtype=np.int64)
    number[np.argsort(variance, axis=None, kind="stable")] = np.arange(variance.size) * count // variance.size
    bins = []
    for i in range(count):
        inside = (number == i).reshape(variance.shape)
        counts, sums = inside.sum(1), (error * inside).sum(1)

        def mean(rows: Any, counts: Values = counts, sums: Values = sums) -> float:
            return float(sums[rows].sum() / max(counts[rows].sum(), 1e-300))

        bins.append(Bin(float(variance[inside].mean()), bootstrap(mean, [len(counts)], drawn)))
    return bins


def _slope(bins: list[Bin]) -> float:
    """Least squares of log error on log s^2; NaN where neither varies or an error is zero."""
    x = np.array([b.log_variance for b in bins])
    y = np.array([math.log(b.error.value) if b.error.value > 0 else np.nan for b in bins])
    x = x - x.mean()
    return float(x @ (y - y.mean()) / (x @ x)) if x @ x > 0 else float("nan")


def _detection(inside: dict[str, Values], out: Scores, drawn: tuple[int, int]) -> dict[str, Any]:
    """How well each score tells the other images apart, by the area under the ROC curve."""
    outside = {name: v.numpy() for name, v in out.per_image().items()}
    names = [name for name in LABELS if name in inside and name in outside]
    sizes = [inside["mse"].size, outside["mse"].size]

    def area(name: str, rows: Any, others: Any) -> float:
        values = np.concatenate([inside[name][rows], outside[name][others]])
        return float(roc_auc_score(np.repeat([False, True], [len(rows), len(others)]), values))

    def gain(name: str, rows: Any, others: Any) -> float:
        return area(name, rows, others) - area("mse", rows, others)

    return {
        "out_images": out.images,
        "out_dataset": out.dataset,
        "auroc": {name: bootstrap(partial(area, name), sizes, drawn) for name in names},
        "advantage": {name: bootstrap(partial(gain, name), sizes, drawn) for name in names if name != "mse"},
    }


def format_uncertainty(found: Uncertainty) -> str:
    """The figures as tables."""
    return render("images.md.j2", found=asdict(found), labels=LABELS).rstrip()
