"""The robust suites: a stable design, networks that fit together, a plain loop."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmvq_bench.robust import data as robust_data
from gmvq_bench.robust import train as robust_train
from gmvq_bench.robust.data import drawings, tones
from gmvq_bench.robust.design import (
    ENDINGS,
    IMAGES,
    NETWORKS,
    SOUNDS,
    Setting,
    draw,
    draw_small,
    from_dict,
    seconds,
)
from gmvq_bench.robust.methods import ABLATIONS, DRESSED, METHODS, QUARTER, RATES, TUNED, build_method
from gmvq_bench.robust.networks import build
from gmvq_bench.robust.suite import chosen_methods, runs_of, select
from gmvq_bench.robust.train import reconstruction_loss

SETTINGS = draw()
TINY = replace(
    SETTINGS[0], network="conv", endings=(), dim=4, codebook_size=16, downsample=4, width=8, data="drawings",
    size=16, channels=1, batch=4, steps=3, optimizer="adam", loss="mse",
)  # fmt: skip


def examples(setting: Setting, count: int) -> Tensor:
    shape = (count, setting.channels, *([setting.size] * setting.spatial_dims))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def random_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform noise in the place of every data set."""

    def load(name: str, size: int) -> robust_data.Data:
        setting = replace(TINY, size=size, channels=IMAGES[name])
        return robust_data.Data(*(examples(setting, n) for n in (32, 8, 16)))

    monkeypatch.setattr(robust_train, "load", load)


# The design


def test_the_design_is_the_same_at_every_call_and_a_longer_one_begins_with_it() -> None:
    assert draw() == SETTINGS
    assert draw(count=50)[:48] == SETTINGS
    assert draw(seed=1) != SETTINGS
    first = SETTINGS[0]
    assert (first.network, first.data, first.dim, first.codebook_size) == (
        "conv-group",
        "fashion_mnist",
        4,
        256,
    )


def test_numbers_parities_and_names() -> None:
    assert [s.number for s in SETTINGS] == list(range(48))
    assert {s.parity for s in SETTINGS[::2]} == {"even"}
    assert {s.parity for s in SETTINGS[1::2]} == {"odd"}
    assert len({s.name for s in SETTINGS}) == 48
    assert all(from_dict(json.loads(json.dumps(s.to_dict()))) == s for s in SETTINGS)


@pytest.mark.parametrize("parity", ["even", "odd"])
def test_each_parity_has_everything(parity: str) -> None:
    settings = [s for s in SETTINGS if s.parity == parity]
    assert {s.network for s in settings} == set(NETWORKS)
    assert {e for s in settings for e in s.endings} == set(ENDINGS)
    assert {s.dim for s in settings} == {2, 4, 8, 16, 32, 64, 128, 256}
    assert {s.codebook_size for s in settings} == {16, 64, 256, 1024, 4096}
    assert {s.data for s in settings} >= set(IMAGES)
    assert {s.loss for s in settings} == {"mse", "sum", "l1", "perceptual"}
    assert sum(s.steps == 5000 for s in settings) == 1


def test_settings_fit_their_codes_and_their_time() -> None:
    assert all(s.batch * s.positions >= s.codebook_size for s in SETTINGS)
    assert all(seconds(s) <= 75 for s in SETTINGS)
    assert all(not (s.optimizer == "sgd" and s.loss == "sum") for s in SETTINGS)
    assert all(s.data in (SOUNDS if s.network == "sound" else IMAGES) for s in SETTINGS)


def test_the_small_suite_has_every_network_and_both_parities() -> None:
    small = draw_small()
    assert [s.parity for s in small].count("even") == 6
    assert len(small) == 12
    assert {s.network for s in small} == set(NETWORKS)
    assert {s.data for s in small} >= {*IMAGES, "speech"}


# Networks


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_encoder_and_decoder_fit_together(setting: Setting) -> None:
    encoder, decoder = build(setting)
    x = examples(setting, 2)
    latents = encoder(x)
    side = setting.size // setting.downsample
    assert latents.shape == (2, setting.dim, *([side] * setting.spatial_dims))
    reconstruction = decoder(latents)
    assert reconstruction.shape == x.shape
    assert torch.isfinite(reconstruction_loss(setting)(reconstruction, x))


@pytest.mark.parametrize("network", NETWORKS)
def test_endings(network: str) -> None:
    size = 64 if network == "sound" else 16
    setting = replace(TINY, network=network, width=16, size=size)
    x = examples(setting, 2)
    zero = build(replace(setting, endings=("zero", "shift")))[0](x)
    assert torch.equal(zero, torch.full_like(zero, 10.0))
    bounded = build(replace(setting, endings=("tanh", "scale")))[0](x)
    assert 1.0 < bounded.abs().max() <= 100.0
    normal = build(replace(setting, endings=("layernorm",)))[0](x)
    assert normal.mean(1).abs().max() < 1e-4


# Training


@pytest.mark.parametrize("method", METHODS)
def test_a_few_steps_of_every_method(method: str) -> None:
    result = robust_train.train(replace(TINY, batch=16), method)
    assert result["error"] is None
    assert result["steps"] == 3
    assert 0 < result["mse"] < 10
    assert 1 <= result["perplexity"] <= 16
    assert 0 < result["usage"] <= 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_same_seed_same_figures(optimizer: str) -> None:
    setting = replace(TINY, optimizer=optimizer)
    first, second = (robust_train.train(setting, "gm-vq", seed=3) for _ in range(2))
    assert first["mse"] == second["mse"]
    assert robust_train.train(setting, "gm-vq", seed=4)["mse"] != first["mse"]


