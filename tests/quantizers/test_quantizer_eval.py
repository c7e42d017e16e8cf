"""Evaluation is pure, a frozen layer never changes, and recomputation changes no gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from quantizer_cases import KINDS, assert_same, latents, layer, run, total_loss
from torch.utils.checkpoint import checkpoint

from gmvq import GaussianMixtureVQ, ResidualGMVQ


def exactly(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)


def noisy(**options) -> GaussianMixtureVQ:
    return layer(gumbel_noise=1.0, sample_noise=1.0, **options)


@pytest.mark.parametrize("weights", ["uniform", "learned"])
@pytest.mark.parametrize("standardize", [True, False])
def test_tokens_codes_and_forward_agree(weights, standardize) -> None:
    built, x = noisy(mixture_weights=weights, standardize=standardize).eval(), latents(40).view(2, 20, 3)
    out = built(x)
    assert torch.equal(built.encode(x), out.indices)
    exactly(built.get_codes_from_indices(out.indices), out.quantized)
    exactly(built(x).quantized, out.quantized)
    assert torch.equal(built.train().encode(x), out.indices), "encode is the same in training mode"
    masked = out.indices.clone()
    masked[0, 0] = -1
    exactly(built.get_codes_from_indices(masked)[0, 0], torch.zeros(3, dtype=torch.float64))


def test_a_projection_rounds_alike_for_any_division_into_batches() -> None:
    torch.manual_seed(0)
    built, x = GaussianMixtureVQ(dim=48, codebook_size=32, codebook_dim=6), torch.randn(1000, 48)
    built.init_codebook(x)
    z = built.eval().standardized(x)
    for size in (1, 3, 17, 250):
        exactly(torch.cat([built.standardized(part) for part in x.split(size)]), z)
    assert torch.equal(built.train().encode(x), built.eval()(x).indices)


def test_codes_of_indices_carry_a_gradient_to_the_codebook() -> None:
    built = layer()
    built.get_codes_from_indices(torch.tensor([1, 1])).sum().backward()
    assert built.codebook.grad is not None
    assert (built.codebook.grad.abs().sum(-1) > 0).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("mode", ["eval", "fresh eval", "frozen", "frozen and fresh"])
def test_forward_in_eval_or_frozen_changes_no_state(mode) -> None:
    built = noisy(started="fresh" not in mode)
    built.train("eval" not in mode)
    if "frozen" in mode:
        built.requires_grad_(False)
    before = copy.deepcopy(built.state_dict())
    for seed in range(2):
        out = built(latents(30, seed=seed))
        if out.loss.requires_grad:
            out.loss.backward()
        built.encode(latents(30, seed=seed))
        if built.started:
            built.posterior(latents(30, seed=seed)).topk(2)
    assert_same(built.state_dict(), before, rtol=0.0, atol=0.0)


def test_the_codebook_starts_once() -> None:
    """Latents without gradient start it at the first batch, ``init_codebook`` at once; later ones move it a little."""
    built, explicit = noisy(started=False), noisy(started=False)
    assert not built.started
    built(latents(30))
    assert built.started
    explicit.init_codebook(latents(30))
    exactly(explicit.codebook.detach(), built.codebook.detach())
    started = built.codebook.detach().clone()
    built(latents(30, seed=1))
    built.settle()
    assert 0 < (built.codebook.detach() - started).norm() < 0.3 * started.norm()


def test_latents_of_an_encoder_start_the_codebook_after_some_batches() -> None:
    """Until then: continuous and differentiable output, index -1, loss 0; ``eval`` starts a shorter training's."""
    built, x = layer(started=False, start_after=3), latents(30).requires_grad_()
    for _ in range(3):
        out = built(x)
        assert not built.started
        assert (out.indices == -1).all()
        assert out.loss == 0
        torch.testing.assert_close(out.quantized, built.standardized(x))
        assert set(out.terms) >= {"perplexity", "usage", "kl_aggregate"}
    short = copy.deepcopy(built).eval()
    assert short.started
    assert (short.encode(x) >= 0).all()
    assert (built(x).indices >= 0).all()
    fresh = layer(started=False).eval()
    assert (fresh(x).indices == -1).all()
    assert (fresh.encode(x) == -1).all()


