"""``evaluate`` over a set: equal to one large batch, and harmless to the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from gmvq.errors import MissingExtraError
from gmvq.evaluation import evaluate, format_table, write_metrics
from gmvq.evaluation import metrics as metrics_module
from gmvq.objectives import (
    AggregatePosterior,
    GaussianLikelihood,
    LatentModel,
    bits_per_dimension,
    elbo,
    importance_weighted_bound,
)

BOUNDS = ("elbo", "albo", "elbo_discrete")


def test_figures_equal_those_of_one_large_batch(tokenizer: Any, dataset: Any) -> None:
    result = evaluate(tokenizer, dataset, batch_size=3)
    out = tokenizer(dataset.images)
    assert (result.images, result.image_shape, result.codebook_size) == (10, (3, 16, 16), 8)
    assert result.positions_per_image == 64
    assert result.dataset == dataset.description
    assert_close(result.mse, float((out.reconstruction - dataset.images).square().mean().detach()))
    assert_close(result.psnr, -10 * math.log10(result.mse))
    assert result.psnr_per_image >= result.psnr
    p = torch.bincount(out.quantizer.indices.flatten(), minlength=8).double() / 640
    assert_close(result.perplexity, float((-torch.xlogy(p, p).sum()).exp()))
    assert_close(result.bits_per_pixel_fixed, 3 * 64 / 256)
    assert_close(result.bits_per_pixel_entropy, 64 / 256 * result.code_entropy / math.log(2))

    posterior = AggregatePosterior(8)
    z = tokenizer.encoder(dataset.images).movedim(1, -1).reshape(-1, 3)
    posterior.update(LatentModel.of(tokenizer.quantizer).log_responsibilities(z))
    for name in ("conditional_entropy", "aggregate_entropy", "information"):
        assert_close(getattr(result, name), float(getattr(posterior, name)), atol=1e-6, rtol=0)
    assert_close(result.kl_aggregate, float(posterior.kl()), atol=1e-6, rtol=0)


def test_bounds_are_those_of_the_objectives(tokenizer: Any, dataset: Any) -> None:
    likelihood = GaussianLikelihood(0.2)
    result = evaluate(tokenizer, dataset, batch_size=10, likelihood=likelihood, bound_samples=3, seed=5)
    latents = tokenizer.encoder(dataset.images).movedim(1, -1)
    generator = torch.Generator().manual_seed(5)
    shared = (latents, dataset.images, lambda z: tokenizer.decoder(z.movedim(-1, 1)), likelihood)
    bound = elbo(tokenizer.quantizer, *shared, generator=generator)
    discrete = elbo(LatentModel.of(tokenizer.quantizer, discrete=True), *shared, generator=generator)
    weighted = importance_weighted_bound(tokenizer.quantizer, *shared, samples=3, generator=generator)
    for name, value in (
        ("elbo", bound.value),
        ("elbo_discrete", discrete.value),
        ("importance_weighted", weighted),
    ):
        assert_close(getattr(result, name), float(bits_per_dimension(-value.mean(), 768)))
    assert result.information is not None
    assert_close(result.elbo - result.albo, 64 * result.information / (768 * math.log(2)))  # pyright: ignore
    assert result.bound_samples == 3
    assert result.skipped == {}


def test_the_models_own_likelihood_is_used(tokenizer: Any, dataset: Any) -> None:
    tokenizer.likelihood = GaussianLikelihood(0.2)
    result = evaluate(tokenizer, dataset)
    assert result.elbo is not None
    assert result.importance_weighted is None
    assert result == evaluate(tokenizer, dataset)  # the same samples every time


def test_nothing_of_the_model_or_the_random_state_changes(tokenizer: Any, dataset: Any) -> None:
    tokenizer.train()
    tokenizer.decoder.eval()
    state = torch.get_rng_state()
    evaluate(tokenizer, dataset, likelihood=GaussianLikelihood(0.2), bound_samples=1)
    assert tokenizer.training
    assert tokenizer.quantizer.training
    assert not tokenizer.decoder.training
    assert not tokenizer.quantizer._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError):
        evaluate(tokenizer, torch.zeros(1, 7, 4, 4))
    assert tokenizer.training
    assert not tokenizer.quantizer._forward_pre_hooks


def test_masked_positions_count_for_nothing(
    tokenizer_of: type, hand_mixture: type, codebook: Any, dataset: Any
) -> None:
    likelihood = GaussianLikelihood(0.2)
    masked = tokenizer_of(hand_mixture(codebook, masked_column=0))
    result = evaluate(masked, dataset, batch_size=4, likelihood=likelihood)
    assert result.positions_per_image == 56
    cropped = evaluate(tokenizer_of(hand_mixture(codebook)), dataset.images[..., 2:], likelihood=likelihood)
    for name in ("perplexity", "usage", "conditional_entropy", "information", "kl_aggregate"):
        assert_close(getattr(result, name), getattr(cropped, name), atol=1e-6, rtol=0)
    assert_close(result.bits_per_pixel_fixed, 3 * 56 / 256)
    assert all(math.isfinite(getattr(result, name)) for name in BOUNDS)


def test_datasets_loaders_tensors_and_labelled_batches_agree(tokenizer: Any, dataset: Any) -> None:
    expected = evaluate(tokenizer, dataset, batch_size=4)
    calls: list[tuple[int, int | None]] = []
    loader = DataLoader(dataset, batch_size=4)
    assert evaluate(tokenizer, loader, progress=lambda n, total: calls.append((n, total))) == expected
    assert calls == [(1, 3), (2, 3), (3, 3)]
    labelled = TensorDataset(dataset.images, torch.arange(10))
    for images in (dataset.images, labelled, list(dataset.images.split(4))):
        result = evaluate(tokenizer, images, batch_size=4)
        assert (result.mse, result.ssim, result.information) == (
            expected.mse,
            expected.ssim,
            expected.information,
        )
    limited = evaluate(tokenizer, dataset, batch_size=4, limit=6)
    assert limited.images == 6
    assert limited.mse == evaluate(tokenizer, dataset.images[:6], batch_size=4).mse
    with pytest.raises(ValueError, match="limit must be positive, got 0"):
        evaluate(tokenizer, dataset, limit=0)


def test_what_cannot_be_measured_is_skipped_with_the_reason(
    tokenizer: Any, plain_tokenizer: Any, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate(plain_tokenizer, dataset, likelihood=GaussianLikelihood(0.2))
    assert plain.mse > 0
    assert plain.information is None
    assert plain.elbo is None
    assert "Nearest is no mixture" in plain.skipped["elbo"]
    assert "no likelihood" in evaluate(tokenizer, dataset).skipped["albo"]
    unset = evaluate(tokenizer, dataset, likelihood=GaussianLikelihood())
    assert "never set" in unset.skipped["elbo_discrete"]
    tiny = evaluate(tokenizer, torch.rand(2, 3, 2, 8))
    assert tiny.ssim is None
    assert "at least 3 pixels" in tiny.skipped["ssim"]

    def absent(module: str, extra: str) -> None:
        raise MissingExtraError(f"needs {module}: gmvq[{extra}]")

    monkeypatch.setattr(metrics_module, "require", absent)
    assert "gmvq[train]" in evaluate(tokenizer, dataset).skipped["ssim"]


def test_bad_input_says_what_was_expected(tokenizer: Any, dataset: Any) -> None:
    with pytest.raises(ValueError, match="no image"):
        evaluate(tokenizer, dataset.images[:0])
    with pytest.raises(TypeError, match="divide uint8"):
        evaluate(tokenizer, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match="got int"):
        evaluate(tokenizer, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="bound_samples"):
        evaluate(tokenizer, dataset, bound_samples=-1)


def test_metrics_file_is_whole_and_finite(tokenizer: Any, dataset: Any, tmp_path: Path) -> None:
    result = evaluate(tokenizer, dataset)
    path = write_metrics(tmp_path / "run" / "metrics.json", result)
    found = json.loads(path.read_text())
    assert found.pop("units")["elbo"] == "-ELBO [bits/dimension]"
    assert found == result.to_dict()
    write_metrics(path, {"mse": math.nan, "nested": {"list": [math.inf, 1]}})
    found = json.loads(path.read_text())
    assert found == {"mse": None, "nested": {"list": [None, 1]}, "units": {"mse": "MSE of values in [0, 1]"}}
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]
    with pytest.raises(TypeError):
        write_metrics(path, {"mse": object()})
    assert json.loads(path.read_text())["mse"] is None  # the old file is still whole


def test_table_is_aligned_and_has_units(tokenizer: Any, plain_tokenizer: Any, dataset: Any) -> None:
    table = format_table(evaluate(tokenizer, dataset, likelihood=GaussianLikelihood(0.2)))
    lines = table.splitlines()
    ends = {line.index(unit) for line in lines for unit in ("dB", "nats/", "bits/") if unit in line}
    assert len(ends) == 1
    assert any(line.startswith("-ELBO ") and line.endswith("bits/dimension") for line in lines)
    assert "skipped" not in table
    skipped = format_table(evaluate(plain_tokenizer, dataset)).splitlines()[-1]
    assert skipped.startswith("skipped: H(q(c|x)), H(qbar)")
    assert format_table({"mse": 0.0123}) == "MSE  12.300  x 1e-3"
