"""Entropies and divergences against torch.distributions, their limits and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.functional.divergences import (
    categorical_kl,
    entropy,
    entropy_from_logits,
    gaussian_cross_entropy,
    gaussian_kl,
    perplexity,
)


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


def test_entropies_equal_those_of_torch() -> None:
    logits = random_logits(6, 4)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy(logits.softmax(-1)), expected)
    torch.testing.assert_close(entropy_from_logits(logits), expected)


def test_categorical_kl_equals_that_of_torch() -> None:
    p, prior = random_logits(6, 4), random_logits(4, 1)[:, 0].log_softmax(-1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=prior)
    )
    torch.testing.assert_close(categorical_kl(p.softmax(-1), prior), expected)
    torch.testing.assert_close(categorical_kl(prior.exp(), prior), torch.zeros((), dtype=torch.float64))


def test_one_hot_posterior_has_zero_entropy_and_a_finite_gradient() -> None:
    p = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    value = categorical_kl(p, torch.full((3,), -math.log(3)))
    torch.testing.assert_close(value, torch.tensor(math.log(3)))
    value.backward()
    assert torch.isfinite(p.grad).all()
    logits = torch.tensor([1e4, 0.0, -1e4], requires_grad=True)
    value = entropy_from_logits(logits)
    torch.testing.assert_close(value, torch.tensor(0.0))
    value.backward()
    assert torch.isfinite(logits.grad).all()


def test_single_code_costs_nothing() -> None:
    torch.testing.assert_close(categorical_kl(torch.ones(2, 1), torch.zeros(1)), torch.zeros(2))
    torch.testing.assert_close(perplexity(torch.tensor([7.0])), torch.tensor(1.0))


@pytest.mark.parametrize("per_feature", [False, True])
def test_gaussian_terms_equal_those_of_torch(per_feature) -> None:
    dim = 3
    variance = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    log_precision = torch.tensor([0.3, -1.0, 0.7] if per_feature else [0.3], dtype=torch.float64)
    q = torch.distributions.Normal(0.0, variance.sqrt()[:, None].expand(3, dim))
    p = torch.distributions.Normal(0.0, (-0.5 * log_precision).exp().expand(dim))
    kl = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(gaussian_kl(variance, log_precision, dim), kl)
    cross = gaussian_cross_entropy(variance, log_precision, dim)
    torch.testing.assert_close(cross, kl + q.entropy().sum(-1))
    torch.testing.assert_close(cross - kl, 0.5 * dim * (2 * math.pi * math.e * variance).log())


def test_the_dropped_entropy_is_negative_below_one_over_two_pi_e() -> None:
    edge = 1 / (2 * math.pi * math.e)
    variance = torch.tensor([0.9 * edge, 1.1 * edge], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    gap = gaussian_cross_entropy(variance, zero, 4) - gaussian_kl(variance, zero, 4)
    assert gap[0] < 0 < gap[1]


def test_gaussian_kl_is_zero_at_equality_and_infinite_at_zero_variance() -> None:
    log_precision = torch.tensor([1.3], dtype=torch.float64)
    torch.testing.assert_close(
        gaussian_kl((-log_precision).exp(), log_precision, 5), torch.zeros(1, dtype=torch.float64)
    )
    assert gaussian_kl(torch.zeros(1), torch.zeros(1), 5).item() == math.inf


def test_perplexity_counts_the_codes_in_use() -> None:
    counts = torch.tensor([[5.0, 5.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(perplexity(counts), torch.tensor([2.0, 4.0, 1.0]))
    torch.testing.assert_close(perplexity(torch.zeros(4)), torch.tensor(1.0))


def test_gradcheck() -> None:
    logits = random_logits(2, 3).requires_grad_()
    prior = random_logits(3, 1)[:, 0].requires_grad_()
    assert torch.autograd.gradcheck(entropy_from_logits, (logits,))
    assert torch.autograd.gradcheck(
        lambda a, b: categorical_kl(a.softmax(-1), b.log_softmax(-1)), (logits, prior)
    )
    variance = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    for size in (1, 3):
        log_precision = torch.linspace(-0.5, 0.5, size, dtype=torch.float64).requires_grad_()
        for function in (gaussian_kl, gaussian_cross_entropy):
            assert torch.autograd.gradcheck(lambda v, w, f=function: f(v, w, 3), (variance, log_precision))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_perplexity_of_counts_in_any_dtype(dtype: torch.dtype) -> None:
    """1,024 codes of 128 positions are 131,072, more than half precision holds; one integer is beyond float32."""
    torch.testing.assert_close(perplexity(torch.full((1024,), 128, dtype=dtype)), torch.tensor(1024.0))
    if dtype == torch.int64:
        many = torch.tensor([(1 << 40) + 1, 1 << 40])
        torch.testing.assert_close(perplexity(many), torch.tensor(2.0))
