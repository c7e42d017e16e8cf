"""The likelihoods against their definitions, by enumeration of all images of a tiny vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from gmvq.prior import TokenPrior, TokenSpec, causal, masked

from .conftest import every_image, make_prior

TINY = TokenSpec((2, 2), 3, labels=2)
LEVELS = TokenSpec((2, 2), 3, levels=2)
SCALES = TokenSpec((3, 2), 3, levels=2, pyramid=True)


@pytest.mark.parametrize("spec", [TINY, LEVELS, SCALES], ids=["labels", "levels", "scales"])
def test_the_causal_prior_is_a_distribution(spec: TokenSpec) -> None:
    prior, images = make_prior(spec), every_image(spec)
    for labels in (None, torch.full((len(images),), spec.labels - 1)):
        p = (-prior.nats(images, labels).double()).exp()
        torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64), rtol=1e-5, atol=0)
        assert p.std() > 0.1 * p.mean(), "a flat distribution would prove nothing"


def test_labels_change_the_distribution() -> None:
    prior, images = make_prior(TINY), every_image(TINY)
    one, other, none = (
        prior.nats(images, labels) for labels in (*torch.arange(2)[:, None].expand(2, 81), None)
    )
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, none)
    torch.testing.assert_close(prior.nats(images, torch.full((81,), -1)), none)


def test_a_causal_place_depends_on_those_before_it_alone() -> None:
    spec = TokenSpec((6,), 5)
    prior = make_prior(spec)
    ids = torch.tensor([[0, 1, 2, 3, 4, 0]])
    label = spec.label_ids(None, 1, ids.device)
    before = causal.nats(prior.network, ids, label)
    changed = ids.clone()
    changed[0, 3] = 1
    after = causal.nats(prior.network, changed, label)
    torch.testing.assert_close(after[0, :3], before[0, :3])
    assert (after[0, 3:] != before[0, 3:]).all()


def test_a_masked_place_sees_both_sides() -> None:
    spec = TokenSpec((5,), 4)
    network = make_prior(spec, "masked").network
    ids = torch.tensor([[spec.mask_id, 1, 2, 3, 0]])
    label = spec.label_ids(None, 1, ids.device)
    logits = masked._logits(network, ids, label)
    for place in range(1, 5):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % 4
        assert not torch.allclose(masked._logits(network, other, label)[0, 0], logits[0, 0])


def test_the_walk_with_a_cache_sees_what_the_whole_sequence_sees() -> None:
    for spec in (TINY, LEVELS, SCALES):
        prior, images = make_prior(spec), every_image(spec)[::7]
        ids, label = spec.sequence(images), spec.label_ids(None, len(images), images.device)
        seen = torch.zeros(ids.shape)

        def choose(place: int, logits: torch.Tensor, spec=spec, images=images, seen=seen) -> torch.Tensor:
            codes = spec.codes(images)[:, place]
            seen[:, place] = -logits.log_softmax(-1).gather(1, codes[:, None])[:, 0]
            return codes

        with torch.no_grad():
            assert torch.equal(causal.walk(prior.network, label, choose), ids)
            torch.testing.assert_close(seen, causal.nats(prior.network, ids, label), rtol=1e-5, atol=1e-5)


def test_the_bound_of_the_masked_prior_is_the_mean_over_orders() -> None:
    """On average over masks it is the mean over orders of sum_t -log p(x_t | those before it in the order)."""
    spec = TokenSpec((3,), 3)
    prior = make_prior(spec, "masked")
    image = torch.tensor([[2, 0, 1]])
    total = 0.0
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    label = spec.label_ids(None, 1, image.device)
    with torch.no_grad():
        for order in orders:
            ids = torch.full((1, 3), spec.mask_id)
            for place in order:
                log_p = masked._logits(prior.network, ids, label).log_softmax(-1)
                total -= float(log_p[0, place, image[0, place]])
                ids[0, place] = image[0, place]
    samples = torch.stack([prior.nats(image.expand(500, 3), seed=seed).mean() for seed in range(10)])
    assert abs(float(samples.mean()) - total / len(orders)) < 4 * float(samples.std()) / math.sqrt(10)


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("spec", [TINY, LEVELS, SCALES], ids=["labels", "levels", "scales"])
def test_every_parameter_has_a_gradient(kind: str, spec: TokenSpec) -> None:
    prior = make_prior(spec, kind).train()
    prior.loss(every_image(spec), torch.arange(81) % 2 if spec.labels else None).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize(
    ("indices", "labels", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.long), None, r"shape \(B, 2, 2\), got \(2, 3\)"),
        (torch.full((1, 2, 2), 3), None, r"lie in \[0, 2\]"),
        (torch.full((1, 2, 2), -1), None, "masked positions"),
        (torch.zeros(1, 2, 2, dtype=torch.long), torch.tensor([2]), "no label 2; its labels are 0 to 1"),
    ],
)
def test_bad_tokens(indices: torch.Tensor, labels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_prior(TINY).nats(indices, labels)


def test_bad_specs() -> None:
    with pytest.raises(ValueError, match="last axis"):
        TokenSpec((2, 3), 4, levels=2)
    with pytest.raises(ValueError, match="empty"):
        TokenSpec((), 4)
    with pytest.raises(ValueError, match="kind must be one of"):
        TokenPrior(TINY, "both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="size must be one of"):
        TokenPrior(TINY, size="huge")  # pyright: ignore[reportArgumentType]


def test_masks_in_training_have_the_ratios_of_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TokenSpec((50,), 3)
    prior = make_prior(spec, "masked")
    masks = []

    def record(network: object, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        masks.append(mask)
        return mask.float()

    monkeypatch.setattr(masked, "_masked_nats", record)
    torch.manual_seed(0)
    assert float(prior.loss(torch.zeros(4000, 50, dtype=torch.long))) == 1.0
    ratio = masks[0].float().mean(1)
    u = (torch.arange(4000) + 0.5) / 4000
    expected = torch.cos(0.5 * math.pi * u).sort().values
    torch.testing.assert_close(ratio.sort().values, expected, rtol=0, atol=0.06)
    assert masks[0].float().mean(0).std() < 0.02, "every place as often as any other"


def test_labels_are_left_out_of_some_rows_in_training() -> None:
    from gmvq.prior import PriorModule

    module = PriorModule(TINY, label_dropout=0.3)
    seen = []
    module.prior.loss = lambda indices, labels: seen.append(labels) or torch.zeros(())  # pyright: ignore
    module._trainer = type("T", (), {"log_every_n_steps": 10**9, "global_step": 0, "max_steps": -1})()  # pyright: ignore
    labels = torch.arange(4000) % 2
    torch.manual_seed(0)
    module.training_step({"indices": torch.zeros(4000, 2, 2, dtype=torch.long), "label": labels}, 0)
    kept = seen[0] >= 0
    assert abs(float(kept.float().mean()) - 0.7) < 0.03
    assert torch.equal(seen[0][kept], labels[kept])


def test_no_image_has_no_likelihood() -> None:
    for kind in ("causal", "masked"):
        assert make_prior(TINY, kind).nats(torch.zeros(0, 2, 2, dtype=torch.long)).shape == (0,)
