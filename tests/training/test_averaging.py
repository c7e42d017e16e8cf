"""Averaged weights: the formula, what is validated and kept, and a resumed run that goes on bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from trees import assert_equal_trees

from gmvq.data import open_images
from gmvq.training import TokenizerModule, load_model, read_checkpoint
from gmvq.training.averaging import AveragedWeights

Fit = Callable[..., TokenizerModule]
SendSignal = Callable[..., Any]
Straight = Callable[..., Path]


class Recorder(Callback):
    """The parameters after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.steps.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})


def last(run_dir: Path) -> dict[str, Any]:
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")


def assert_same_end(one: Path, other: Path) -> None:
    ends = [last(one), last(other)]
    assert ends[0]["global_step"] == 12
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "gmvq"):
        assert_equal_trees(ends[0][key], ends[1][key], key)


def test_formula(fit: Fit, tmp_path: Path) -> None:
    """Copies until the codebook starts in step 6, then the average with its rising decay."""
    recorder = Recorder()
    module = fit(tmp_path, average=0.5, more=[recorder])
    expected = recorder.steps[5]
    for number, weights in enumerate(recorder.steps[6:], start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in weights}
    found = dict(module.named_parameters())
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found["model.quantizer.codebook"], recorder.steps[-1]["model.quantizer.codebook"])
    checkpoint = last(tmp_path)
    assert torch.equal(checkpoint["state_dict"]["model.quantizer.mean"], found["model.quantizer.mean"])
    for name, value in module.model.named_buffers():
        assert torch.equal(value, checkpoint["current_model_state"][f"model.{name}"]), name


def test_training_itself_is_as_without(straight: Straight) -> None:
    plain, averaged = (last(straight(val_check_interval=3, **more)) for more in ({}, {"average": 0.9}))
    assert_equal_trees(plain["state_dict"], averaged["current_model_state"])
    assert_equal_trees(plain["optimizer_states"], averaged["optimizer_states"])
    assert "current_model_state" not in plain


def test_validation_measures_the_average(fit: Fit, images: str, tmp_path: Path) -> None:
    fit(tmp_path, average=0.9, val_check_interval=12)
    model = load_model(tmp_path)
    validation = open_images(images, split="validation", size=8)
    batch = torch.stack([validation[i] for i in range(len(validation))])
    error = float((model.reconstruct(batch).clamp(0, 1) - batch).square().mean())
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    (measured,) = [line["validation/mse"] for line in lines if "validation/mse" in line]
    assert measured == pytest.approx(error, rel=1e-4)
    model.load_state_dict(
        {
            name.removeprefix("model."): value
            for name, value in last(tmp_path)["current_model_state"].items()
            if name.startswith("model.")
        }
    )
    assert float((model.reconstruct(batch) - batch).square().mean()) != pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("step", [4, 5, 7, 11])
def test_resume(fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path, step: int) -> None:
    fit(tmp_path, average=0.9, stop=send_signal(step))
    fit(tmp_path, average=0.9, resume=True)
    assert_same_end(straight(average=0.9), tmp_path)


@pytest.mark.parametrize("step", [3, 6])
def test_resume_after_a_stop_during_validation(
    fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path, step: int
) -> None:
    """The module holds the average then; the first validation starts the codebook of the weights in training."""
    stop = send_signal(step, signal.SIGTERM, in_validation=True)
    fit(tmp_path, average=0.9, val_check_interval=3, stop=stop)
    fit(tmp_path, average=0.9, val_check_interval=3, resume=True)
    assert_same_end(straight(average=0.9, val_check_interval=3), tmp_path)


def test_a_run_begun_without_goes_on_with_it(
    fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path
) -> None:
    fit(tmp_path, stop=send_signal(7))
    fit(tmp_path, average=0.9, resume=True)
    assert_equal_trees(last(straight())["state_dict"], last(tmp_path)["current_model_state"])


def test_a_run_that_is_taken_up_at_its_end_has_the_average(fit: Fit, tmp_path: Path) -> None:
    """As one is that was stopped while it was measured."""
    ended, again = (fit(tmp_path, average=0.5, resume=resume) for resume in (False, True))
    assert_equal_trees(ended.model.state_dict(), again.model.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0])
def test_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        AveragedWeights(decay)
