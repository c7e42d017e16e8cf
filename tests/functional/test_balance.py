"""The exchange rate between nats and a reconstruction loss in any units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq.functional.balance import balance_gradients


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codebook-like parameter, latents, target, and a parameter that the nats depend on."""
    generator = torch.Generator().manual_seed(0)
    shift, latents, target = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    nats_parameter = torch.tensor([0.3, -0.7], dtype=torch.float64)
    return shift.requires_grad_(), latents.requires_grad_(), target, nats_parameter.requires_grad_()


def gradients(factor: float = 1.0, unit: float = 1.0, weight: float = 1.0, reconstruct: bool = True):
    shift, latents, target, parameter = problem()
    quantized, loss = balance_gradients(latents + shift, parameter.square().sum(), latents)
    total = weight * loss
    if reconstruct:
        total = total + unit * (quantized - target).square().mean()
    grads = torch.autograd.grad(factor * total, (shift, latents, parameter), allow_unused=True)
    return quantized, loss, grads


def test_values_pass_unchanged() -> None:
    shift, latents, _, parameter = problem()
    quantized, loss, _ = gradients()
    torch.testing.assert_close(quantized, latents + shift)
    torch.testing.assert_close(loss, parameter.square().sum())


@pytest.mark.parametrize("factor", [2.0**16, 0.25, 1e-3])
def test_a_factor_on_the_total_loss_scales_every_gradient_by_it(factor) -> None:
    for ours, base in zip(gradients(factor=factor)[2], gradients()[2], strict=True):
        torch.testing.assert_close(ours, factor * base)


def test_units_of_the_reconstruction_loss_do_not_change_the_direction() -> None:
    """In units a hundred times larger all gradients grow a hundredfold: an optimum stays where it is."""
    for ours, base in zip(gradients(unit=100.0)[2], gradients()[2], strict=True):
        torch.testing.assert_close(ours, 100.0 * base)


@pytest.mark.parametrize("flush", [False, True])
def test_latents_that_are_codewords_have_the_plain_gradient(flush: bool) -> None:
    """As at a start on no more latents than codes: every error is zero, also where denormals are flushed."""
    latents = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.set_flush_denormal(flush)
    try:
        quantized, _ = balance_gradients(
            latents.detach(), latents.new_zeros(()), latents, straight_through=True
        )
        (grad,) = torch.autograd.grad(1e-6 * quantized.square().sum(), latents)
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(grad, 2e-6 * latents.detach())


def test_a_weight_on_the_term_alone_keeps_only_its_sign() -> None:
    base, heavy, negative = (gradients(weight=w)[2][2] for w in (1.0, 50.0, -3.0))
    torch.testing.assert_close(heavy, base)
    torch.testing.assert_close(negative, -base)


def test_without_a_reconstruction_loss_the_gradient_is_the_plain_one() -> None:
    _, _, (shift, _, parameter) = gradients(reconstruct=False, weight=3.0)
    assert shift is None
    torch.testing.assert_close(parameter, 3.0 * 2 * problem()[3].detach())


def test_without_the_term_the_reconstruction_gradient_is_the_plain_one() -> None:
    shift, latents, target, parameter = problem()
    quantized, _ = balance_gradients(latents + shift, parameter.sum(), latents)
    (ours,) = torch.autograd.grad((quantized - target).square().mean(), shift)
    (plain,) = torch.autograd.grad((latents + shift - target).square().mean(), shift)
    torch.testing.assert_close(ours, plain)


def test_the_reconstruction_gradient_is_never_touched() -> None:
    shift, latents, target, _ = problem()
    (plain,) = torch.autograd.grad((latents + shift - target).square().mean(), shift)
    torch.testing.assert_close(gradients()[2][0], plain)


@pytest.mark.parametrize("curvature", [0.5, 7.0])
def test_rate_is_two_distortions_per_feature_for_a_quadratic_loss(curvature) -> None:
    """A loss that is quadratic around the latents costs D_q = g.e / 2, and one nat is worth 2 D_q / D."""
    shift, latents, _, _ = problem()
    nats = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    quantized, loss = balance_gradients(latents + shift, nats, latents)
    distortion = curvature * (quantized - latents.detach()).square().sum()
    (rate,) = torch.autograd.grad(distortion + loss, nats)
    torch.testing.assert_close(rate, 2 * distortion.detach() / latents.shape[-1])


def test_an_exact_code_is_worth_nothing_and_dtypes_may_differ() -> None:
    latents = torch.randn(5, 3)
    nats = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    sample = latents.clone().requires_grad_()
    quantized, loss = balance_gradients(sample, nats, latents)
    (quantized.square().sum().double() + loss).backward()
    torch.testing.assert_close(nats.grad, torch.tensor(0.0, dtype=torch.float64))
    assert loss.dtype == torch.float64


def carried(gradient: Tensor, error: Tensor) -> Tensor:
    """What the latents get of a gradient of the quantized ones, at this quantization error."""
    latents = torch.zeros_like(error).requires_grad_()
    quantized, _ = balance_gradients(error, error.new_zeros(()), latents, straight_through=True)
    quantized.backward(gradient)
    assert latents.grad is not None
    return latents.grad


def test_pushes_away_from_the_codeword_are_taken_out() -> None:
    """A loss that is quadratic around the latents: nothing wants them elsewhere, and they stay."""
    error = problem()[0].detach()
    least = 1e-3 * error.square().sum(-1).square().sum() / error.square().sum()
    left = (least / (error.square().sum(-1) + least))[:, None]
    torch.testing.assert_close(carried(3.0 * error, error), 3.0 * left * error)
    assert left.max() < 0.02
    across = torch.randn_like(error)
    across -= (across * error).sum(-1, keepdim=True) / error.square().sum(-1, keepdim=True) * error
    # What is across stays: the rest lies along the error.
    rest = carried(3.0 * error + across, error) - across
    along = (rest * error).sum(-1, keepdim=True) / error.square().sum(-1, keepdim=True)
    torch.testing.assert_close(rest, along * error)
    assert (along < 3.0).all()


def test_pushes_of_either_sign_and_towards_the_codeword_stay() -> None:
    error = torch.nn.functional.normalize(problem()[0].detach())
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    for gradient in (2.0 * signs * error, -error):
        torch.testing.assert_close(carried(gradient, error), gradient)


def test_the_share_knows_no_units_and_counts_no_position_without_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    gradient, error = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    gradient = gradient + error
    along, squares = (gradient * error).sum(-1), error.square().sum(-1)
    share = (along.sum() / (gradient.square().sum() * squares.sum()).sqrt()).sqrt()
    assert 0.1 < share < 1
    least = 1e-3 * squares.square().sum() / squares.sum()
    expected = gradient - share * (along / (squares + least))[:, None] * error
    for unit in (1.0, 1e-9, 1e6):
        torch.testing.assert_close(carried(unit * gradient, error), unit * expected)
    nothing = torch.zeros(3, 4, dtype=torch.float64)
    padded = carried(torch.cat([gradient, nothing]), torch.cat([error, torch.ones_like(nothing)]))
    torch.testing.assert_close(padded, torch.cat([expected, nothing]))
