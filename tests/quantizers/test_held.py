"""Before the start: the Gaussian that holds the latents, in closed form, in any units, masked, and what it prevents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq import GaussianMixtureVQ
from gmvq.quantizers.start import Pool, held


def gradient(latents: Tensor, pool: Pool, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of sum(weight * held latents)."""
    latents = latents.clone().requires_grad_()
    (grad,) = torch.autograd.grad((held(latents, mask, pool) * weight).sum(), latents)
    return grad


@pytest.fixture
def pool() -> Pool:
    made = Pool(4)
    made.add(torch.randn(64, 3, dtype=torch.float64) + 5.0)
    return made


def test_the_pull_in_closed_form(pool: Pool) -> None:
    assert pool.mean is not None
    assert pool.variance is not None
    s = float(pool.variance.sqrt())
    direction = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    latents = torch.stack([pool.mean + 3.0 * s * direction, pool.mean + 1.9 * s * direction])
    weight = torch.randn(2, 3, dtype=torch.float64)
    pull = gradient(latents, pool, weight) - weight
    rms = weight.square().sum(-1).mean().sqrt()
    # One deviation beyond two, times 3, times the rms of the gradient.
    torch.testing.assert_close(pull[0], 3.0 * rms * direction)
    assert not pull[1].any()


def test_masked_latents_neither_pull_nor_count(pool: Pool) -> None:
    assert pool.mean is not None
    latents = pool.mean + 20.0 * torch.randn(6, 3, dtype=torch.float64)
    weight = torch.randn(6, 3, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True, False, True])
    among = gradient(latents, pool, weight, mask)
    torch.testing.assert_close(among[mask], gradient(latents[mask], pool, weight[mask]))
    torch.testing.assert_close(among[~mask], weight[~mask])


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_any_units_of_loss_and_latents(unit: float) -> None:
    first, second = torch.randn(2, 32, 3, dtype=torch.float64)
    second *= 9.0
    weight = torch.randn(32, 3, dtype=torch.float64)
    grads: list[Tensor] = []
    for scale in (1.0, unit):
        pool = Pool(4)
        pool.add(first * scale + 3.0 * scale)
        grads.append(gradient(second * scale + 3.0 * scale, pool, weight))
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(gradient(second * unit + 3.0 * unit, pool, weight * 7.0), 7.0 * grads[0])


def test_the_gaussian_forgets_a_twentieth_with_each_batch() -> None:
    pool = Pool(2)
    pool.add(torch.zeros(8, 2))
    pool.add(torch.ones(8, 2))
    torch.testing.assert_close(pool.mean, torch.full((2,), 0.05))
    torch.testing.assert_close(pool.variance, torch.tensor(0.05 * 2 * 0.95**2))


def test_latents_without_spread_and_half_precision() -> None:
    pool = Pool(2)
    pool.add(torch.ones(8, 2))
    assert gradient(torch.ones(8, 2), pool, torch.ones(8, 2)).equal(torch.ones(8, 2))
    far = torch.full((8, 2), 3.0, dtype=torch.bfloat16)
    ones = torch.ones_like(far)
    assert gradient(far, pool, ones).equal(ones)
    pool.add(far)
    pulled = gradient(far, pool, ones)
    assert pulled.dtype == torch.bfloat16
    assert (pulled > ones).all()


def test_a_pool_goes_on_from_its_state() -> None:
    batches = torch.randn(5, 16, 3)
    whole, begun, resumed = Pool(4), Pool(4), Pool(4)
    for batch in batches:
        whole.add(batch)
    for batch in batches[:3]:
        begun.add(batch)
    resumed.restore(begun.state(), torch.device("cpu"))
    for batch in batches[3:]:
        resumed.add(batch)
    for name, value in whole.state().items():
        torch.testing.assert_close(resumed.state()[name], value, rtol=0, atol=0)


def growth(start_after: int, hold: bool, monkeypatch: pytest.MonkeyPatch) -> float:
    """How far ten steps of a loss that only wants larger latents move them, in first deviations."""
    if not hold:
        monkeypatch.setattr("gmvq.quantizers.start._PULL", 0.0)
    quantizer = GaussianMixtureVQ(4, 8, start_after=start_after)
    base = torch.randn(64, 4)
    gain = torch.ones((), requires_grad=True)
    optimizer = torch.optim.SGD([gain], lr=1.0)
    for _ in range(10):
        optimizer.zero_grad()
        out = quantizer(base * gain)
        assert out.quantized.equal(base * gain)
        (out.loss - out.quantized.norm(dim=-1).mean()).backward()
        optimizer.step()
    return float(gain.detach())


def test_latents_cannot_run_away(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    held_growth = growth(50, True, monkeypatch)
    free_growth = growth(50, False, monkeypatch)
    assert held_growth < 0.5 * free_growth
