"""Streaming metrics over whole sets: image errors, codebook use and rate, in float64 and mergeable.

Every accumulator has ``update`` (one batch), ``merge`` (another accumulator's sums) and ``compute``. Sums,
not means, are kept, so batches and processes may be of uneven size. Nothing here talks to other processes:
collect the accumulators of several by any means (they pickle) and merge them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ..errors import check_indices, check_positive, require
from ..models.interface import sizes_text

#: Smallest MSE of one image in its PSNR: an exact reconstruction counts as 100 dB and not as infinity.
MIN_MSE = 1e-10


def psnr(mse: float) -> float:
    """PSNR in dB of a mean squared error at data range 1: -10 log10 max(mse, 1e-10), so 100 dB at most."""
    return -10.0 * math.log10(max(mse, MIN_MSE)) if mse == mse else math.nan


class ImageMetrics:
    r"""MSE, PSNR and SSIM of reconstructions over a set, data range 1.

    The reconstruction is clamped to [0, 1] first, for *all* of them: that is the picture one would store. Two
    PSNRs exist in print, and differ by Jensen's inequality; both are given:

    .. math:: \text{psnr} = -10 \log_{10} \tfrac1B \sum_b m_b, \qquad
              \text{psnr_per_image} = \tfrac1B \sum_b -10 \log_{10} m_b,

    with m_b the MSE of image b over channels and pixels. ``psnr`` is never the larger.

    SSIM is that of Wang et al. 2004 with a Gaussian window, averaged over images (torchmetrics computes it).
    The window is 11 pixels wide with sigma 1.5; for images with a side below 11 it shrinks to the largest
    odd width that fits, sigma in proportion.

    Args:
        ssim: compute SSIM, for inputs (B, C, H, W).
    """

    def __init__(self, *, ssim: bool = True) -> None:
        self.images = 0
        self._ssim = ssim
        self._sums = torch.zeros(3, dtype=torch.float64)  # of per-image MSE, PSNR, SSIM

    def update(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """Add a batch.

        Args:
            reconstruction: (B, C, ...), clamped to [0, 1] here.
            images: (B, C, ...), in [0, 1].

        Returns:
            The MSE of each image, (B,), float64.

        Raises:
            ValueError: shapes differ, or SSIM is asked for of images with a side below 3 pixels.
            MissingExtraError: SSIM without the package torchmetrics.
        """
        mse = per_image_mse(reconstruction, images)
        similarity = torch.zeros_like(mse)
        if self._ssim:
            similarity = per_image_ssim(reconstruction, images)
        decibels = -10.0 * mse.clamp_min(MIN_MSE).log10()
        self._sums += torch.stack([mse.sum(), decibels.sum(), similarity.sum()]).cpu()
        self.images += images.shape[0]
        return mse

    def merge(self, other: ImageMetrics) -> Self:
        """Add the sums of another accumulator, for example another process's."""
        if self._ssim != other._ssim:
            raise ValueError("cannot merge metrics with SSIM and without; build both with the same ssim=...")
        self.images += other.images
        self._sums += other._sums
        return self

    def compute(self) -> dict[str, float]:
        """Return ``mse``, ``psnr`` and ``psnr_per_image`` in dB, and ``ssim`` if it was asked for.

        Raises:
            ValueError: no image has been added.
        """
        if self.images == 0:
            raise ValueError("no image has been added; call update(reconstruction, images) first")
        mse, decibels, similarity = (self._sums / self.images).tolist()
        values = {"mse": mse, "psnr": psnr(mse), "psnr_per_image": decibels}
        return {**values, "ssim": similarity} if self._ssim else values