def test_the_start_standardises_and_covers_the_latents() -> None:
    x = 4.0 + 0.01 * latents(200)
    built = layer(codebook_size=20, started=False)
    built.init_codebook(x)
    z = built.standardized(x)
    torch.testing.assert_close((z - z.mean(0)).square().mean(), torch.ones((), dtype=torch.float64))
    error = (built.standardized(built.eval()(x).quantized) - z).square().mean()
    assert error < 0.4
    nearest = torch.cdist(z, built.codebook).min(-1).values.square().mean() / 3
    torch.testing.assert_close(built.log_precision.exp().squeeze(), 1 / nearest, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_scale_and_offset_of_the_latents_do_not_matter(factor, shift) -> None:
    x = latents(200)
    plain, moved = layer(started=False), layer(started=False)
    plain.init_codebook(x)
    moved.init_codebook(factor * (x + shift))
    a, b = plain.eval()(x), moved.eval()(factor * (x + shift))
    assert torch.equal(a.indices, b.indices)
    torch.testing.assert_close(factor * (a.quantized + shift), b.quantized)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_equals_one_batch_for_what_is_a_mean_over_positions(kind) -> None:
    """Halves of equal statistics: every objective. Other halves: all but the aggregated KL, which is no mean."""
    x = latents(20)
    for halves, holds in ((x.chunk(2), kind == "elbo"), ((x, x.flip(0)), True)):
        built = layer(kind=kind, standardize=False)
        _, whole = run(built, torch.cat(halves))
        built.zero_grad()
        built._pending = None
        for half in halves:
            (0.5 * total_loss(built(half), half.sin())).backward()
            built._pending = None  # the M-step of a half is one of its own
        accumulated = {name: p.grad for name, p in built.named_parameters() if p.grad is not None}
        whole.pop("latents")
        if holds:
            assert_same(accumulated, whole)
        else:
            assert not torch.allclose(accumulated["codebook"], whole["codebook"], rtol=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_no_gradient(reentrant) -> None:
    x, gradients = latents(), []
    for recompute in (False, True):
        built, inputs = noisy(mixture_weights="learned"), x.clone().requires_grad_()
        torch.manual_seed(7)

        def forward(
            values: torch.Tensor, built: GaussianMixtureVQ = built
        ) -> tuple[torch.Tensor, torch.Tensor]:
            out = built(values)
            return out.quantized, out.loss

        if recompute:
            quantized, loss = checkpoint(forward, inputs, use_reentrant=reentrant)  # pyright: ignore
        else:
            quantized, loss = forward(inputs)
        ((quantized - x.sin()).square().mean() + loss).backward()
        gradients.append({**{n: p.grad for n, p in built.named_parameters()}, "latents": inputs.grad})
    assert_same(gradients[1], gradients[0], rtol=0.0, atol=0.0)


def test_checkpointing_over_the_lazy_start() -> None:
    """The recomputation must not start the codebook a second time."""
    x, plain, recomputed = latents(30), layer(started=False), layer(started=False)
    total_loss(plain(x), x.sin()).backward()
    out = checkpoint(recomputed, x, use_reentrant=False)
    total_loss(out, x.sin()).backward()  # pyright: ignore[reportArgumentType]
    assert_same(recomputed.state_dict(), plain.state_dict(), rtol=0.0, atol=0.0)
    exactly(recomputed.codebook.grad, plain.codebook.grad)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_over_the_start_of_levels_that_are_dropped_later(reentrant) -> None:
    """The batch that starts the levels has them all, in the recomputation too."""
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        built = ResidualGMVQ(3, 5, 3, level_dropout=True, start_after=1)
        for seed in range(3):
            x = latents(30, seed=seed, dtype=torch.float32).requires_grad_()

            def forward(
                values: torch.Tensor, built: ResidualGMVQ = built
            ) -> tuple[torch.Tensor, torch.Tensor]:
                out = built(values)
                return out.quantized, out.loss

            result: Any = checkpoint(forward, x, use_reentrant=reentrant) if recompute else forward(x)
            (result[0].square().mean() + result[1]).backward()
        states.append({**built.state_dict(), "gradient": built.mixtures[0].codebook.grad})
    assert_same(states[1], states[0], rtol=0.0, atol=0.0)


def test_output_unpacks_and_parameter_groups_hold_every_parameter_once() -> None:
    built = layer(mixture_weights="learned")
    out = built(latents())
    quantized, indices, loss = out
    assert quantized is out.quantized
    assert indices is out.indices
    assert loss is out.loss
    assert out[0] is quantized
    assert out[-1] is loss
    groups = built.parameter_groups(lr=1e-3)
    held = [p for group in groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, built.parameters()))
    assert all(group["lr"] > 0 for group in groups)
    torch.optim.Adam(groups).step()
