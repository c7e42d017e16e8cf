"""The mixture: responsibilities, the distance identity, the adaptive variance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gmvq.functional.divergences import gaussian_kl
from gmvq.functional.mixture import adaptive_variance, expected_squared_distance, mixture_logits


def tensors(n: int = 7, k: int = 5, d: int = 3, per_feature: bool = True) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(n, d), normal(k, d), normal(d if per_feature else 1), normal(k).log_softmax(-1)


def distance_of(z: Tensor, weights: Tensor, codebook: Tensor) -> Tensor:
    return expected_squared_distance(z, weights @ codebook, weights @ codebook.square().sum(-1))


@pytest.mark.parametrize("per_feature", [False, True])
def test_responsibilities_are_the_posterior_of_a_mixture(per_feature) -> None:
    z, codebook, log_precision, log_weights = tensors(per_feature=per_feature)
    components = torch.distributions.Normal(codebook, (-0.5 * log_precision).exp().expand_as(codebook))
    joint = components.log_prob(z[:, None]).sum(-1) + log_weights
    logits = mixture_logits(z, codebook, log_precision, log_weights)
    torch.testing.assert_close(logits.softmax(-1), joint.softmax(-1))


def test_logits_differ_from_the_log_density_by_the_stated_term() -> None:
    z, codebook, log_precision, log_weights = tensors()
    w = log_precision.exp()
    density = log_weights - 0.5 * (w * (z[:, None] - codebook).square()).sum(-1)
    expected = density + 0.5 * (w * z.square()).sum(-1, keepdim=True)
    torch.testing.assert_close(mixture_logits(z, codebook, log_precision, log_weights), expected)


def test_high_precision_is_the_nearest_codeword_and_one_code_is_certain() -> None:
    z, codebook, _, _ = tensors()
    log_pi = torch.full((5,), -math.log(5), dtype=torch.float64)
    q = mixture_logits(z, codebook, torch.tensor([15.0], dtype=torch.float64), log_pi).softmax(-1)
    nearest = torch.cdist(z, codebook).argmin(-1)
    torch.testing.assert_close(q, torch.nn.functional.one_hot(nearest, 5).double())
    q = mixture_logits(z, codebook[:1], torch.zeros(1).double(), torch.zeros(1).double()).softmax(-1)
    torch.testing.assert_close(q, torch.ones(7, 1, dtype=torch.float64))


def test_distance_identity_equals_the_direct_form() -> None:
    z, codebook, _, _ = tensors()
    weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    direct = (weights[..., None] * (z[:, None] - codebook).square()).sum((1, 2))
    torch.testing.assert_close(distance_of(z, weights, codebook), direct)


def test_distance_identity_has_the_gradients_of_the_direct_form() -> None:
    z, codebook, _, _ = (t.requires_grad_() for t in tensors())
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    weights = logits.softmax(-1)
    identity = distance_of(z, weights, codebook)
    direct = (weights[..., None] * (z[:, None] - codebook).square()).sum((1, 2))
    upstream = torch.randn(7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grads = [
        torch.autograd.grad(value, (z, codebook, logits), upstream, retain_graph=True)
        for value in (identity, direct)
    ]
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected)


def test_one_hot_distance_is_not_negative_in_float32() -> None:
    codebook = torch.randn(5, 64) * 100
    weights = torch.eye(5)
    distance = distance_of(codebook, weights, codebook)
    assert (distance >= 0).all()
    torch.testing.assert_close(distance, torch.zeros_like(distance), atol=1e-2, rtol=0.0)


def test_adaptive_variance_formula_and_typical_kl() -> None:
    distance = torch.tensor([0.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 3.0 / (2 * 0.25 * 4)], dtype=torch.float64)
    torch.testing.assert_close(adaptive_variance(distance, 4, sigma=0.5), expected)
    # A residual of the component of precision w, |z - mu|^2 = D / w: zero KL at 2 sigma^2 = 1 and only there.
    dim, w = 6, 3.0
    log_precision = torch.tensor([w], dtype=torch.float64).log()
    typical = torch.tensor(dim / w, dtype=torch.float64)
    at_one = gaussian_kl(adaptive_variance(typical, dim, sigma=math.sqrt(0.5)), log_precision, dim)
    torch.testing.assert_close(at_one, torch.zeros((), dtype=torch.float64))
    at_half = gaussian_kl(adaptive_variance(typical, dim, sigma=1.0), log_precision, dim)
    torch.testing.assert_close(at_half / dim, torch.tensor(0.5 * (math.log(2) - 0.5), dtype=torch.float64))


@pytest.mark.parametrize("dim", [1, 8, 64, 512])
def test_mean_kl_of_a_random_residual(dim) -> None:
    """At 2 sigma^2 = 1 and z ~ N(mu, 1/w) the mean KL is D/2 (log(D/2) - psi(D/2)), towards 1/2 nat."""
    half = torch.tensor(dim / 2, dtype=torch.float64)
    exact = half * (half.log() - torch.special.digamma(half))
    squared = torch.distributions.Chi2(torch.tensor(float(dim), dtype=torch.float64))
    torch.manual_seed(0)
    distance = squared.sample(torch.Size([20000]))
    kl = gaussian_kl(adaptive_variance(distance, dim, math.sqrt(0.5)), torch.zeros(1).double(), dim)
    torch.testing.assert_close(kl.mean(), exact, rtol=0.05, atol=0.0)
    if dim >= 64:
        torch.testing.assert_close(exact, torch.tensor(0.5, dtype=torch.float64), rtol=0.01, atol=0.0)


def test_kl_of_the_mixed_variance_is_at_most_the_mean_kl() -> None:
    """Training mixes the variances before the KL, the bounds average the KL: Jensen says which is smaller."""
    z, codebook, log_precision, log_weights = tensors()
    q = mixture_logits(z, codebook, log_precision, log_weights).softmax(-1)
    variance = adaptive_variance(torch.cdist(z, codebook).square(), 3)
    mixed = gaussian_kl((q * variance).sum(-1), log_precision, 3)
    mean = (q * gaussian_kl(variance, log_precision, 3)).sum(-1)
    assert (mixed < mean).all()
    one_hot = torch.nn.functional.one_hot(q.argmax(-1), 5).double()
    mixed = gaussian_kl((one_hot * variance).sum(-1), log_precision, 3)
    torch.testing.assert_close(mixed, (one_hot * gaussian_kl(variance, log_precision, 3)).sum(-1))


def test_gradcheck() -> None:
    z, codebook, log_precision, log_weights = (t.requires_grad_() for t in tensors(3, 4, 2))
    assert torch.autograd.gradcheck(mixture_logits, (z, codebook, log_precision, log_weights))


def test_m_step_gradient_of_the_precision_is_that_of_the_mixture_likelihood() -> None:
    """Fisher: with q held fixed, 1/2 (w e - log w) has the gradient of -log sum_c pi_c N(z; mu_c, 1/w)."""
    z, codebook, log_precision, log_weights = tensors()
    log_precision.requires_grad_()
    components = torch.distributions.Normal(codebook, (-0.5 * log_precision).exp().expand_as(codebook))
    evidence = (components.log_prob(z[:, None]).sum(-1) + log_weights).logsumexp(-1).mean()
    (expected,) = torch.autograd.grad(-evidence, log_precision)
    q = mixture_logits(z, codebook, log_precision, log_weights).softmax(-1).detach()
    e = (q[..., None] * (z[:, None] - codebook).square()).sum(1).mean(0)
    (ours,) = torch.autograd.grad(0.5 * (log_precision.exp() * e - log_precision).sum(), log_precision)
    torch.testing.assert_close(ours, expected)
    optimum = (-e.log()).requires_grad_()
    (at_optimum,) = torch.autograd.grad(0.5 * (optimum.exp() * e - optimum).sum(), optimum)
    torch.testing.assert_close(at_optimum, torch.zeros_like(at_optimum))
