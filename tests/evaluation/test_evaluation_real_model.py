"""The whole chain on the package's own autoencoder and layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from gmvq.evaluation import decoded_codewords, evaluate, inspect_codebook, write_metrics, write_report
from gmvq.models import VQAutoencoder, build_autoencoder
from gmvq.objectives import GaussianLikelihood
from gmvq.quantizers import ResidualGMVQ
from gmvq_bench.uncertainty.scores import image_scores


@pytest.fixture
def model() -> VQAutoencoder:
    torch.manual_seed(0)
    model = build_autoencoder("tiny", dim=8, codebook_size=16)
    images = torch.rand(4, 3, 16, 16)
    model.quantizer.init_codebook(torch.randn(64, 8))
    model.train()(images)
    likelihood = GaussianLikelihood()
    likelihood.observe(model(images).reconstruction, images)
    model.likelihood = likelihood
    return model


def test_evaluation_measures_what_the_tokenizer_does(model: VQAutoencoder, dataset: Any) -> None:
    result = evaluate(model, dataset, batch_size=4, bound_samples=2)
    assert model.training
    reconstruction = model.reconstruct(dataset.images).clamp(0, 1)
    assert_close(result.mse, float((reconstruction - dataset.images).square().mean()), atol=1e-6, rtol=0)
    tokens = model.encode(dataset.images)
    assert result.codes_used == tokens.unique().numel()
    assert result.positions_per_image == 16
    assert result.skipped == {}
    assert 0 <= (result.information or 0) <= math.log(16)
    bounds = (result.elbo, result.albo, result.elbo_discrete, result.importance_weighted)
    assert all(value is not None and math.isfinite(value) for value in bounds)


def test_a_model_without_a_codebook_is_not_measured(dataset: Any) -> None:
    model = build_autoencoder("tiny", codebook_size=16)
    for measure in (evaluate, image_scores, inspect_codebook):
        with pytest.raises(ValueError, match="no codebook yet"):
            measure(model, dataset)


def test_a_composition_is_scored_in_the_units_that_its_decoder_reads(dataset: Any) -> None:
    """Of latents of any scale and place, the error of quantization is a part of their variance."""
    torch.manual_seed(0)
    model = build_autoencoder("tiny", quantizer=ResidualGMVQ(8, 16, 2))
    with torch.no_grad():
        last = model.encoder.linear
        last.weight *= 50.0
        last.bias += 7.0
        latents = model._latents(dataset.images)
    model.quantizer.init_codebook(latents)
    found = (2 * image_scores(model, dataset).log_variance.exp()).mean()
    assert 0.01 < found / latents.var((0, 1, 2)).mean() < 0.9
    read = model.quantizer.decoder_units(latents)
    error = read - model.eval()(dataset.images).quantizer.quantized
    assert_close(found, error.square().mean().double())


def test_report_and_codebook(model: VQAutoencoder, dataset: Any, tmp_path: Path) -> None:
    report = inspect_codebook(model, dataset)
    assert report.histogram is not None
    assert report.histogram.sum() == 160
    assert 1 <= (report.effective_codes or 0) <= 16
    assert decoded_codewords(model, 2).shape == (4 * 9 + 1, 4 * 9 + 1, 3)
    write_metrics(tmp_path / "metrics.json", evaluate(model, dataset))
    text = write_report(tmp_path, model, dataset, title="t", command="c", images=2).read_text()
    assert "GaussianMixtureVQ, 16 codes of 8 features" in text
    assert "uncertainty" in text
