"""Likelihoods in nats: closed forms, the maximum-likelihood scale, stored state, exact objective, bits."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.objectives import (
    GaussianLikelihood,
    LaplaceLikelihood,
    LogitLaplaceLikelihood,
    bits_per_dimension,
    negative_evidence,
    positions_per_image,
)
from gmvq.types import QuantizerOutput

FAMILIES = [
    (GaussianLikelihood, torch.distributions.Normal, lambda e: e.square().mean().sqrt()),
    (LaplaceLikelihood, torch.distributions.Laplace, lambda e: e.abs().mean()),
]


def pair(batch: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(batch, 3, 4, 2, generator=generator, dtype=torch.float64)
    return target + 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize(("family", "density", "best"), FAMILIES)
def test_values_equal_those_of_torch(family, density, best) -> None:
    reconstruction, target = pair()
    constant = family(0.3).double()
    expected = density(reconstruction, 0.3).log_prob(target).sum((1, 2, 3))
    torch.testing.assert_close(constant.log_prob(reconstruction, target), expected)
    torch.testing.assert_close(constant(reconstruction, target), -expected.mean())
    scale = best(reconstruction - target)
    expected = density(reconstruction, scale).log_prob(target).sum((1, 2, 3))
    torch.testing.assert_close(family("ml").double()(reconstruction, target), -expected.mean())


@pytest.mark.parametrize(("family", "density", "best"), FAMILIES)
def test_the_scale_of_ml_is_the_best_one(family, density, best) -> None:
    reconstruction, target = pair()
    at_best = family()(reconstruction, target)
    scale = float(best(reconstruction - target))
    for factor in (0.9, 1.1):
        assert family(scale * factor).double()(reconstruction, target) > at_best


@pytest.mark.parametrize("family", [GaussianLikelihood, LaplaceLikelihood])
def test_gradient_of_ml_is_that_of_the_logarithm(family) -> None:
    reconstruction, target = pair()
    n = target[0].numel()
    reconstruction.requires_grad_()
    (grad,) = torch.autograd.grad(family()(reconstruction, target), reconstruction)
    error = reconstruction - target
    logarithm = (
        0.5 * error.square().mean().log() if family is GaussianLikelihood else error.abs().mean().log()
    )
    (expected,) = torch.autograd.grad(n * logarithm, reconstruction)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("family", [GaussianLikelihood, LaplaceLikelihood])
def test_a_perfect_reconstruction_stays_finite(family) -> None:
    _, target = pair()
    reconstruction = target.clone().requires_grad_()
    likelihood = family()
    value = likelihood(reconstruction, target)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(reconstruction.grad).all()
    likelihood.observe(reconstruction, target)
    assert float(likelihood.log_scale) == pytest.approx(math.log(1e-4))


def test_gradcheck_of_every_scale() -> None:
    reconstruction, target = pair(2)
    reconstruction.requires_grad_()
    for family in (GaussianLikelihood, LaplaceLikelihood):
        for scale in ("learned", 0.2):
            likelihood = family(scale).double()
            assert torch.autograd.gradcheck(lambda r, f=likelihood: f(r, target), (reconstruction,))


def test_learned_scale_has_its_optimum_at_the_error() -> None:
    reconstruction, target = pair()
    mse = float((reconstruction - target).square().mean())
    likelihood = GaussianLikelihood("learned", start=math.sqrt(mse)).double()
    assert [name for name, _ in likelihood.named_parameters()] == ["log_scale"]
    (grad,) = torch.autograd.grad(likelihood(reconstruction, target), likelihood.log_scale)
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-5, rtol=0.0)
    wide = GaussianLikelihood("learned", start=1.0).double()
    (grad,) = torch.autograd.grad(wide(reconstruction, target), wide.log_scale)
    torch.testing.assert_close(grad, torch.tensor(target[0].numel() * (1 - mse), dtype=torch.float64))


def test_observe_sets_then_averages_and_forward_changes_nothing() -> None:
    reconstruction, target = pair()
    mse = (reconstruction - target).square().mean()
    likelihood = GaussianLikelihood().double()
    with pytest.raises(RuntimeError, match="was never set"):
        likelihood.log_prob(reconstruction, target)
    before = {k: v.clone() for k, v in likelihood.state_dict().items()}
    likelihood(reconstruction, target)
    torch.testing.assert_close(dict(likelihood.state_dict()), before)
    likelihood.observe(reconstruction, target)
    torch.testing.assert_close(likelihood.log_scale, 0.5 * mse.log())
    wider = target + 2 * (reconstruction - target)
    likelihood.observe(wider, target, momentum=0.75)
    torch.testing.assert_close(likelihood.log_scale, 0.5 * (0.75 * mse + 0.25 * 4 * mse).log())
    likelihood.observe(reconstruction, target, momentum=0.0)
    torch.testing.assert_close(likelihood.log_scale, 0.5 * mse.log())
    copy = GaussianLikelihood().double()
    copy.load_state_dict(likelihood.state_dict())
    torch.testing.assert_close(copy.log_prob(wider, target), likelihood.log_prob(wider, target))


def test_observe_leaves_other_scales_alone() -> None:
    reconstruction, target = pair()
    for scale in ("learned", 0.3):
        likelihood = LaplaceLikelihood(scale)
        before = likelihood.log_scale.detach().clone()
        likelihood.observe(reconstruction, target)
        torch.testing.assert_close(likelihood.log_scale.detach(), before)


def test_batch_duplication_changes_nothing_and_half_precision_is_widened() -> None:
    reconstruction, target = pair()
    likelihood = GaussianLikelihood()
    once = likelihood(reconstruction, target)
    torch.testing.assert_close(likelihood(reconstruction.repeat(2, 1, 1, 1), target.repeat(2, 1, 1, 1)), once)
    half = likelihood(reconstruction.bfloat16(), target.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, once.float(), rtol=0.05, atol=0.5)


def test_bad_input_is_refused() -> None:
    likelihood = GaussianLikelihood()
    with pytest.raises(ValueError, match="must have one shape"):
        likelihood(torch.rand(2, 3), torch.rand(2, 1))
    with pytest.raises(ValueError, match="divide by 255"):
        likelihood(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="got list"):
        likelihood(torch.rand(2, 3), [1.0])
    with pytest.raises(ValueError, match="batch axis"):
        likelihood(torch.rand(3), torch.rand(3))
    with pytest.raises(ValueError, match="momentum"):
        likelihood.observe(torch.rand(2, 3), torch.rand(2, 3), momentum=1.0)
    for scale in ("mle", -1.0, 0.0):
        with pytest.raises(ValueError, match="scale must be"):
            GaussianLikelihood(scale)


def output(indices: torch.Tensor, nats: torch.Tensor, dim: int = 4) -> QuantizerOutput:
    positions = indices.shape[:3]
    return QuantizerOutput(torch.zeros(*positions, dim), indices, nats * 1e6, nats, torch.zeros(positions))


def test_negative_evidence_is_in_nats_per_image() -> None:
    reconstruction, target = (t.float() for t in pair(2))
    indices = torch.zeros(2, 3, 4, dtype=torch.int64)
    nats = torch.tensor(0.5, requires_grad=True)
    likelihood = GaussianLikelihood()
    value = negative_evidence(likelihood, reconstruction, target, output(indices, nats))
    torch.testing.assert_close(value, likelihood(reconstruction, target) + 12 * 0.5)
    value.backward()
    torch.testing.assert_close(nats.grad, torch.tensor(12.0))


def test_masked_positions_and_extra_levels_in_positions_per_image() -> None:
    nats = torch.tensor(0.5)
    indices = torch.zeros(2, 3, 4, dtype=torch.int64)
    indices[0, :, 2:] = -1
    torch.testing.assert_close(positions_per_image(output(indices, nats)), torch.tensor(9.0))
    levels = indices[..., None].expand(2, 3, 4, 5)
    torch.testing.assert_close(positions_per_image(output(levels, nats)), torch.tensor(9.0))
    with pytest.raises(ValueError, match="batch axis"):
        positions_per_image(QuantizerOutput(torch.zeros(4), torch.tensor(0), nats, nats, nats))
    with pytest.raises(ValueError, match="first axis"):
        negative_evidence(GaussianLikelihood(), torch.rand(3, 2), torch.rand(3, 2), output(indices, nats))


def test_bits_per_dimension() -> None:
    assert bits_per_dimension(0.0, 10) == pytest.approx(math.log2(255))
    assert bits_per_dimension(10 * math.log(255), 10) == pytest.approx(2 * math.log2(255))
    nats = torch.tensor([-7.0, 3.0])
    torch.testing.assert_close(bits_per_dimension(nats, 5, 2), nats / (5 * math.log(2.0)))
    with pytest.raises(ValueError, match="levels"):
        bits_per_dimension(1.0, 3, 1)


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5])
def test_lattice_probabilities_sum_to_one_above_the_spacing(offset) -> None:
    """What the constant log2 255 claims: density x spacing is a probability over k / 255."""
    k = torch.arange(-100, 100, dtype=torch.float64) / 255
    mean, spacing = torch.tensor([offset / 255, 1 / 255], dtype=torch.float64)
    wide = torch.distributions.Normal(mean, spacing).log_prob(k)
    bits = bits_per_dimension(-wide, 1)
    torch.testing.assert_close(
        (2.0**-bits).sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-8, rtol=0.0
    )
    laplace = torch.distributions.Laplace(mean, spacing).log_prob(k)
    assert (2.0 ** -bits_per_dimension(-laplace, 1)).sum() <= 1 + 1 / 12


def test_below_the_spacing_bits_mean_nothing() -> None:
    narrow = torch.distributions.Normal(0.0, 0.01 / 255).log_prob(torch.tensor(0.0))
    assert bits_per_dimension(-narrow, 1) < 0


def test_the_memory_format_of_images_does_not_matter() -> None:
    likelihood = GaussianLikelihood()
    images, reconstruction = torch.rand(2, 4, 3, 8, 6, dtype=torch.float64)
    formatted = [t.contiguous(memory_format=torch.channels_last) for t in (reconstruction, images)]
    torch.testing.assert_close(likelihood(*formatted), likelihood(reconstruction, images))


def test_logit_laplace_is_a_density_over_all_real_values() -> None:
    """Its integral over x is 1 wherever the reconstruction is, by the trapezoidal rule in float64."""
    x = torch.linspace(-8.0, 9.0, 400_001, dtype=torch.float64)[:, None]
    for location, scale in ((0.5, 0.3), (0.02, 0.8), (1.2, 0.4), (-0.1, 1.5)):
        density = LogitLaplaceLikelihood(scale).double().log_prob(torch.full_like(x, location), x).exp()
        assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-5)


def test_logit_laplace_equals_the_transformed_distribution_of_torch() -> None:
    reconstruction, target = pair()
    reconstruction = reconstruction.clamp(0, 1)
    squeeze = torch.distributions.AffineTransform(0.1, 0.8)
    to_logits = [squeeze, torch.distributions.SigmoidTransform().inv]
    location = to_logits[1](squeeze(reconstruction))
    base = torch.distributions.Laplace(location, 0.4)
    inverse = [transform.inv for transform in reversed(to_logits)]
    expected = torch.distributions.TransformedDistribution(base, inverse).log_prob(target).sum((1, 2, 3))
    likelihood = LogitLaplaceLikelihood(0.4).double()
    torch.testing.assert_close(likelihood.log_prob(reconstruction, target), expected)
    torch.testing.assert_close(likelihood(reconstruction, target), -expected.mean())


def test_logit_laplace_has_a_gradient_outside_of_the_unit_interval() -> None:
    target = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64)
    reconstruction = torch.tensor([[-0.3, 1.4, 0.6]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LogitLaplaceLikelihood(0.4).double(), (reconstruction, target))
    (grad,) = torch.autograd.grad(LogitLaplaceLikelihood()(reconstruction, target), reconstruction)
    assert grad.sign().tolist() == [[-1.0, 1.0, 1.0]]
