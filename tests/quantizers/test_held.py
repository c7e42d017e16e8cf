"""Before the start: the Gaussian in whose frame the decoder reads latents, in any units, and what it prevents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmvq import GaussianMixtureVQ
from gmvq.quantizers.start import Pool, held


def moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, (D,), and deviation, 0-d."""
    return latents.mean(0), (latents - latents.mean(0)).square().sum(-1).mean().sqrt()


def pool_of(latents: Tensor) -> Pool:
    pool = Pool(4)
    pool.add(latents)
    return pool


#: At the first batch, which is wholly in the frame.
FIRST = 0.0


@pytest.fixture
def seen() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(64, 3, dtype=torch.float64) + 5.0


def test_a_batch_that_has_grown_is_read_with_the_moments_of_the_gaussian(seen: Tensor) -> None:
    batch = (9.0 * torch.randn(32, 3, dtype=torch.float64) - 7.0).requires_grad_()
    read = held(batch, None, pool_of(seen), FIRST)
    for found, expected in zip(moments(read), moments(seen), strict=True):
        torch.testing.assert_close(found, expected)
    mean, deviation = moments(batch)
    torch.testing.assert_close(read - seen.mean(0), (batch - mean) * moments(seen)[1] / deviation)


def test_a_batch_that_has_not_grown_is_moved_alone(seen: Tensor) -> None:
    batch = (0.1 * torch.randn(32, 3, dtype=torch.float64)).requires_grad_()
    read = held(batch, None, pool_of(seen), FIRST)
    torch.testing.assert_close(read, batch - batch.mean(0) + seen.mean(0))


def test_a_share_of_the_frame(seen: Tensor) -> None:
    batch = (9.0 * torch.randn(32, 3, dtype=torch.float64)).requires_grad_()
    read = held(batch, None, pool_of(seen), torch.tensor(0.95, dtype=torch.float64))
    torch.testing.assert_close(read, 0.75 * batch + 0.25 * held(batch, None, pool_of(seen), FIRST))


def test_the_share_falls_to_nothing_at_the_start() -> None:
    """Four fifths of the batches are read wholly in the frame of the first one, which is far from them."""
    quantizer, latents = GaussianMixtureVQ(3, 4, start_after=20), torch.randn(16, 3)
    far = (5.0 * latents + 100.0).requires_grad_()
    quantizer(latents.requires_grad_())
    shares = []
    for _ in range(19):
        out = quantizer(far)
        pool = quantizer._pool
        assert pool is not None
        assert pool.mean is not None
        shares.append(float(((out.quantized - far).mean() / (pool.mean - far.mean(0)).mean()).detach()))
    assert shares == pytest.approx([1.0] * 16 + [0.75, 0.5, 0.25], abs=1e-4)


def test_the_gradient_neither_moves_nor_scales_the_batch(seen: Tensor) -> None:
    batch = (9.0 * torch.randn(32, 3, dtype=torch.float64)).requires_grad_()
    (grad,) = torch.autograd.grad(
        (held(batch, None, pool_of(seen), FIRST) * torch.randn_like(batch)).sum(), batch
    )
    assert grad.abs().max() > 0.01
    torch.testing.assert_close(grad.sum(0), torch.zeros(3, dtype=torch.float64))
    assert abs(float((grad * batch).sum().detach())) < 1e-12


def test_masked_latents_do_not_count(seen: Tensor) -> None:
    mask = torch.tensor([True, True, False, True, False, True])
    batch = (9.0 * torch.randn(6, 3, dtype=torch.float64)).requires_grad_()
    alone = batch[mask].detach().requires_grad_()
    weight = torch.randn(4, 3, dtype=torch.float64)
    read, expected = held(batch, mask, pool_of(seen), FIRST)[mask], held(alone, None, pool_of(seen), FIRST)
    torch.testing.assert_close(read, expected)
    (grad,) = torch.autograd.grad((read * weight).sum(), batch)
    torch.testing.assert_close(grad[mask], torch.autograd.grad((expected * weight).sum(), alone)[0])
    assert not grad[~mask].any()


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_any_units(unit: float, seen: Tensor) -> None:
    batch = (9.0 * torch.randn(32, 3, dtype=torch.float64)).requires_grad_()
    read = held(batch, None, pool_of(seen), FIRST)
    torch.testing.assert_close(held(batch * unit, None, pool_of(seen * unit), FIRST), read * unit)


def test_the_gaussian_forgets_a_twentieth_with_each_batch() -> None:
    pool = Pool(2)
    pool.add(torch.zeros(8, 2))
    pool.add(torch.ones(8, 2))
    torch.testing.assert_close(pool.mean, torch.full((2,), 0.05))
    torch.testing.assert_close(pool.variance, torch.tensor(0.05 * 2 * 0.95**2))


def test_latents_without_spread_and_half_precision() -> None:
    same = torch.ones(8, 2, requires_grad=True)
    pool = pool_of(torch.ones(8, 2))
    read = held(same, None, pool, FIRST)
    assert read.equal(torch.ones(8, 2))
    (grad,) = torch.autograd.grad(read[0].sum(), same)
    assert grad.isfinite().all()
    spread = torch.randn(8, 2, requires_grad=True)
    pool.add(spread)
    (grad,) = torch.autograd.grad(held(spread, None, pool, FIRST).square().sum(), spread)
    assert grad.isfinite().all()
    half = (9.0 * torch.randn(8, 2)).bfloat16().requires_grad_()
    assert held(half, None, pool, FIRST).dtype == torch.bfloat16


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


def test_latents_cannot_run_away() -> None:
    """Ten steps of a loss that wants nothing but larger latents."""
    quantizer = GaussianMixtureVQ(4, 8, start_after=50)
    base, gain = torch.randn(64, 4), torch.ones((), requires_grad=True)
    optimizer = torch.optim.SGD([gain], lr=1.0)
    for _ in range(10):
        optimizer.zero_grad()
        out = quantizer(base * gain)
        (out.loss - out.quantized.norm(dim=-1).mean()).backward()
        optimizer.step()
    assert float(gain.detach()) < 6.0  # unheld, it grows by the mean norm of the base, 1.9, with each step


def test_memory_of_latents_may_be_written_to_again_before_the_start() -> None:
    """As activations in place do, and encoders whose steps are captured as graphs."""
    layers = []
    for written in (False, True):
        built, x = GaussianMixtureVQ(3, 4), torch.arange(60.0).sin().view(20, 3).requires_grad_()
        built(x)
        if written:
            x.data.zero_()
        layers.append(built.eval())
    torch.testing.assert_close(layers[1].codebook, layers[0].codebook, rtol=0.0, atol=0.0)