def per_image_mse(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of each image, reconstruction clamped to [0, 1]: (B, ...) twice -> (B,), float64."""
    if reconstruction.shape != images.shape:
        raise ValueError(
            f"reconstruction and images must have one shape, got {tuple(reconstruction.shape)} and "
            f"{tuple(images.shape)}; crop or pad the images so that the downsampling divides their size"
        )
    error = reconstruction.clamp(0.0, 1.0).double() - images.double()
    return error.square().flatten(1).mean(1)


def per_image_ssim(reconstruction: Tensor, images: Tensor) -> Tensor:
    """SSIM of each image, reconstruction clamped to [0, 1]: (B, C, H, W) twice -> (B,), float64."""
    width, sigma = ssim_window(images)
    functional = require("torchmetrics.functional.image", "train")
    values = functional.structural_similarity_index_measure(
        reconstruction.clamp(0.0, 1.0).float(),
        images.float(),
        gaussian_kernel=True,
        sigma=sigma,
        kernel_size=width,
        reduction="none",
        data_range=1.0,
    )
    return values.reshape(-1).double()


def ssim_window(images: Tensor) -> tuple[int, float]:
    """Width in pixels and sigma of the SSIM window for images (B, C, H, W): 11 and 1.5 wherever they fit."""
    side = min(images.shape[2:]) if images.ndim == 4 else 0
    if side < 3:
        raise ValueError(
            f"SSIM needs images (B, C, H, W) with sides of at least 3 pixels, got {tuple(images.shape)}; "
            "build ImageMetrics(ssim=False)"
        )
    width = min(11, side if side % 2 else side - 1)
    return width, 1.5 * width / 11


class CodebookMetrics:
    r"""Use of a codebook over a set, from hard indices; -1 (masked) is ignored.

    With n_c the number of positions that got code c and p_c = n_c / n:
    usage = share of codes with n_c > 0; entropy H = -sum_c p_c log p_c (nats); perplexity = exp H, 1 to K.

    The codes of a position are counted in one histogram if they have the same K. Levels of other sizes have a histogram
    each: H is then the mean over codes, sum_l n_l H_l / n, and usage the share of all sum_l K_l codes.

    Args:
        codebook_size: K, or that of each code on the last axis of the indices.

    Attributes:
        sizes: K of each histogram.
        histogram: n_c, (K,), int64; of several those of the levels one after another.
    """

    def __init__(self, codebook_size: int | Sequence[int]) -> None:
        sizes = (codebook_size,) if isinstance(codebook_size, int) else tuple(codebook_size)
        for size in sizes:
            check_positive("codebook_size", size)
        self.sizes = sizes if len(set(sizes)) > 1 else sizes[:1]
        self.histogram = torch.zeros(sum(self.sizes), dtype=torch.int64)

    def update(self, indices: Tensor) -> None:
        """Add indices of any shape, int64, values in [0, K) or -1; the levels, if apart, on the last axis."""
        check_indices(indices, self.sizes)
        columns = indices[None] if len(self.sizes) == 1 else indices.movedim(-1, 0)
        counts = [
            torch.bincount(column[column >= 0], minlength=size)
            for column, size in zip(columns, self.sizes, strict=True)
        ]
        self.histogram += torch.cat(counts).to(self.histogram.device)

    def merge(self, other: CodebookMetrics) -> Self:
        """Add the histogram of another accumulator, for example another process's."""
        if self.sizes != other.sizes:
            raise ValueError(
                f"cannot merge codebooks of {sizes_text(self.sizes)} and {sizes_text(other.sizes)} codes"
            )
        self.histogram += other.histogram
        return self

    @property
    def positions(self) -> int:
        """Number of unmasked positions counted."""
        return int(self.histogram.sum())

    @property
    def mean_size(self) -> float:
        """The K of codes of one length at the same rate: exp of the mean of log K over codes."""
        if len(self.sizes) == 1:
            return self.sizes[0]
        counts = [int(part.sum()) for part in self.histogram.split(self.sizes)]
        logs = sum(count * math.log(size) for count, size in zip(counts, self.sizes, strict=True))
        return math.exp(logs / sum(counts))

    def compute(self) -> dict[str, float]:
        """Return ``codes_used``, ``usage`` (0 to 1), ``code_entropy`` (nats) and ``perplexity``.

        Raises:
            ValueError: no unmasked position has been added.
        """
        if self.positions == 0:
            raise ValueError("no unmasked position has been added; call update(indices) first")
        entropy = 0.0
        for counts in self.histogram.double().split(self.sizes):
            p = counts / counts.sum().clamp_min(1)
            entropy -= float(counts.sum() / self.positions * torch.xlogy(p, p).sum())
        used = int((self.histogram > 0).sum())
        return {
            "codes_used": used,
            "usage": used / self.histogram.numel(),
            "code_entropy": entropy,
            "perplexity": math.exp(entropy),
        }


def expected_usage(positions: int, codebook_size: int) -> float:
    """Share of the codes to expect in a sample if all are equally likely: 1 - (1 - 1/K)^n for n positions."""
    return -math.expm1(positions * math.log1p(-1.0 / codebook_size)) if codebook_size > 1 else 1.0


def expected_perplexity(positions: int, codebook_size: int) -> float:
    r"""Perplexity to expect of a sample if all codes are equally likely: exp of the mean entropy, exact.

    .. math:: \exp\Bigl(\log n - \tfrac{K}{n} \sum_{m=1}^{n} \mathrm{Bin}(m; n, 1/K)\, m \log m\Bigr)

    for n positions and K codes. It is 1 for one position and tends to K; about K (1 - K / 2n) where n is large.
    """
    check_positive("positions", positions)
    n, p = positions, 1.0 / codebook_size
    if codebook_size == 1:
        return 1.0
    # All but a vanishing part of the binomial distribution lies below this.
    most = min(n, math.ceil(n * p + 12.0 * math.sqrt(n * p) + 60.0))
    m = torch.arange(1, most + 1, dtype=torch.float64)
    log_binomial = math.lgamma(n + 1.0) - torch.lgamma(m + 1.0) - torch.lgamma(n - m + 1.0)
    weights = (log_binomial + m * math.log(p) + (n - m) * math.log1p(-p)).exp()
    return math.exp(math.log(n) - codebook_size / n * float((weights * m * m.log()).sum()))


def rates(
    *, positions: int, pixels: int, codebook_size: float, code_entropy: float, tree_bits: float = 0.0
) -> dict[str, float]:
    r"""Bits per pixel of the tokens of a set.

    .. math:: \text{fixed} = P \log_2 K / \text{pixels}, \quad
              \text{entropy} = P H / (\log 2 \cdot \text{pixels})

    ``fixed`` is what codes of one length cost; ``entropy`` what an ideal entropy coder with the set's own
    histogram, and no context, would need. A pixel is one place (H x W), whatever its channels.

    Args:
        positions: unmasked latent positions P, over the set.
        pixels: places, over the same set.
        codebook_size: K; of levels with sizes of their own ``CodebookMetrics.mean_size``.
        code_entropy: H of the histogram, nats.
        tree_bits: over the same set, of ragged codes: what their trees take, in both.

    Returns:
        ``bits_per_pixel_fixed`` and ``bits_per_pixel_entropy``.
    """
    check_positive("pixels", pixels)
    per_pixel, tree = positions / pixels, tree_bits / pixels
    return {
        "bits_per_pixel_fixed": per_pixel * math.log2(codebook_size) + tree,
        "bits_per_pixel_entropy": per_pixel * code_entropy / math.log(2.0) + tree,
    }
