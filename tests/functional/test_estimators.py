"""Gradient estimators: sample frequencies, limits, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq.functional.estimators import GumbelSoftmax, StraightThroughGumbel, straight_through
from gmvq.functional.noise import gumbel_noise, noise_keys

ONE = torch.tensor(1.0, dtype=torch.float64)


def logits_of(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def frequencies_agree(samples: Tensor, probabilities: Tensor) -> bool:
    error = (probabilities * (1 - probabilities) / samples.shape[0]).sqrt()
    return bool(((samples.mean(0) - probabilities).abs() < 5 * error).all())


def gumbel_like(logits: Tensor) -> Tensor:
    codes = torch.arange(logits.shape[-1], dtype=torch.int32)
    return gumbel_noise(noise_keys(logits.shape[0], logits.device), codes, torch.empty_like(logits))


@pytest.mark.parametrize("estimator", [GumbelSoftmax(), StraightThroughGumbel()])
def test_rows_sum_to_one(estimator) -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 7, dtype=torch.float64)
    rows = estimator.sample(logits, 0.5 * ONE, gumbel_like(logits)).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_gumbel_softmax_at_low_temperature_samples_the_categorical() -> None:
    torch.manual_seed(0)
    logits = logits_of(0.3, -1.0, 1.1, 0.0)
    samples = GumbelSoftmax().sample(
        logits.expand(20_000, 4), 1e-5 * ONE, gumbel_like(logits.expand(20_000, 4))
    )
    assert float((samples.max(-1).values > 0.999).double().mean()) > 0.999
    assert frequencies_agree(samples.round(), logits.softmax(-1)[0])


def test_gumbel_softmax_without_noise_is_the_softmax_and_then_the_argmax() -> None:
    logits = logits_of(0.3, -1.0, 1.1)
    none = torch.zeros_like(logits)
    torch.testing.assert_close(GumbelSoftmax().sample(logits, 0.5 * ONE, none), (logits / 0.5).softmax(-1))
    nearest = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(GumbelSoftmax().sample(logits, 1e-4 * ONE, none), nearest)


def test_hard_samples_are_exactly_one_hot_with_the_right_frequencies() -> None:
    torch.manual_seed(0)
    logits = logits_of(0.3, -1.0, 1.1).float()
    rows = logits.expand(20_000, 3).requires_grad_()
    samples = StraightThroughGumbel().sample(rows, ONE.float(), gumbel_like(rows.detach())).detach()
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    assert frequencies_agree(samples, logits.softmax(-1)[0])


def test_straight_through_has_the_gradient_of_its_soft_sample() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    upstream = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grads = []
    for estimator in (StraightThroughGumbel(), GumbelSoftmax()):
        torch.manual_seed(0)
        sample = estimator.sample(logits, 0.7 * ONE, gumbel_like(logits.detach()))
        grads.append(torch.autograd.grad(sample, logits, upstream)[0])
    torch.testing.assert_close(grads[0], grads[1])


def test_gumbel_softmax_gradcheck() -> None:
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: GumbelSoftmax().sample(v, 0.7 * ONE, noise), (logits,))


@pytest.mark.parametrize("estimator", [GumbelSoftmax(), StraightThroughGumbel()])
def test_extreme_logits_and_a_single_code_stay_finite(estimator) -> None:
    torch.manual_seed(0)
    for logits in (torch.tensor([[1e4, -1e4, 0.0]]), torch.zeros(3, 1)):
        logits.requires_grad_()
        sample = estimator.sample(logits, torch.tensor(0.05), gumbel_like(logits.detach()))
        (sample * torch.arange(1.0, 1.0 + logits.shape[-1])).sum().backward()
        assert torch.isfinite(sample).all()
        assert torch.isfinite(logits.grad).all()


def test_straight_through_is_the_value_with_the_gradient_of_both() -> None:
    value, carrier = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    out = straight_through(value, carrier)
    assert torch.equal(out, value)
    upstream = torch.randn(4, 3)
    for gradient in torch.autograd.grad(out, (value, carrier), upstream):
        assert torch.equal(gradient, upstream)
