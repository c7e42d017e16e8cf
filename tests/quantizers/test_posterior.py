"""Soft access to the posterior: against sums over all codes, on every composition where the meaning is clear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quantizer_cases import D, K, layer
from quantizer_cases import latents as rows
from torch import Tensor

from gmvq import ChannelsFirst, GaussianMixtureVQ, GroupedGMVQ

MASK = torch.arange(12).view(3, 4) % 5 != 1


def latents() -> Tensor:
    return rows(12).view(3, 4, D)


@pytest.fixture
def built() -> GaussianMixtureVQ:
    return layer(mixture_weights="learned").eval()


def by_hand(built: GaussianMixtureVQ, x: Tensor) -> Tensor:
    """log q(c|x), (..., K), over all pairs of a position and a code."""
    z = (x - built.mean) / built.scale
    distance = (z[..., None, :] - built.codebook).square().sum(-1)
    joint = built.log_weights() - 0.5 * built.log_precision.exp() * distance
    return joint.log_softmax(-1)


def test_the_likeliest_codes_come_first_with_their_log_probabilities(built) -> None:
    x = latents()
    log_q = by_hand(built, x)
    values, codes = built.posterior(x).topk(3)
    expected, places = log_q.topk(3, -1)
    torch.testing.assert_close(values, expected)
    assert torch.equal(codes, places)
    assert torch.equal(codes[..., 0], built.encode(x))
    torch.testing.assert_close(
        built.posterior(x).topk(K)[0].exp().sum(-1), torch.ones(3, 4, dtype=torch.float64)
    )


def test_the_first_code_is_that_of_encode_at_ties() -> None:
    built = layer(dtype=torch.float32).eval()
    with torch.no_grad():
        built.codebook.copy_(built.codebook[:1].expand(K, -1))
    x = rows(40, dtype=torch.float32)
    _, codes = built.posterior(x).topk(3)
    assert torch.equal(codes[:, 0], built.encode(x))
    assert all(len(set(row.tolist())) == 3 for row in codes)


def test_log_probability_entropy_and_mean_are_sums_over_codes(built) -> None:
    x = latents()
    posterior, log_q = built.posterior(x), by_hand(built, x)
    indices = torch.arange(12).view(3, 4) % K
    chosen = log_q.gather(-1, indices[..., None])[..., 0]
    torch.testing.assert_close(posterior.log_prob(indices), chosen)
    torch.testing.assert_close(posterior.cross_entropy(indices), -chosen.mean())
    torch.testing.assert_close(posterior.entropy(), -(log_q.exp() * log_q).sum(-1))
    codes = built.get_codes_from_indices(torch.arange(K))
    torch.testing.assert_close(posterior.expected(), log_q.exp() @ codes)


def test_expected_is_in_the_units_of_the_layer() -> None:
    built = layer(units="latents").eval()
    x = latents()
    codes = built.get_codes_from_indices(torch.arange(K))
    torch.testing.assert_close(built.posterior(x).expected(), by_hand(built, x).exp() @ codes)


def test_draws_follow_the_posterior_and_their_generator(built) -> None:
    x = rows(1).expand(20000, D)
    posterior = built.posterior(x)
    drawn = posterior.sample(torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=K) / len(drawn)
    torch.testing.assert_close(shares.double(), by_hand(built, x[:1])[0].exp(), atol=0.02, rtol=0.0)
    assert torch.equal(posterior.sample(torch.Generator().manual_seed(0)), drawn)
    assert not torch.equal(posterior.sample(torch.Generator().manual_seed(1)), drawn)


def test_gradients_reach_latents_and_mixture_and_are_right(built) -> None:
    indices = torch.arange(12).view(3, 4) % K

    def function(x: Tensor) -> tuple[Tensor, ...]:
        posterior = built.posterior(x)
        return posterior.cross_entropy(indices), posterior.entropy(), posterior.expected()

    x = latents().requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
    sum(value.sum() for value in function(x)).backward()  # pyright: ignore
    assert built.codebook.grad is not None
    assert (built.codebook.grad != 0).any()


def test_blocks_of_rows_change_nothing(built, monkeypatch) -> None:
    x, indices = latents(), torch.arange(12).view(3, 4) % K
    results = []
    for block in (1000, 5):
        monkeypatch.setattr("gmvq.quantizers.posterior.rows_per_tile", lambda *_, block=block: block)
        own = x.clone().requires_grad_()
        posterior = built.posterior(own)
        (posterior.cross_entropy(indices) + posterior.entropy().sum() + posterior.expected().sum()).backward()
        results.append((own.grad, posterior.sample(torch.Generator().manual_seed(3)), posterior.log_probs()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_masked_positions_have_no_code_and_count_for_nothing(built) -> None:
    x = torch.where(MASK[..., None], latents(), torch.nan)
    posterior = built.posterior(x, MASK)
    assert (posterior.sample()[~MASK] == -1).all()
    assert (posterior.most_probable(2)[~MASK] == -1).all()
    assert (posterior.entropy()[~MASK] == 0).all()
    assert (posterior.expected()[~MASK] == 0).all()
    indices = built.encode(x, MASK)
    torch.testing.assert_close(
        posterior.cross_entropy(indices), built.posterior(latents()[MASK]).cross_entropy(indices[MASK])
    )


def test_channels_first(built) -> None:
    x = latents().movedim(-1, 1)
    posterior = ChannelsFirst(built).posterior(x, lengths=torch.tensor([4, 2, 1]))
    mask = torch.arange(4) < torch.tensor([[4], [2], [1]])
    plain = built.posterior(latents(), mask)
    torch.testing.assert_close(posterior.expected(), plain.expected().movedim(-1, 1))
    assert torch.equal(posterior.topk(2)[1], plain.topk(2)[1])


@pytest.mark.parametrize("shared", [False, True])
def test_groups(shared) -> None:
    torch.manual_seed(0)
    built = GroupedGMVQ(6, K, 2, shared_codebook=shared, support=None).double()
    x = rows(64, 6)
    built.init_codebook(x)
    posterior = built.eval().posterior(x)
    indices = built.encode(x)
    values, codes = posterior.topk(2)
    assert values.shape == codes.shape == (64, 2, 2)
    assert torch.equal(codes[..., 0], indices)
    torch.testing.assert_close(posterior.log_prob(indices), values[..., 0])
    torch.testing.assert_close(posterior.cross_entropy(indices), -values[..., 0].mean())
    assert posterior.entropy().shape == posterior.sample().shape == (64, 2)
    parts = [built.mixtures[0 if shared else g].posterior(x[:, 3 * g : 3 * g + 3]).expected() for g in (0, 1)]
    torch.testing.assert_close(posterior.expected(), torch.cat(parts, -1))


def test_it_compiles_and_exports(built) -> None:
    class Soft(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = built

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            posterior = self.inner.posterior(x)
            return *posterior.topk(2), posterior.entropy(), posterior.expected()

    torch.compiler.reset()
    x = latents()
    program = torch.export.export(Soft(), (x,)).module()
    for run in (program, torch.compile(Soft(), fullgraph=True, backend="aot_eager")):
        for one, other in zip(run(x), Soft()(x), strict=True):
            torch.testing.assert_close(one, other)


def test_autocast_changes_nothing() -> None:
    built = layer(dtype=torch.float32).eval()
    x = rows(30, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = built.posterior(x).entropy()
    torch.testing.assert_close(inside, built.posterior(x).entropy(), rtol=0.0, atol=0.0)


def test_wrong_input_says_what_is_expected(built) -> None:
    posterior: Any = built.posterior(latents())
    with pytest.raises(ValueError, match="between 1 and the number of codes, 5"):
        posterior.topk(6)
    with pytest.raises(ValueError, match=r"shape of the positions, \(3, 4\)"):
        posterior.log_prob(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"lie in \[0, 4\]"):
        posterior.log_prob(torch.full((3, 4), 5))
    with pytest.raises(ValueError, match="init_codebook"):
        layer(started=False).posterior(latents())
