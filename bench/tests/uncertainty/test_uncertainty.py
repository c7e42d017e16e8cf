"""Uncertainty: ranks against scipy, AUROC against scikit-learn, scores against the definitions by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmvq.objectives import GaussianLikelihood, LatentModel, elbo
from gmvq_bench.uncertainty.measure import bootstrap, format_uncertainty, measure_uncertainty
from gmvq_bench.uncertainty.scores import Scores, image_scores


def test_bootstrap_of_a_mean_has_the_width_of_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=400)
    found = bootstrap(lambda rows: float(x[rows].mean()), [400], (1000, 0))
    assert found.value == pytest.approx(x.mean())
    assert (found.high - found.low) / (3.92 * x.std() / 20) == pytest.approx(1.0, abs=0.1)


def test_scores_are_those_of_the_model(tokenizer, dataset) -> None:
    """Positions, entropy, errors and contrast of 2 x 2 cells, by hand."""
    likelihood = GaussianLikelihood(0.1)
    scores = image_scores(tokenizer, dataset, likelihood=likelihood, batch_size=4, limit=9)
    x = torch.stack([dataset[i] for i in range(9)])
    latents = tokenizer.encoder(x).movedim(1, -1)  # (9, 8, 8, 3)
    with torch.no_grad():
        out = tokenizer(x)
        distance = (latents[..., None, :] - tokenizer.quantizer.codebook).square().sum(-1)
        q = (-0.5 * 100.0 * distance).softmax(-1)
        close = {"rtol": 1e-4, "atol": 1e-6}
        expected = -torch.xlogy(q, q).sum(-1).flatten(1).double()
        torch.testing.assert_close(scores.entropy, expected, **close)
        smallest = (distance.min(-1).values / 6).clamp_min(1e-8).log().flatten(1).double()
        torch.testing.assert_close(scores.log_variance, smallest, **close)
        cells = (out.reconstruction - x).square().unfold(2, 2, 2).unfold(3, 2, 2).mean((1, 4, 5))
        torch.testing.assert_close(scores.error, cells.flatten(1).double(), **close)
        spread = x.unfold(2, 2, 2).unfold(3, 2, 2).var((4, 5), correction=0).mean(1)
        torch.testing.assert_close(scores.contrast, spread.flatten(1).double(), **close)
        torch.testing.assert_close(scores.mse, cells.flatten(1).mean(1).double(), **close)
        model = LatentModel.of(tokenizer.quantizer)
        bound = elbo(
            model, latents, x, lambda z: tokenizer.decoder(z.float().movedim(-1, 1)), likelihood, samples=400
        )
    assert scores.negative_elbo is not None
    assert float((scores.negative_elbo + bound.value).abs().max()) < 0.1 * float(bound.value.abs().mean())
    assert scores.dataset == dataset.description
    assert set(scores.per_image()) == {"log_variance", "entropy", "contrast", "mse", "negative_elbo"}


def test_another_quantizer_is_scored_by_its_distance_to_the_codeword(
    tokenizer, plain_tokenizer, dataset
) -> None:
    """With the same codebook it has the same log s^2, and neither entropy nor ELBO."""
    found = image_scores(plain_tokenizer, dataset, likelihood=GaussianLikelihood(0.1))
    expected = image_scores(tokenizer, dataset)
    torch.testing.assert_close(found.log_variance, expected.log_variance)
    assert set(found.per_image()) == {"log_variance", "contrast", "mse"}
    measured = measure_uncertainty(found, found, resamples=3)
    assert set(measured.local) == {"log_variance", "contrast"}
    assert measured.auroc is not None
    assert measured.auroc["mse"].value == 0.5
    assert "H(q" not in format_uncertainty(measured)


def made(count: int, seed: int, shift: float = 0.0, positions: int = 6) -> Scores:
    """Error = s^2 times noise; entropy and contrast say nothing."""
    generator = torch.Generator().manual_seed(seed)
    log_variance = torch.randn(count, positions, generator=generator).double() + shift
    error = (log_variance + 0.1 * torch.randn(count, positions, generator=generator)).exp()
    other = torch.rand(2, count, positions, generator=generator).double()
    mse = torch.rand(count, generator=generator).double() + 0.1 * shift
    return Scores(log_variance, other[0], error, other[1], mse, None, "made")


def test_a_variance_that_is_the_error_is_found_to_be() -> None:
    found = measure_uncertainty(made(120, 0), made(80, 1, shift=2.0), resamples=25)
    assert found.local["log_variance"].low > 0.97
    assert found.local["entropy"].low < 0 < found.local["entropy"].high
    assert found.partial.low > 0.97
    assert found.slope == pytest.approx(1.0, abs=0.05)
    assert [b.log_variance for b in found.bins] == sorted(b.log_variance for b in found.bins)
    assert found.auroc is not None
    assert found.advantage is not None
    assert found.auroc["log_variance"].low > 0.95
    assert found.advantage["log_variance"].low > 0.1
    assert set(found.auroc) == {"log_variance", "entropy", "mse", "contrast"}
    text = format_uncertainty(found)
    assert "against made (80 of them)" in text
    assert measure_uncertainty(made(20, 0), resamples=5).auroc is None


def test_a_variance_that_only_follows_the_contrast_adds_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    contrast, *noise = torch.randn(3, 400, 6, generator=generator).double()
    scores = Scores(
        contrast + noise[0], noise[1], (contrast + noise[1]).exp(), contrast.exp(), noise[0].mean(1), None
    )
    found = measure_uncertainty(scores, resamples=10)
    assert found.local["log_variance"].low > 0.4
    assert abs(found.partial.value) < 0.06


def test_bins_hold_every_position_once() -> None:
    scores = made(7, 0, positions=5)
    found = measure_uncertainty(scores, bins=4, resamples=3)
    order = scores.log_variance.flatten().argsort()
    sizes = [len(part) for part in np.array_split(np.zeros(35), 4)]
    parts: list[Tensor] = list(scores.error.flatten()[order].split([9, 9, 9, 8]))
    assert sizes == [9, 9, 9, 8]
    for bin_, part in zip(found.bins, parts, strict=True):
        assert bin_.error.value == pytest.approx(float(part.mean()), rel=0.2)
    mean = sum(b.error.value for b in found.bins) / 4
    assert mean == pytest.approx(float(scores.error.mean()), rel=0.05)


def test_what_cannot_be_measured_is_named(plain_tokenizer, dataset) -> None:
    plain_tokenizer.quantizer.codewords_are_latents = False
    with pytest.raises(ValueError, match="codewords of Nearest are no points among the latents"):
        image_scores(plain_tokenizer, dataset)
    with pytest.raises(ValueError, match="at least two images"):
        measure_uncertainty(made(1, 0))
    with pytest.raises(ValueError, match="do not fill"):
        measure_uncertainty(made(2, 0), bins=40)


def test_digits_have_the_size_and_channels_asked_for() -> None:
    pytest.importorskip("sklearn")
    from gmvq_bench.uncertainty.scores import Digits

    digits = Digits(28, 3)
    assert len(digits) == 1797
    assert digits[3].shape == (3, 28, 28)
    assert "8x8 enlarged to 28x28" in digits.description
    assert 0.0 <= float(digits[0].min()) < float(digits[0].max()) <= 1.0
    with pytest.raises(ValueError, match="channels"):
        Digits(28, 2)
