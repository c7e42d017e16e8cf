"""Saving and loading: parameters, where the schedules stand, the codebook, and the config."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from quantizer_cases import assert_same, latents, layer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gmvq import (
    GaussianMixtureVQ,
    GumbelSoftmax,
    Objective,
    Precision,
    StraightThroughGumbel,
    Variance,
)
from gmvq.functional.schedules import Constant, Cosine, Exponential, Linear
from gmvq.quantizers import from_config

OBJECTIVE = Objective("elbo", Linear(0.0, 1.0, idle=0.25), Cosine(4.0, 2.0, begin=0.5))
CONFIGS = {
    "defaults": {},
    "everything else": {
        "objective": OBJECTIVE,
        "precision": Precision(True, Exponential(1.0, 10.0, finish=0.5)),
        "variance": Variance(0.7, Linear(1.0, 0.0)),
        "estimator": StraightThroughGumbel(Exponential(1.0, 0.1, idle=0.3), Linear(1.0, 0.0)),
        "mixture_weights": "learned",
        "standardize": False,
        "units": "latents",
        "start_after": 7,
    },
    "soft": {"estimator": GumbelSoftmax(Constant(1.0), Constant(1.0)), "support": None},
}
#: What the schedules of "everything else" are at the start, half-way and at the end.
VALUES = {
    0.0: {
        "gamma": 0.0,
        "beta": 4.0,
        "sharpening": 1.0,
        "sample_noise": 1.0,
        "temperature": 1.0,
        "gumbel_noise": 1.0,
    },
    0.5: {"gamma": 0.5, "beta": 4.0, "sharpening": 10, "sample_noise": 0.5, "temperature": 0.1**0.5},
    1.0: {
        "gamma": 1.0,
        "beta": 2.0,
        "sharpening": 10,
        "sample_noise": 0.0,
        "temperature": 0.1,
        "gumbel_noise": 0.0,
    },
}


def save_with_torch(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    torch.save(state, file)
    return torch.load(file, weights_only=True)


def save_with_safetensors(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    save_file(state, file)
    return load_file(file)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("save", [save_with_torch, save_with_safetensors])
def test_a_trained_layer_comes_back_whole(name, save, tmp_path) -> None:
    torch.manual_seed(0)
    trained = GaussianMixtureVQ(3, 5, **CONFIGS[name])
    x = latents(30, dtype=torch.float32)
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
    for step in range(3):
        trained.set_progress(step / 4)
        out = trained(x)
        optimizer.zero_grad()
        ((out.quantized - x).square().mean() + out.loss).backward()
        optimizer.step()
    loaded = from_config(json.loads(json.dumps(trained.to_config())))
    loaded.load_state_dict(save(trained.state_dict(), tmp_path / "weights"))
    assert_same(loaded.state_dict(), trained.state_dict(), rtol=0.0, atol=0.0)
    assert loaded.started
    for mode in (True, False):
        torch.manual_seed(1)
        expected = trained.train(mode)(x)
        torch.manual_seed(1)
        actual = loaded.train(mode)(x)  # in training mode: does not start the codebook anew
        torch.testing.assert_close(actual.quantized, expected.quantized, rtol=0.0, atol=0.0)
        torch.testing.assert_close(actual.nats, expected.nats, rtol=0.0, atol=0.0)
        assert torch.equal(actual.indices, expected.indices)
    assert_same(loaded.state_dict(), trained.state_dict(), rtol=0.0, atol=0.0)


def test_a_layer_that_was_never_started_is_started_after_loading() -> None:
    loaded = layer(started=True)
    loaded.load_state_dict(layer(started=False).state_dict())
    assert not loaded.started
    loaded(latents(30))
    assert loaded.started


@pytest.mark.parametrize("assign", [False, True])
def test_started_survives_loading_inside_a_larger_model_and_copying(assign) -> None:
    source = nn.Sequential(nn.Linear(3, 3).double(), layer())
    target = nn.Sequential(nn.Linear(3, 3).double(), layer(started=False))
    target.load_state_dict(copy.deepcopy(source.state_dict()), assign=assign)
    copied = copy.deepcopy(target)
    source(latents(30))
    for model in (target, copied):
        model(latents(30))  # learns from the batch what the source does
        assert_same(model.state_dict(), source.state_dict(), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_round_trip(name) -> None:
    built = GaussianMixtureVQ(3, 5, **CONFIGS[name])
    config = json.loads(json.dumps(built.to_config()))
    again = from_config(config)
    assert isinstance(again, GaussianMixtureVQ)
    assert again.to_config() == built.to_config() == config
    for part in (
        "objective",
        "precision",
        "variance",
        "estimator",
        "mixture_weights",
        "standardize",
        "units",
        "start_after",
    ):
        assert getattr(again, part) == getattr(built, part)
    assert GaussianMixtureVQ.from_config(config).to_config() == config
    assert repr(again) == repr(built)


@pytest.mark.parametrize("progress", VALUES)
def test_progress_advances_every_schedule(progress) -> None:
    built = GaussianMixtureVQ(3, 5, **CONFIGS["everything else"])
    assert built.gamma == pytest.approx(0.25), "idle until progress is set"
    assert built.temperature == pytest.approx(0.3)
    built.set_progress(progress)
    for name, value in VALUES[progress].items():
        assert float(getattr(built, name)) == pytest.approx(value, abs=1e-6), name


def test_progress_acts_on_the_next_step() -> None:
    ramp = Objective("albo", Constant(0.0), Linear(0.0, 2.0))
    built = GaussianMixtureVQ(3, 5, objective=ramp, estimator=GumbelSoftmax(Linear(1.0, 0.5), Constant(0.0)))
    x = latents(30, dtype=torch.float32)
    built(x)
    for progress in (0.0, 0.5, 1.0, 0.25):  # backwards too: a schedule is a function of progress alone
        built.set_progress(progress)
        out = built(x)
        torch.testing.assert_close(out.nats, 2.0 * progress * out.terms["kl_aggregate"])
        torch.testing.assert_close(out.terms["temperature"], torch.tensor(1.0 - 0.5 * progress))


def test_progress_is_part_of_the_state_and_follows_moves() -> None:
    built = GaussianMixtureVQ(3, 5, **CONFIGS["everything else"])
    built.set_progress(1.0)
    loaded = GaussianMixtureVQ(3, 5, **CONFIGS["everything else"])
    loaded.load_state_dict(built.state_dict())
    assert loaded.beta == built.beta == 2.0
    moved = loaded.double()
    moved.set_progress(0.0)
    assert moved.beta.dtype == torch.float64
    assert moved.beta == 4.0
