"""Metrics against values computed by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close
from torchmetrics.functional.image import peak_signal_noise_ratio

from gmvq.evaluation import CodebookMetrics, ImageMetrics, per_image_ssim, psnr, rates
from gmvq.evaluation.metrics import expected_perplexity, expected_usage, ssim_window


def test_psnr_of_a_known_error_both_ways() -> None:
    images = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    reconstruction = images + torch.tensor([0.1, 0.01], dtype=torch.float64).view(2, 1, 1, 1)
    metrics = ImageMetrics(ssim=False)
    assert_close(metrics.update(reconstruction, images), torch.tensor([1e-2, 1e-4], dtype=torch.float64))
    values = metrics.compute()
    assert_close(values["mse"], 0.00505)
    assert_close(values["psnr"], -10 * math.log10(0.00505))
    assert_close(values["psnr_per_image"], 30.0)
    assert "ssim" not in values


def test_reconstructions_are_clamped_and_exact_images_count_100_db() -> None:
    metrics = ImageMetrics(ssim=False)
    metrics.update(torch.full((1, 1, 2, 2), 1.5), torch.ones(1, 1, 2, 2))
    assert metrics.compute() == {"mse": 0.0, "psnr": 100.0, "psnr_per_image": 100.0}


def test_nan_is_not_hidden() -> None:
    metrics = ImageMetrics(ssim=False)
    metrics.update(torch.full((1, 1, 2, 2), math.nan), torch.ones(1, 1, 2, 2))
    assert all(math.isnan(value) for value in metrics.compute().values())
    assert math.isnan(psnr(math.nan))


def test_merged_accumulators_equal_one() -> None:
    torch.manual_seed(0)
    images, noise = torch.rand(7, 3, 12, 12), 0.1 * torch.randn(7, 3, 12, 12)
    whole, first, second = ImageMetrics(), ImageMetrics(), ImageMetrics()
    whole.update(images + noise, images)
    for part in (images[:2], noise[:2]), (images[2:3], noise[2:3]):
        first.update(part[0] + part[1], part[0])
    second.update(images[3:] + noise[3:], images[3:])
    merged = first.merge(second)
    assert merged.images == 7
    assert_close(merged.compute(), whole.compute())
    with pytest.raises(ValueError, match="with SSIM and without"):
        first.merge(ImageMetrics(ssim=False))


@pytest.mark.parametrize(
    ("side", "mse", "decibels", "per_image", "ssim"),
    [
        (5, 0.015793717166805183, 18.015156435798662, 18.015515397387308, 0.8018801808357239),
        (16, 0.015736067151307084, 18.031037997981826, 18.03104414724807, 0.9329589406649271),
        (40, 0.015738118416513118, 18.030471913017216, 18.03047196389461, 0.674697736899058),
    ],
)
def test_figures_are_those_of_release_0_1_and_of_torchmetrics(
    side: int, mse: float, decibels: float, per_image: float, ssim: float
) -> None:
    count = torch.arange(9 * side * (side + 2), dtype=torch.float64).view(3, 3, side, side + 2)
    images = 0.5 + 0.5 * torch.sin(count / 7)
    reconstruction = images + 0.2 * torch.cos(1.7 * count)
    metrics = ImageMetrics()
    metrics.update(reconstruction, images)
    expected = {"mse": mse, "psnr": decibels, "psnr_per_image": per_image, "ssim": ssim}
    assert_close(metrics.compute(), expected, atol=1e-5, rtol=0)
    theirs = peak_signal_noise_ratio(reconstruction.clamp(0, 1), images, data_range=1.0)
    assert_close(float(theirs), decibels, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [3, 4, 5, 8, 10, 11, 16])
def test_ssim_of_identical_images_is_one(side: int) -> None:
    images = torch.rand(2, 3, side, side + 2, generator=torch.Generator().manual_seed(side))
    assert_close(per_image_ssim(images, images), torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [3, 8, 32])
def test_ssim_of_constant_images(side: int) -> None:
    first, second = torch.full((1, 1, side, side), 0.2), torch.full((1, 1, side, side), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    actual = per_image_ssim(first, second)
    assert_close(actual, torch.tensor([expected], dtype=torch.float64), atol=1e-3, rtol=0)


def test_ssim_window_shrinks_to_the_image_and_then_says_no() -> None:
    assert ssim_window(torch.zeros(1, 3, 32, 40)) == (11, 1.5)
    width, sigma = ssim_window(torch.zeros(1, 3, 8, 40))
    assert (width, sigma) == (7, 1.5 * 7 / 11)
    assert int(3.5 * sigma + 0.5) * 2 + 1 == width  # the width that torchmetrics derives from sigma
    for shape in ((1, 3, 2, 8), (1, 3, 64)):
        with pytest.raises(ValueError, match="at least 3 pixels"):
            ImageMetrics().update(torch.zeros(shape), torch.zeros(shape))


def test_perplexity_of_a_known_histogram_ignoring_masked_positions() -> None:
    metrics = CodebookMetrics(4)
    metrics.update(torch.tensor([[0, 0, -1], [1, 2, -1]]))
    assert metrics.histogram.tolist() == [2, 1, 1, 0]
    assert metrics.histogram.dtype == torch.int64
    assert metrics.positions == 4
    values = metrics.compute()
    assert_close(values["perplexity"], 2.0**1.5)
    assert_close(values["code_entropy"], 1.5 * math.log(2))
    assert (values["codes_used"], values["usage"]) == (3, 0.75)


def test_levels_of_other_sizes_are_counted_one_by_one() -> None:
    """Two levels of 4 and 2 codes: the mean of their entropies, and the K that has the rate of both."""
    metrics = CodebookMetrics((4, 2))
    metrics.update(torch.tensor([[0, 0], [1, 0], [2, 0], [3, -1]]))
    assert metrics.histogram.tolist() == [1, 1, 1, 1, 3, 0]
    values = metrics.compute()
    assert (values["codes_used"], values["usage"]) == (5, 5 / 6)
    assert_close(values["code_entropy"], 4 / 7 * math.log(4))
    assert_close(metrics.mean_size, 2 ** ((4 * 2 + 3 * 1) / 7))
    with pytest.raises(ValueError, match=r"level 2 must lie in \[0, 1\]"):
        metrics.update(torch.tensor([[0, 2]]))
    assert CodebookMetrics((4, 4)).sizes == (4,)  # one histogram, as ever
    with pytest.raises(ValueError, match=r"cannot merge codebooks of 4 \+ 2 and 4"):
        metrics.merge(CodebookMetrics(4))


def test_merged_histograms_equal_one_and_limits_hold() -> None:
    first, second = CodebookMetrics(3), CodebookMetrics(3)
    first.update(torch.tensor([0, 0]))
    assert first.compute()["perplexity"] == 1.0
    second.update(torch.tensor([1, 1, 2, 2]))
    assert first.merge(second).histogram.tolist() == [2, 2, 2]
    assert_close(first.compute()["perplexity"], 3.0)
    with pytest.raises(ValueError, match="cannot merge codebooks of 3 and 4"):
        first.merge(CodebookMetrics(4))


def test_sums_over_more_than_float32_can_count() -> None:
    """Two codes of 2^40 positions and one more; a thousand batches in half precision, whose sums it cannot hold."""
    metrics = CodebookMetrics(3)
    metrics.histogram = torch.tensor([1 << 40, 1 << 40, 0])
    metrics.update(torch.tensor([0, 1, 2]))
    assert metrics.positions == (1 << 41) + 3
    assert metrics.compute()["codes_used"] == 3
    assert_close(metrics.compute()["perplexity"], 2.0, rtol=1e-9, atol=1e-9)
    for dtype in (torch.float16, torch.bfloat16):
        errors = ImageMetrics(ssim=False)
        for _ in range(1000):
            errors.update(torch.full((2, 1, 8, 8), 0.5, dtype=dtype), torch.zeros(2, 1, 8, 8, dtype=dtype))
        assert errors.compute()["mse"] == 0.25


def test_bad_input_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="no image has been added"):
        ImageMetrics().compute()
    with pytest.raises(ValueError, match="must have one shape"):
        ImageMetrics().update(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    metrics = CodebookMetrics(4)
    with pytest.raises(ValueError, match="no unmasked position"):
        metrics.compute()
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        metrics.update(torch.tensor([4]))
    with pytest.raises(TypeError, match="integers"):
        metrics.update(torch.tensor([1.0]))


def test_rates() -> None:
    values = rates(positions=64, pixels=1024, codebook_size=256, code_entropy=4 * math.log(2))
    assert_close(values, {"bits_per_pixel_fixed": 0.5, "bits_per_pixel_entropy": 0.25})


@pytest.mark.parametrize(("positions", "size"), [(1, 7), (2, 3), (5, 2), (6, 3)])
def test_expected_use_is_the_mean_over_all_samples(positions: int, size: int) -> None:
    usages, entropies = [], []
    for sample in itertools.product(range(size), repeat=positions):
        metrics = CodebookMetrics(size)
        metrics.update(torch.tensor(sample))
        found = metrics.compute()
        usages.append(found["usage"])
        entropies.append(found["code_entropy"])
    assert expected_usage(positions, size) == pytest.approx(sum(usages) / len(usages))
    mean = math.exp(sum(entropies) / len(entropies))
    assert expected_perplexity(positions, size) == pytest.approx(mean)


def test_expected_use_of_large_samples() -> None:
    assert expected_usage(10**7, 1) == expected_perplexity(10**7, 1) == 1.0
    n, size = 10**7, 1024
    assert expected_usage(n, size) == pytest.approx(1.0)
    # To second order in K / n.
    assert expected_perplexity(n, size) == pytest.approx(size * math.exp(-(size - 1) / (2 * n)), rel=1e-6)
