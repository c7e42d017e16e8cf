"""Counter-based noise: its distribution, independence over rows and codes, and that keys determine it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gmvq.functional.noise import gaussian_noise, gumbel_noise, noise_keys

CPU = torch.device("cpu")


def codes(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32)


def draw(rows: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(0)
    return gumbel_noise(noise_keys(rows, CPU), codes(count), dtype)


def test_gumbel_noise_has_the_distribution_function_of_the_gumbel() -> None:
    noise = draw(500, 1000).flatten()
    torch.testing.assert_close(noise.mean(), torch.tensor(0.57722, dtype=torch.float64), atol=0.01, rtol=0.0)
    torch.testing.assert_close(noise.var(), torch.tensor(math.pi**2 / 6).double(), atol=0.02, rtol=0.0)
    exact = (-(-noise.sort().values).exp()).exp()
    empirical = (torch.arange(noise.numel(), dtype=torch.float64) + 0.5) / noise.numel()
    assert (exact - empirical).abs().max() < 1.95 / math.sqrt(noise.numel()), "Kolmogorov-Smirnov, p = 0.001"


def test_uniform_bits_are_balanced_and_uncorrelated_over_rows_and_codes() -> None:
    u = (-(-draw(512, 512)).exp()).exp() - 0.5
    bound = 5.0 / math.sqrt(u.numel())
    variance = 1 / 12
    for lag in (1, 2, 3, 16, 17, 256):
        assert abs(float((u[lag:] * u[:-lag]).mean()) / variance) < bound * 1.5, f"rows, lag {lag}"
        assert abs(float((u[:, lag:] * u[:, :-lag]).mean()) / variance) < bound * 1.5, f"codes, lag {lag}"
    words = ((u + 0.5) * 2**23).long()
    for bit in range(23):
        assert abs(float(((words >> bit) & 1).double().mean()) - 0.5) < 0.5 * bound, f"bit {bit}"
    counts = torch.histc(u + 0.5, bins=1024, min=0.0, max=1.0)
    chi_squared = float(((counts - u.numel() / 1024).square() / (u.numel() / 1024)).sum())
    assert abs(chi_squared - 1023) < 5 * math.sqrt(2 * 1023)


def test_gaussian_noise_has_the_moments_of_the_gaussian_and_none_in_common_with_gumbel_noise() -> None:
    torch.manual_seed(0)
    keys = noise_keys(20_000, CPU)
    noise = gaussian_noise(keys, torch.empty(20_000, 7, dtype=torch.float64))
    covariance = noise.T @ noise / 20_000
    torch.testing.assert_close(covariance, torch.eye(7, dtype=torch.float64), atol=0.04, rtol=0.0)
    torch.testing.assert_close(noise.mean(0), torch.zeros(7, dtype=torch.float64), atol=0.04, rtol=0.0)
    torch.testing.assert_close(
        noise.pow(4).mean(), torch.tensor(3.0, dtype=torch.float64), atol=0.1, rtol=0.0
    )
    gumbel = gumbel_noise(keys, codes(7), torch.float64)
    cross = (noise.T @ (gumbel - gumbel.mean(0))) / 20_000
    assert cross.abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_depends_on_row_key_and_code_alone(dtype) -> None:
    torch.manual_seed(3)
    keys = noise_keys(9, CPU)
    whole = gumbel_noise(keys, codes(40), dtype)
    part = gumbel_noise(keys[4:6], codes(40), dtype)
    torch.testing.assert_close(part, whole[4:6], rtol=0.0, atol=0.0)
    chosen = torch.randint(40, (9, 5), dtype=torch.int32)
    some = gumbel_noise(keys, chosen, dtype)
    torch.testing.assert_close(some, whole.gather(1, chosen.long()), rtol=0.0, atol=0.0)
    torch.testing.assert_close(whole.double(), gumbel_noise(keys, codes(40), torch.float64))


def test_keys_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = noise_keys(4, CPU)
    second = noise_keys(4, CPU)
    torch.manual_seed(1)
    assert torch.equal(noise_keys(4, CPU), first)
    assert not torch.equal(first, second)


def test_noise_is_finite_whatever_the_word() -> None:
    """u never reaches 0 or 1: the extreme words of 23 bits give finite noise in float32."""
    u = torch.tensor([0.5, 2**23 - 0.5]) * 2.0**-23
    assert torch.isfinite(-(-u.log()).log()).all()
    assert (u > 0).all()
    assert (u < 1).all()