class Layer(nn.Module):
    """A layer of the caller's own."""

    def __init__(self, bad: bool = False) -> None:
        super().__init__()
        self.bad = bad
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss = self.weight.sum() * (float("nan") if self.bad else 1.0)
        return latents + self.weight, torch.zeros(latents.shape[:-1], dtype=torch.int64), loss


def test_a_layers_parameters_are_in_the_one_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer()
    monkeypatch.setattr(robust_train, "build_method", lambda name, setting: layer)
    result = robust_train.train(replace(TINY, steps=4), "own")
    assert result["perplexity"] == pytest.approx(1.0)
    assert not torch.equal(layer.weight, torch.zeros(4))


def test_divergence_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust_train, "build_method", lambda name, setting: Layer(bad=True))
    result = robust_train.train(TINY, "own")
    assert result["error"].startswith("DivergedError: the loss is no finite number at step 1")
    assert "mse" not in result
    assert result["mse_of_mean"] > 0


@pytest.mark.parametrize("method", TUNED)
def test_the_best_rate_is_that_of_the_lowest_validation_error(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def run(setting: Setting, method: str, seed: int, data: object) -> dict[str, float]:
        tried.append(setting.lr / TINY.lr)
        if len(tried) == 3:
            raise robust_train.DivergedError("at the highest rate")
        return {"mse": len(tried), "validation_mse": 9.0 - len(tried), "seconds": 2.0}

    monkeypatch.setattr(robust_train, "_run", run)
    found = robust_train.train(TINY, method)
    assert tried == pytest.approx(RATES)
    assert (found["mse"], found["rate"], found["seconds"]) == (2, RATES[1], 4.0)


@pytest.mark.parametrize("method", DRESSED)
def test_a_dressed_rival_reads_latents_in_the_frame_of_the_last_batches_and_starts_on_them(
    method: str,
) -> None:
    layer: Any = build_method(method, TINY)
    torch.manual_seed(0)
    first = (torch.randn(64, 4) + 10).requires_grad_()
    assert torch.allclose(layer(first).quantized, first, atol=1e-5)
    quantized, indices, loss, *_ = layer((100 * torch.randn(64, 4) + 50).requires_grad_())
    assert (quantized.mean(0) - 10).abs().max() < 10
    assert quantized.std() < 30
    assert loss == 0
    assert not indices.any()
    for _ in range(48):
        assert not layer(torch.randn(64, 4) + 10).indices.any()
    started = layer(torch.randn(64, 4) + 10)
    assert 4 < len(started.indices.unique()) <= TINY.codebook_size
    assert len(started.quantized.unique(dim=0)) <= TINY.codebook_size


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablated_layer_differs_from_the_layer_in_one_respect(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robust_train, "build_method", lambda *args: shortened(build_method(*args)))
    figures = [robust_train.train(replace(TINY, steps=30), one) for one in ("gm-vq", name)]
    assert all(one["error"] is None for one in figures)
    births: Any = build_method(name, TINY).births
    assert figures[0]["train_loss"] != figures[1]["train_loss"] or not births
    options, attributes = ABLATIONS[name]
    assert len(options) + len(attributes) == 1 or "and" in name


def shortened(layer: Any) -> Any:
    """A layer that starts after five batches at the latest."""
    layer.start_after = min(layer.start_after, 5)
    return layer


def test_further_methods_run_in_a_quarter_of_the_settings() -> None:
    found = [(run["design"]["number"], run["method"]) for run in runs_of(SETTINGS, METHODS, 1)]
    assert [n for n, method in found if method in QUARTER] == [
        n for n in range(48) if n % 8 in (0, 1) for _ in QUARTER
    ]


# Data


def test_synthetic_data() -> None:
    images, sounds = drawings(3, 16, seed=0), tones(3, 64, seed=0)
    assert images.shape == (3, 1, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    assert sounds.shape == (3, 1, 64)
    assert -1 <= sounds.min() < sounds.max() <= 1
    assert (images == drawings(3, 16, seed=0)).all()
    assert (images != drawings(3, 16, seed=1)).any()


def test_settings_of_missing_data_are_left_out_by_name() -> None:
    chosen = select("robust", {"emoji": "no font"}, parity="odd")
    assert all(s.data != "emoji" and s.parity == "odd" for s in chosen.settings)
    assert {s.data for s in chosen.left_out} == {"emoji"}
    assert chosen.reasons == {"emoji": "no font"}
    assert len(chosen.settings) + len(chosen.left_out) == 24


def test_selection_by_name_and_number() -> None:
    assert [s.number for s in select("robust", {}, names=["3", "07", SETTINGS[9].name]).settings] == [3, 7, 9]
    with pytest.raises(ValueError, match="has no setting 99"):
        select("robust", {}, names=["99"])
    assert chosen_methods("robust", ["ema"]) == ["gm-vq", "ema"]
    with pytest.raises(ValueError, match="robust has no method emma"):
        chosen_methods("robust", ["emma"])
