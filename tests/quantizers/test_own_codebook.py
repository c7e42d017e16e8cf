"""Codebooks that are given: in the latents' units, frozen wholly or partly, under any optimizer and through files."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq import GaussianMixtureVQ, VQAutoencoder
from gmvq.models import build_networks
from gmvq.quantizers import from_config

D, K = 4, 12


def normal(count: int, seed: int, dim: int = D) -> Tensor:
    return 2.0 + 5.0 * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def nearest(x: Tensor, codes: Tensor) -> Tensor:
    return (x[:, None].double() - codes.double()).square().sum(-1).argmin(-1)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_codes_are_the_nearest_of_the_given_ones(standardize, given) -> None:
    codes, x = normal(K, 0), normal(500, 1)
    built = GaussianMixtureVQ(D, K, standardize=standardize)
    built.set_codebook(codes, latents=x if given else None)
    assert built.started
    out = built.eval()(x)
    assert torch.equal(out.indices, nearest(x, codes))
    torch.testing.assert_close(built.get_codes_from_indices(torch.arange(K)), codes)
    if not standardize:
        assert torch.equal(out.quantized, codes[out.indices])
    # The posterior is neither flat nor a point: the precision fits the codes.
    entropy = built.posterior(x).entropy().mean().detach()
    assert 0.05 < float(entropy) < 1.9


def test_the_codebook_is_kept_with_mean_zero_and_variance_one() -> None:
    codes = normal(K, 0)
    built = GaussianMixtureVQ(D, K)
    built.set_codebook(codes)
    expected = (codes - codes.mean(0)) / codes.var(0, correction=0).mean().sqrt()
    torch.testing.assert_close(built.codebook.detach(), expected)


def test_one_code_and_equal_codes_start_too() -> None:
    for size in (1, 3):
        built = GaussianMixtureVQ(D, size)
        built.set_codebook(torch.full((size, D), 3.0))
        assert built.started
        assert torch.isfinite(built.eval()(normal(5, 0)).quantized).all()


def trained(built: GaussianMixtureVQ, decay: float = 0.0, steps: int = 30) -> GaussianMixtureVQ:
    """Steps in which encoder, latents and the codes without use all move."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(D, D), nn.Linear(D, D)
    parameters = [*encoder.parameters(), *decoder.parameters(), *built.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-2, weight_decay=decay)
    for seed in range(steps):
        x = normal(64, seed)
        out = built(encoder(x))
        loss = F.mse_loss(decoder(out.quantized), x) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return built


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_frozen_codes_stand_still_and_the_others_learn(decay) -> None:
    built = GaussianMixtureVQ(D, K)
    frozen = torch.arange(K) < 5
    built.set_codebook(normal(K, 0), frozen=frozen)
    before = copy.deepcopy(built.state_dict())
    built = trained(built, decay).eval()
    assert torch.equal(built.codebook[frozen], before["codebook"][frozen])
    assert (built.codebook[~frozen] != before["codebook"][~frozen]).all()
    assert torch.equal(built.mean, before["mean"])
    assert not torch.equal(built.log_precision, before["log_precision"])


def test_a_codebook_frozen_as_a_whole_is_learned_around() -> None:
    built = GaussianMixtureVQ(D, K)
    built.set_codebook(normal(K, 0), frozen=True)
    before = built.codebook.detach().clone()
    built = trained(built).eval()
    assert torch.equal(built.codebook, before)


def test_frozen_codes_get_no_gradient_and_none_is_born_anew() -> None:
    built = GaussianMixtureVQ(D, K, support=None)
    frozen = torch.arange(K) < 5
    codes = normal(K, 0)
    codes[:2] += 1000.0  # nothing is ever near these
    built.set_codebook(codes, latents=normal(100, 1), frozen=frozen)
    before = built.codebook.detach().clone()
    built.share.zero_()
    out = built(normal(64, 2).requires_grad_())
    (out.quantized.square().sum() + out.loss).backward()
    assert built.codebook.grad is not None
    assert (built.codebook.grad[frozen] == 0).all()
    assert (built.codebook.grad[~frozen] != 0).any()
    built.settle()
    assert torch.equal(built.codebook[frozen], before[frozen])


def test_k_means_around_frozen_codes_keeps_them() -> None:
    built = GaussianMixtureVQ(D, K)
    built.set_codebook(normal(K, 0), frozen=torch.arange(K) < 5)
    before = built.codebook.detach().clone()
    built.init_codebook(normal(300, 3))
    assert torch.equal(built.codebook[:5], before[:5])
    assert (built.codebook[5:] != before[5:]).all()


def test_frozen_codes_travel_through_files(tmp_path) -> None:
    built = GaussianMixtureVQ(D, K)
    built.set_codebook(normal(K, 0), frozen=torch.arange(K) < 5)
    again: Any = from_config(built.to_config())
    again.load_state_dict(built.state_dict())
    torch.testing.assert_close(again.frozen, built.frozen, equal_nan=True)
    encoder, decoder = build_networks("tiny", channels=1, dim=D, downsample=4)
    VQAutoencoder(encoder, built, decoder).save_pretrained(tmp_path)
    loaded: Any = VQAutoencoder.from_pretrained(tmp_path).quantizer
    torch.testing.assert_close(loaded.frozen, built.frozen, equal_nan=True)
    assert "frozen" not in GaussianMixtureVQ(D, K).state_dict()


def test_compiled_training_holds_frozen_codes() -> None:
    torch.compiler.reset()
    built = GaussianMixtureVQ(D, K)
    built.set_codebook(normal(K, 0), frozen=torch.arange(K) < 5)
    before = built.codebook.detach().clone()
    built.compile(fullgraph=True, backend="eager")
    built = trained(built, decay=1.0, steps=3).eval()
    assert torch.equal(built.codebook[:5], before[:5])


def test_given_codes_under_a_projection() -> None:
    built = GaussianMixtureVQ(D, K, codebook_dim=2)
    codes = torch.cat([normal(K, 0, 2), torch.zeros(K, 2)], -1)
    built.set_codebook(codes)
    torch.testing.assert_close(
        built.eval().get_codes_from_indices(torch.arange(K)), codes, atol=1e-4, rtol=1e-4
    )


def test_wrong_codes_say_what_is_expected() -> None:
    built: Any = GaussianMixtureVQ(D, K)
    with pytest.raises(ValueError, match=r"shape \(12, 4\)"):
        built.set_codebook(torch.zeros(K, D + 1))
    with pytest.raises(ValueError, match="got list"):
        built.set_codebook([[0.0] * D] * K)
    with pytest.raises(ValueError, match="NaN"):
        built.set_codebook(torch.full((K, D), torch.nan))
    with pytest.raises(ValueError, match=r"boolean tensor of shape \(12,\)"):
        built.set_codebook(normal(K, 0), frozen=torch.zeros(3, dtype=torch.bool))
