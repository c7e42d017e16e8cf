"""What training learns whatever the latents are: births, units that do not matter, batches with nothing in them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from quantizer_cases import assert_same, latents, layer
from torch.utils.checkpoint import checkpoint

from gmvq import GaussianMixtureVQ
from gmvq.functional.estimators import GumbelSoftmax
from gmvq.functional.schedules import Cosine


def test_births_take_every_dead_code_to_a_latent_and_change_no_other() -> None:
    """Against the same step without births: the rest of the codebook is equal, bit by bit."""
    bearing, barren = layer(), layer()
    x, dead = latents(50), torch.tensor([True, False, False, True, False])
    z = bearing.standardized(x).detach()
    barren.births = False
    for built in (bearing, barren):
        with torch.no_grad():
            built.share.copy_(torch.where(dead, 0.0, 1.0))
            built.codebook[dead] = 1e3  # where no latent is
        built(x)
        built.settle()
    new, old = bearing.codebook.detach(), barren.codebook.detach()
    torch.testing.assert_close(old[dead], torch.full((2, 3), 1e3, dtype=torch.float64), rtol=0.0, atol=0.0)
    assert (new[dead][:, None] == z).all(-1).any(-1).all(), "born at latents of the batch"
    torch.testing.assert_close(new[~dead], old[~dead], rtol=0.0, atol=0.0)
    torch.testing.assert_close(bearing.share[dead], torch.full((2,), 0.2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("factor", "shift"), [(1e-4, 0.0), (1e4, 0.0), (1.0, 1e3), (1e-4, -1e3), (1e4, 1e3)])
def test_units_and_origin_of_the_latents_do_not_matter(dtype, factor, shift) -> None:
    """Wait, start and M-steps included: the same indices and codewords after training on either."""
    test, runs = latents(40, seed=99), []
    for scale, offset in ((1.0, 0.0), (factor, shift)):
        built = layer(started=False, start_after=3, dtype=dtype)
        for seed in range(8):
            built((scale * (latents(60, seed=seed) + offset)).to(dtype).requires_grad_())
        out = built.eval()((scale * (test + offset)).to(dtype))
        runs.append((out.indices, out.quantized / scale - offset))
    assert torch.equal(runs[1][0], runs[0][0])
    tolerance = 2e-3 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=tolerance, atol=tolerance)


def sixteen_rows() -> torch.Tensor:
    return latents(16, 4, dtype=torch.float32).repeat(8, 1)


@pytest.mark.parametrize("wait", [0, 2])
@pytest.mark.parametrize("first", [lambda: torch.zeros(128, 4), sixteen_rows], ids=["zeros", "16 rows"])
def test_a_first_batch_with_little_in_it_stays_finite_and_is_outgrown(wait, first) -> None:
    torch.manual_seed(0)
    built = GaussianMixtureVQ(4, 32, start_after=wait)
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-3)
    for step in range(150):
        x = first() if step == 0 else latents(128, 4, seed=step, dtype=torch.float32)
        x.requires_grad_()
        out = built(x)
        assert built.started == (step >= wait)
        optimizer.zero_grad()
        (out.quantized.square().mean() + out.loss).backward()
        optimizer.step()
        for name, value in {**built.state_dict(), **out.terms, "latents": x.grad}.items():
            assert torch.isfinite(value).all(), (name, step)  # pyright: ignore[reportArgumentType]
    test = latents(512, 4, seed=1000, dtype=torch.float32)
    out = built.eval()(test)
    assert out.terms["perplexity"] > 12
    assert (out.quantized - test).square().mean() < 0.4 * (test - test.mean(0)).square().mean()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("wait", [0, 2])
def test_a_forward_repeated_in_backward_learns_nothing(reentrant, wait) -> None:
    """Before, at and after the start: with activation checkpointing the same state after the same batches."""
    states: list[dict[str, Any]] = []
    for recompute in (False, True):
        built = layer(started=False, start_after=wait)
        torch.manual_seed(7)
        for seed in range(5):
            x = latents(30, seed=seed).requires_grad_()

            def forward(values: torch.Tensor, built: GaussianMixtureVQ = built) -> torch.Tensor:
                return built(values).quantized

            quantized = checkpoint(forward, x, use_reentrant=reentrant) if recompute else forward(x)
            batches = int(built.batches)
            quantized.square().mean().backward()  # pyright: ignore
            assert int(built.batches) == batches
        states.append(copy.deepcopy(built.state_dict()))
    assert_same(states[1], states[0], rtol=0.0, atol=0.0)


def test_a_schedule_written_with_whole_numbers_is_not_rounded() -> None:
    quantizer = GaussianMixtureVQ(4, 8, estimator=GumbelSoftmax(temperature=Cosine(2, 1)))
    quantizer.set_progress(0.5)
    torch.testing.assert_close(quantizer.temperature, torch.tensor(1.5))
