"""One real run of a few steps: what it returns, that it repeats, and that divergence is an error with a name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gmvq_bench.comparison import train
from gmvq_bench.comparison.networks import build_pair
from gmvq_bench.comparison.suite import PROTOCOL
from gmvq_bench.comparison.train import DivergedError, train_run

RUN: dict[str, Any] = {
    "setting": "a", "method": "m", "phase": "final", "size": 16, "channels": 3, "flip": True,
    "network": "tiny", "downsample": 4, "dim": 4, "codebook_size": 16, "steps": 6, "batch_size": 8,
    "quantizer": "gm-vq", "options": {}, "loss": "own", "lr": 0.004, "seed": 0, "protocol": PROTOCOL,
}  # fmt: skip
FIGURES = {
    "mse", "psnr", "ssim", "kid", "perplexity", "usage", "codes_used", "distinct", "bits_per_pixel",
    "bits_per_pixel_entropy",
}  # fmt: skip


@pytest.fixture
def run(few_images: str) -> dict[str, Any]:
    return {**RUN, "data": few_images}


def test_a_run_measures_everything_and_repeats(run: dict[str, Any]) -> None:
    first, again = train_run(run), train_run(run)
    assert set(first["test"]) == FIGURES
    assert first["test"] == again["test"]
    assert first["validation"] == again["validation"]
    assert first["curve"]["step"] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(value) for value in first["curve"]["mse"])
    test = first["test"]
    assert 1 <= test["distinct"] <= test["perplexity"] * (1 + 1e-9) <= 16
    assert test["bits_per_pixel"] == pytest.approx(4 / 16)  # log2(16) bits on 4 x 4 pixels
    assert test["bits_per_pixel_entropy"] == pytest.approx(math.log2(test["perplexity"]) / 16)
    assert test["psnr"] == pytest.approx(-10 * math.log10(test["mse"]))
    assert first["seconds"] > 0


def test_a_tuning_run_leaves_the_test_split_alone(run: dict[str, Any]) -> None:
    result = train_run({**run, "phase": "tune", "steps": 2})
    assert "test" not in result
    assert set(result["validation"]) == {"mse", "perplexity", "usage"}


@pytest.mark.parametrize("network", ["conv", "published"])
def test_the_published_recipe_and_the_networks_of_the_suites(run: dict[str, Any], network: str) -> None:
    result = train_run({**run, "network": network, "recipe": "published", "steps": 3})
    assert math.isfinite(result["test"]["mse"])
    assert sum(p.numel() for net in build_pair(network, 3, 64, 4) for p in net.parameters()) == pytest.approx(
        3e5, rel=0.1
    )


def test_a_dressed_rival_runs_through_the_same_loop(run: dict[str, Any]) -> None:
    run = {**run, "quantizer": "cvq", "steps": 60}
    plain, dressed = train_run(run), train_run({**run, "dress": True})
    assert plain["curve"]["mse"][0] != dressed["curve"]["mse"][0]
    assert dressed["test"]["perplexity"] > 2


@pytest.mark.parametrize("quantizer", ["sq-vae", "ibq", "ae", "gaussian-vae"])
def test_baselines_run_through_the_same_loop(run: dict[str, Any], quantizer: str) -> None:
    result = train_run({**run, "quantizer": quantizer, "steps": 3})
    assert math.isfinite(result["test"]["mse"])


def test_the_relative_loss_is_the_gradient_of_a_logarithm(run: dict[str, Any]) -> None:
    own = train_run({**run, "quantizer": "ibq", "phase": "tune", "steps": 1})
    relative = train_run({**run, "quantizer": "ibq", "phase": "tune", "steps": 1, "loss": "relative"})
    assert own["curve"]["mse"] == relative["curve"]["mse"]  # the same first batch, network and noise


def test_divergence_is_named(run: dict[str, Any]) -> None:
    with pytest.raises(DivergedError, match="step"):
        train_run({**run, "quantizer": "ibq", "lr": 1e30, "steps": 6})


def test_a_point_of_the_curve_is_the_mean_since_the_last(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = train_run(run)["curve"]["mse"]
    monkeypatch.setattr(train, "_POINTS", 2)
    curve = train_run(run)["curve"]
    assert curve["step"] == [3, 6]
    assert curve["mse"] == pytest.approx([sum(every[:3]) / 3, sum(every[3:]) / 3])
