"""Levels of a residual quantizer: the beam is never worse than greedy, sizes differ, every level takes error away."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmvq import GroupedGMVQ, ResidualGMVQ

D, K, LEVELS = 8, 6, 4


def normal(count: int, seed: int, dim: int = D) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def ring(count: int, seed: int) -> Tensor:
    """A bent surface of two dimensions in eight."""
    angles = 2 * math.pi * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([(k * angles).sin() for k in (1, 2)] + [(k * angles).cos() for k in (1, 2)], -1)


def clusters(count: int, seed: int) -> Tensor:
    """Clouds of several widths around twenty centres far from zero."""
    generator = torch.Generator().manual_seed(seed)
    centres = 5.0 + 3.0 * normal(20, 99)
    chosen = torch.randint(20, (count,), generator=generator)
    widths = torch.linspace(0.05, 1.0, 20)[chosen, None]
    return centres[chosen] + widths * torch.randn(count, D, generator=generator)


DATA: dict[str, Any] = {"normal": normal, "ring": ring, "clusters": clusters}


def started(**options: Any) -> ResidualGMVQ:
    torch.manual_seed(0)
    built = ResidualGMVQ(D, K, LEVELS, units="latents", **options)
    built.init_codebook(normal(512, 1))
    return built.eval()


def error(built: Any, x: Tensor) -> Tensor:
    """Squared error of each position, (N,)."""
    return (built(x).quantized - x).square().sum(-1).detach()


@pytest.mark.parametrize("width", [2, 3, 8])
def test_a_beam_is_never_worse_than_greedy_at_any_position(width) -> None:
    greedy, built = started(), started(beam=width)
    built.load_state_dict(greedy.state_dict())
    x = normal(600, 2)
    before, after = error(greedy, x), error(built, x)
    assert (after <= before).all()
    assert (after < before).float().mean() > 0.1
    assert after.mean() < 0.98 * before.mean()


def test_a_wide_beam_finds_the_best_of_all_paths() -> None:
    torch.manual_seed(0)
    built = ResidualGMVQ(2, 4, 2, units="latents", beam=16)
    built.init_codebook(normal(256, 1, 2))
    x = normal(100, 2, 2)
    paths = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    every = (x[:, None] - built.get_codes_from_indices(paths)).square().sum(-1)
    torch.testing.assert_close(error(built.eval(), x), every.min(-1).values)


def test_a_beam_of_one_is_greedy_and_the_batch_does_not_matter(monkeypatch) -> None:
    greedy, built = started(), started(beam=4)
    x = normal(300, 3)
    assert torch.equal(started(beam=1).encode(x), greedy.encode(x))
    whole = built.encode(x)
    assert not torch.equal(whole, greedy.encode(x))
    assert torch.equal(torch.cat([built.encode(part) for part in x.split(7)]), whole)
    monkeypatch.setattr("gmvq.quantizers.beam._VALUES", 1)
    assert torch.equal(built.encode(x), whole)


def test_what_a_beam_reports_is_of_its_own_codes() -> None:
    built = started(beam=4)
    x = normal(300, 3)
    out = built(x)
    residual = x
    for number, level in enumerate(built.mixtures):
        codes = out.indices[:, number]
        shares = torch.bincount(codes, minlength=K) / len(x)
        perplexity = torch.special.entr(shares).sum().exp()
        torch.testing.assert_close(out.terms[f"perplexity/{number + 1}"], perplexity)
        residual = residual - level.get_codes_from_indices(codes)
        torch.testing.assert_close(out.terms[f"error/{number + 1}"], residual.square().mean())
        variance = (residual / level.scale).square().sum(-1) / D  # 2 sigma^2 = 1
        torch.testing.assert_close(out.log_variance[:, number], variance.log())


def test_a_beam_that_has_not_started_hands_the_latents_on() -> None:
    built = ResidualGMVQ(D, K, 2, units="latents", beam=3).eval()
    x = normal(10, 0)
    out = built(x)
    assert (out.indices == -1).all()
    assert (built.encode(x) == -1).all()
    expected = ResidualGMVQ(D, K, 2, units="latents").eval()(x).quantized
    torch.testing.assert_close(out.quantized, expected)


def test_sizes_of_levels() -> None:
    built = ResidualGMVQ(D, [16, 4, 2])
    built.init_codebook(normal(256, 0))
    indices = built.eval().encode(normal(256, 1))
    assert built.codebook_sizes == (16, 4, 2)
    assert built.codebook_size == 16
    assert [int(column.max()) for column in indices.T] == [15, 3, 1]
    assert built.to_config()["codebook_size"] == [16, 4, 2]
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        built.get_codes_from_indices(torch.full((1, 3), 2))


def test_levels_are_read_one_after_the_other() -> None:
    built = started()
    indices = built.encode(normal(50, 4))
    indices[:10, 2:] = -1
    arriving = (indices[:, number] for number in range(LEVELS))
    for count, read in enumerate(built.progressive(arriving), 1):
        assert torch.equal(read, built.get_codes_from_indices(indices[:, :count]))
    codes = built.get_codes_of_levels(indices)
    assert codes.shape == (50, LEVELS, D)
    assert (codes[:10, 2:] == 0).all()
    torch.testing.assert_close(codes.sum(-2), built.get_codes_from_indices(indices))


def test_nats_of_the_levels_add_up_by_the_chance_of_each() -> None:
    """E over lengths m of the objective of the first m levels: level l counts by the chance that m reaches it."""
    built = started(level_dropout=True, min_levels=2).train()
    out = built(normal(64, 5).view(8, 8, D).requires_grad_())
    chances = [sum(m > number for m in (2, 3, 4)) / 3 for number in range(LEVELS)]
    own = [out.terms[f"nats/{number + 1}"] for number in range(LEVELS)]
    torch.testing.assert_close(
        out.nats, sum(chance * value for chance, value in zip(chances, own, strict=True))
    )  # pyright: ignore


def test_groups_of_an_item_drop_the_same_levels_and_decode_from_any_of_them() -> None:
    torch.manual_seed(0)
    built = GroupedGMVQ(D, K, 2, num_quantizers=3, level_dropout=True)
    built.init_codebook(normal(256, 0))
    x = normal(64, 1).view(16, 4, D)
    used = (built(x).indices >= 0).view(16, 4, 3, 2)
    assert (used == used[:, :1, :, :1]).all()
    assert not used.all()
    indices = built.eval().encode(x)
    errors = []
    for count in (2, 4, 6):
        read = built.get_codes_from_indices(indices[..., :count])
        errors.append(float((read - built.decoder_units(x)).detach().square().mean()))
    assert errors == sorted(errors, reverse=True)
    parts = [part.encode(own) for part, own in zip(built.parts, x.chunk(2, -1), strict=True)]
    assert torch.equal(indices[..., 0::2], parts[0])
    assert torch.equal(indices[..., 1::2], parts[1])


@pytest.mark.parametrize("data", DATA)
def test_error_falls_at_every_one_of_eight_levels_after_training(data) -> None:
    """A linear autoencoder around eight levels, 100 steps; each level takes 5 % of what was left at least."""
    torch.manual_seed(0)
    built = ResidualGMVQ(D, 8, 8, start_after=10)
    encoder, decoder = nn.Linear(D, D), nn.Linear(D, D)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *built.parameters()], 3e-3)
    for seed in range(100):
        x = DATA[data](128, seed)
        out = built(encoder(x))
        loss = F.mse_loss(decoder(out.quantized), x) + out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = DATA[data](512, 1000)
    with torch.no_grad():
        terms, variance = built.eval()(encoder(x)).terms, encoder(x).var(0).mean()
    errors = [float(variance), *(float(terms[f"error/{level}"]) for level in range(1, 9))]
    falls = [after / before for before, after in pairwise(errors)]
    assert max(falls) < 0.95, falls
    assert errors[-1] < 0.1 * errors[0]
