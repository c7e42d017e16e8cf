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


def curved(directions: int = 4) -> Tensor:
    """H, symmetric, of curvatures 1/2, 1, 2, 4 along directions that are no axes."""
    basis = torch.linalg.qr(drawn(directions, directions, seed=7))[0]
    return basis @ torch.diag(2.0 ** (torch.arange(directions, dtype=torch.float64) - 1)) @ basis.T


def test_pushes_away_from_the_codeword_are_taken_out_in_every_direction() -> None:
    """A loss that is quadratic around the latents, steep in one direction and flat in another: they stay."""
    error, curvature = drawn(500, 4) * torch.tensor([3.0, 1.0, 0.3, 1.0]).double(), curved()
    gradient = error @ curvature
    left = carried(gradient, error)
    assert (left.norm(dim=-1) < 0.1 * gradient.norm(dim=-1)).double().mean() > 0.9
    directions = torch.linalg.eigh(curvature).eigenvectors
    along = (left @ directions * (error @ directions)).sum(0) / (error @ directions).square().sum(0)
    assert (along.abs() < 0.25 * torch.linalg.eigvalsh(curvature)).all()


def test_what_the_decoder_wants_stays_where_it_has_nothing_to_do_with_the_error() -> None:
    """Along a direction in which the loss is not curved: no share of the push reaches it."""
    error, wanted = drawn(500, 4), torch.zeros(500, 4, dtype=torch.float64)
    wanted[:, 3] = drawn(500, seed=1)
    curvature = torch.diag(torch.tensor([2.0, 2.0, 2.0, 0.0]).double())
    rest = carried(error @ curvature + wanted, error)
    assert (rest[:, 3] - wanted[:, 3]).norm() < 0.15 * wanted.norm()
    assert rest[:, :3].norm() < 0.3 * (error @ curvature).norm()


def test_pushes_of_either_sign_and_towards_the_codeword_stay() -> None:
    error = torch.nn.functional.normalize(problem()[0].detach())
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    for gradient in (2.0 * signs * error, -error):
        torch.testing.assert_close(carried(gradient, error), gradient)


def test_the_commitment_is_a_multiple_of_the_push() -> None:
    error, curvature = drawn(500, 4), curved()
    gradient = error @ curvature
    pull = carried(gradient, error) - carried(gradient, error, commitment=0.5)
    assert (pull - 0.5 * gradient).norm() < 0.02 * gradient.norm()


def test_a_fit_to_few_positions_is_no_fit() -> None:
    """Gradients that have nothing to do with the errors, of fewer positions than features, stay nearly whole."""
    for seed in range(5):
        gradient, error = drawn(8, 32, seed=seed), drawn(8, 32, seed=seed + 100)
        gradient = gradient + 0.1 * error
        assert (carried(gradient, error) - gradient).norm() < 0.5 * gradient.norm()


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e6])
def test_the_share_by_its_formula_in_any_units_and_without_positions_that_have_no_gradient(unit) -> None:
    error, noise = drawn(40, 4), drawn(40, 4, seed=1)
    gradient = error @ curved() + noise
    squares, products = error.T @ error, error.T @ gradient
    rho = products.trace() / (gradient.norm() * error.norm())
    ridge = squares.trace() / 40 / rho.square() * torch.eye(4, dtype=torch.float64)
    curvature = torch.linalg.solve(squares + ridge, products + products.trace() / squares.trace() * ridge)
    push = error @ (curvature + curvature.T) / 2
    share = (gradient * push).sum() / (gradient.norm() * push.norm())
    assert 0.1 < share < 1
    own = push.square().sum(-1, keepdim=True) + 1e-3 * push.square().sum() / 40
    expected = gradient - share.sqrt() * (gradient * push).sum(-1, keepdim=True) / own * push
    torch.testing.assert_close(carried(unit * gradient, error), unit * expected)
    nothing = torch.zeros(3, 4, dtype=torch.float64)
    padded = carried(torch.cat([unit * gradient, nothing]), torch.cat([error, torch.ones_like(nothing)]))
    torch.testing.assert_close(padded, torch.cat([unit * expected, nothing]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_positions_with_errors_along_a_line_in_low_precision(dtype) -> None:
    """The fit has a solution in float32, however many positions and however flat their errors lie."""
    error = (drawn(200_000, 1) @ drawn(1, 8, seed=1)).to(dtype)
    gradient = 3.0 * error
    left = carried(gradient, error)
    assert left.dtype == dtype
    assert left.float().norm() < 0.02 * gradient.float().norm()


def test_backward_inside_of_autocast_is_that_outside() -> None:
    error, noise = drawn(40, 4).float(), drawn(40, 4, seed=1).float()
    gradient = error @ curved().float() + noise
    with torch.autocast("cpu", torch.bfloat16):
        inside = carried(gradient, error)
    torch.testing.assert_close(inside, carried(gradient, error))
