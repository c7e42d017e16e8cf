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


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_push_taken_out_is_in_the_units_of_the_gradient(factor) -> None:
    """Single precision holds no fourth power of such gradients."""
    gradient, error = (torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    base = carried(gradient + error, error, 0.25)
    torch.testing.assert_close(carried(factor * (gradient + error), error, 0.25) / factor, base)


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


def carried(gradient: Tensor, error: Tensor, commitment: float = 0.0) -> Tensor:
    """What the latents get of a gradient of the quantized ones, at this quantization error."""
    latents = torch.zeros_like(error).requires_grad_()
    options = {"straight_through": True, "commitment": commitment}
    quantized, _ = balance_gradients(error, error.new_zeros(()), latents, **options)
    quantized.backward(gradient)
    assert latents.grad is not None
    return latents.grad


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


#: Of four features.
CURVATURE = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


def test_pushes_away_from_the_codeword_are_taken_out_at_each_features_curvature() -> None:
    """A loss that is quadratic around the latents, steep in one feature and flat in another: they stay."""
    error = drawn(500, 4) * torch.tensor([3.0, 1.0, 0.3, 1.0]).double()
    left = carried(CURVATURE * error, error)
    assert ((left.norm(dim=-1) < 0.1 * (CURVATURE * error).norm(dim=-1)).double().mean()) > 0.9
    along = (left * error).sum(0) / error.square().sum(0)
    assert (along.abs() < 0.1 * CURVATURE).all()


def test_what_the_decoder_wants_stays_where_it_has_nothing_to_do_with_the_error() -> None:
    """Along a feature in which the loss is not curved: no share of the push reaches it."""
    error, wanted = drawn(500, 4), torch.zeros(500, 4, dtype=torch.float64)
    wanted[:, 3] = drawn(500, seed=1)
    push = error * torch.tensor([2.0, 2.0, 2.0, 0.0]).double()
    rest = carried(push + wanted, error)
    assert (rest[:, 3] - wanted[:, 3]).norm() < 0.15 * wanted.norm()
    assert rest[:, :3].norm() < 0.3 * push.norm()


def test_a_feature_with_pushes_towards_the_codeword_is_left_alone() -> None:
    error, curvature = drawn(500, 4), torch.tensor([3.0, 3.0, 3.0, -1.0]).double()
    for commitment in (0.0, 0.5):
        left = carried(curvature * error, error, commitment)
        torch.testing.assert_close(left[:, 3], -error[:, 3])


def test_pushes_of_either_sign_and_towards_the_codeword_stay() -> None:
    error = torch.nn.functional.normalize(problem()[0].detach())
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    for gradient in (2.0 * signs * error, -error):
        torch.testing.assert_close(carried(gradient, error), gradient)


def test_the_commitment_is_a_multiple_of_the_push() -> None:
    error = drawn(500, 4)
    pull = carried(CURVATURE * error, error) - carried(CURVATURE * error, error, commitment=0.5)
    assert (pull - 0.5 * CURVATURE * error).norm() < 0.02 * (CURVATURE * error).norm()


def test_a_fit_to_few_positions_is_one_curvature_for_all_features() -> None:
    gradient, error = drawn(3, 32) + 0.5 * drawn(3, 32, seed=1), drawn(3, 32, seed=1)
    push = carried(gradient, error) - carried(gradient, error, commitment=1.0)
    spread = (push / error)[0]
    assert spread.std() < 0.5 * spread.mean()


def share(gradient: Tensor, error: Tensor) -> Tensor:
    """What is left of the gradient, by the formula."""
    products, squares = (gradient * error).sum(0), error.square().sum(0)
    rho = products.sum() / (gradient.norm() * error.norm())
    ridge = squares.sum() / error.numel() / rho.square()
    push = error * ((products + products.sum() / squares.sum() * ridge) / (squares + ridge)).clamp_min(0.0)
    kappa = ((gradient * push).sum() / (gradient.norm() * push.norm())).sqrt()
    own = push.square().sum(-1, keepdim=True)
    own = own + 1e-3 * own.square().sum() / own.sum()
    return gradient - kappa * (gradient * push).sum(-1, keepdim=True) / own * push


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_its_formula_in_any_units_and_without_positions_that_have_no_gradient(unit, dtype) -> None:
    error = drawn(40, 4).to(dtype)
    gradient = CURVATURE.to(dtype) * error + drawn(40, 4, seed=1).to(dtype)
    expected = share(gradient, error)
    assert 0.05 < (expected - gradient).norm() / gradient.norm() < 1
    torch.testing.assert_close(carried(unit * gradient, error) / unit, expected)
    nothing = torch.zeros(3, 4, dtype=dtype)
    padded = carried(torch.cat([unit * gradient, nothing]), torch.cat([error, torch.ones_like(nothing)]))
    torch.testing.assert_close(padded / unit, torch.cat([expected, nothing]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_positions_with_errors_along_a_line_in_low_precision(dtype) -> None:
    error = (drawn(20_000, 1) @ drawn(1, 8, seed=1)).to(dtype)
    left = carried(3.0 * error, error)
    assert left.dtype == dtype
    assert left.float().norm() < 0.02 * (3.0 * error).float().norm()
