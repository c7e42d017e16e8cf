"""Draws against the probabilities they are drawn from."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.prior import Filters, TokenSpec
from gmvq.prior.filters import draw

from .conftest import every_image, make_prior

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def test_samples_have_the_frequencies_of_the_likelihood() -> None:
    spec = TokenSpec((3,), 3, labels=2)
    prior, images = make_prior(spec), every_image(spec)
    count = 6000
    labels = torch.ones(count, dtype=torch.long)
    drawn = prior.sample(count, labels=labels, batch_size=1000, seed=1)
    place = (drawn * torch.tensor([9, 3, 1])).sum(1)
    seen = torch.bincount(place, minlength=27) / count
    p = (-prior.nats(images, labels[:27])).exp()
    assert ((seen - p).abs() < 4.5 * (p / count).sqrt() + 1 / count).all()


def test_a_filter_leaves_what_it_says() -> None:
    p = LOGITS.softmax(-1)
    torch.testing.assert_close(Filters().probabilities(LOGITS), p)
    torch.testing.assert_close(Filters(temperature=0.5).probabilities(LOGITS), (LOGITS * 2).softmax(-1))
    assert Filters(temperature=0.0).probabilities(LOGITS).tolist() == [[1, 0, 0, 0]]
    two = torch.tensor([[p[0, 0], p[0, 1], 0, 0]])
    torch.testing.assert_close(Filters(top_k=2).probabilities(LOGITS), two / two.sum())
    torch.testing.assert_close(Filters(top_p=0.7).probabilities(LOGITS), two / two.sum())
    assert Filters(top_p=0.1).probabilities(LOGITS).tolist() == [[1, 0, 0, 0]]
    torch.testing.assert_close(Filters(top_k=9, top_p=1.0).probabilities(LOGITS), p)
    assert (Filters(top_k=1).probabilities(torch.zeros(1, 4)) > 0).sum() == 1


def test_guidance_is_its_formula() -> None:
    labelled, plain = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    guided = Filters(guidance=1.5).guided(torch.cat([labelled, plain]))
    torch.testing.assert_close(guided, 2.5 * labelled - 1.5 * plain)
    assert Filters().guided(labelled) is labelled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"guidance": float("nan")}, "guidance"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"guidance": -0.1}, "guidance"),
    ],
)
def test_bad_filters(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters(**options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_same_seed_same_tokens(kind: str) -> None:
    prior = make_prior(TokenSpec((3, 3, 2), 8, levels=2, labels=3), kind)
    labels = torch.tensor([0, 1, 2, -1, 0])
    options = {"labels": labels, "filters": Filters(guidance=1.0, top_k=5)}
    one = prior.sample(5, seed=4, **options)
    assert one.shape == (5, 3, 3, 2)
    assert one.min() >= 0
    assert one.max() < 8
    assert torch.equal(prior.sample(5, seed=4, **options), one)
    assert not torch.equal(prior.sample(5, seed=5, **options), one)


@pytest.mark.parametrize("steps", [1, 2, 9, 40])
def test_masked_decoding_fills_every_place(steps: int) -> None:
    prior = make_prior(TokenSpec((3, 3), 6), "masked")
    drawn = prior.sample(7, steps=steps)
    assert drawn.min() >= 0
    assert drawn.max() < 6


def test_one_step_of_masked_decoding_draws_from_the_marginals() -> None:
    from gmvq.prior import masked

    spec = TokenSpec((2,), 3)
    prior = make_prior(spec, "masked")
    ids = torch.full((1, 2), spec.mask_id)
    with torch.no_grad():
        p = masked._logits(prior.network, ids, spec.label_ids(None, 1, ids.device)).softmax(-1)[0]
    drawn = prior.sample(6000, steps=1, batch_size=3000)
    for place in range(2):
        seen = torch.bincount(drawn[:, place], minlength=3) / 6000
        assert ((seen - p[place]).abs() < 4.5 * (p[place] / 6000).sqrt()).all()


@pytest.mark.parametrize("filters", [Filters(), Filters(temperature=0.0)])
def test_masked_decoding_keeps_what_it_is_most_sure_of(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gmvq.prior import masked

    spec = TokenSpec((8,), 6)
    prior = make_prior(spec, "masked", spread=1.0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    logits_of = masked._logits

    def record(network: object, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = logits_of(network, ids, labels)  # pyright: ignore[reportArgumentType]
        seen.append((ids.clone(), logits))
        return logits

    monkeypatch.setattr(masked, "_logits", record)
    prior.sample(50, filters=filters, steps=2, choice_temperature=0.0)
    logits, after = seen[0][1], seen[1][0]
    kept = after != spec.mask_id
    assert (kept.sum(1) == 8 - math.floor(8 * math.cos(math.pi / 4))).all()
    codes = after.clamp_max(5)
    sure = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    if filters.temperature == 0:
        best = logits.log_softmax(-1).max(-1).values
        assert (sure[kept] == best[kept]).all()
        least, most = best.masked_fill(~kept, 9.0).min(1).values, best.masked_fill(kept, -99.0).max(1).values
        assert (least >= most).all()
    else:
        assert sure[kept].mean() > logits.log_softmax(-1).max(-1).values[~kept].mean()


def test_guided_draws_follow_the_formula() -> None:
    spec = TokenSpec((1,), 4, labels=2)
    prior = make_prior(spec, spread=1.0)
    labels = torch.ones(8000, dtype=torch.long)
    logits = [
        -torch.stack([prior.nats(torch.tensor([[c]]), y)[0] for c in range(4)]) for y in (labels[:1], None)
    ]
    expected = (2.5 * logits[0] - 1.5 * logits[1]).softmax(-1)
    assert (expected - (2.5 * logits[1] - 1.5 * logits[0]).softmax(-1)).abs().max() > 0.05
    drawn = prior.sample(8000, labels=labels, filters=Filters(guidance=1.5), batch_size=4000)
    seen = torch.bincount(drawn[:, 0], minlength=4) / 8000
    assert ((seen - expected).abs() < 4.5 * (expected / 8000).sqrt() + 1e-3).all()


def test_temperature_zero_is_the_mode_of_every_step() -> None:
    prior = make_prior(TokenSpec((4,), 5))
    drawn = prior.sample(3, filters=Filters(temperature=0.0))
    assert (drawn == drawn[0]).all()


def test_sampling_leaves_the_global_generator_and_the_mode_alone() -> None:
    prior = make_prior(TokenSpec((3,), 4)).train()
    state = torch.get_rng_state()
    prior.sample(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert prior.training


def test_bad_requests() -> None:
    prior = make_prior(TokenSpec((3,), 4))
    with pytest.raises(ValueError, match="count must be positive"):
        prior.sample(0)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        prior.sample(3, labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="guidance needs labels"):
        prior.sample(1, filters=Filters(guidance=1.0))
    with pytest.raises(ValueError, match="trained without"):
        prior.sample(1, labels=torch.zeros(1, dtype=torch.long))


def test_draw_follows_its_probabilities() -> None:
    p = torch.tensor([0.1, 0.6, 0.3]).expand(20000, 3)
    seen = torch.bincount(draw(p, torch.Generator().manual_seed(0)), minlength=3) / 20000
    assert ((seen - p[0]).abs() < 4 * math.sqrt(0.25 / 20000)).all()
