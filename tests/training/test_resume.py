"""A run that was stopped and resumed ends bit for bit where an uninterrupted one does."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trees import assert_equal_trees

from gmvq.training import TokenizerModule, read_checkpoint

Fit = Callable[..., TokenizerModule]
SendSignal = Callable[..., Any]
Straight = Callable[..., Path]


def spoil_generators() -> None:
    """What other code may do between building a trainer and training."""
    torch.rand(1000), np.random.rand(10), random.random()


def assert_same_end(one: Path, other: Path) -> None:
    ends = [read_checkpoint(run_dir / "checkpoints" / "last.ckpt") for run_dir in (one, other)]
    assert ends[0]["global_step"] == 12
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "gmvq", "global_step", "epoch"):
        assert_equal_trees(ends[0][key], ends[1][key], key)


@pytest.mark.parametrize("step", [5, 7, 11])  # 5 is the end of an epoch; 6 starts the codebook
def test_resume_is_bit_identical(
    fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path, step: int
) -> None:
    fit(tmp_path, stop=send_signal(step))
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == step
    fit(tmp_path, resume=True, before=spoil_generators)
    assert_same_end(straight(), tmp_path)


def test_resume_with_workers(fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path) -> None:
    fit(tmp_path, stop=send_signal(7), num_workers=2)
    fit(tmp_path, resume=True, num_workers=2)
    assert_same_end(straight(), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"settings": {"likelihood": "laplace", "likelihood_scale": "learned", "weight_decay": 0.1}},
        {"precision": "bf16-mixed"},
        {"settings": {"decoder_after": 9}},
    ],
    ids=lambda options: next(iter(options.get("settings", options))),
)
def test_resume_with_other_options(
    fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path, options: dict[str, Any]
) -> None:
    fit(tmp_path, stop=send_signal(7), **options)
    fit(tmp_path, resume=True, **options)
    assert_same_end(straight(**options), tmp_path)


@pytest.mark.parametrize("step", [3, 6])  # in the first epoch, and in the second
def test_resume_after_a_stop_during_validation(
    fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path, step: int
) -> None:
    """The first validation starts the codebook."""
    fit(tmp_path, val_check_interval=3, stop=send_signal(step, signal.SIGTERM, in_validation=True))
    fit(tmp_path, val_check_interval=3, resume=True)
    assert_same_end(straight(val_check_interval=3), tmp_path)


@pytest.mark.parametrize("step", [3, 6, 12])
def test_resume_after_a_kill_during_validation(
    fit: Fit, dies_in_validation: Callable[[int], Any], straight: Straight, tmp_path: Path, step: int
) -> None:
    """The step has a checkpoint and a validation, which starts the codebook (at 3) and writes a line of the history."""
    options = {"val_check_interval": 3, "every": 3, "start_after": 20}
    fit(tmp_path, dies=dies_in_validation(step), **options)
    fit(tmp_path, resume=(tmp_path / "checkpoints" / "last.ckpt").is_file(), **options)
    assert_same_end(straight(**options), tmp_path)
    histories = [(run / "history.jsonl").read_text() for run in (straight(**options), tmp_path)]
    assert histories[0] == histories[1]


def test_ten_interruptions(fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path) -> None:
    """More steps between them: tests/hardening/resumed.py."""
    for step in range(1, 11):
        fit(tmp_path, stop=send_signal(step), resume=step > 1)
    fit(tmp_path, resume=True)
    assert_same_end(straight(), tmp_path)


def test_history_has_every_line_once_after_a_kill(
    fit: Fit, send_signal: SendSignal, straight: Straight, tmp_path: Path
) -> None:
    """A killed run has logged steps after its last checkpoint; going on from there must not double them."""
    fit(tmp_path, val_check_interval=5, stop=send_signal(7))
    history = tmp_path / "history.jsonl"
    with history.open("a") as file:
        file.write('{"step": 8, "train/mse": 123.0}\n{"step": 10, "trai')
    fit(tmp_path, val_check_interval=5, resume=True)
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    expected = (straight(val_check_interval=5) / "history.jsonl").read_text().splitlines()
    assert lines == [json.loads(line) for line in expected]
    assert {"train/mse", "train/lr", "train/kl_aggregate"} <= lines[0].keys()
    assert [line["step"] for line in lines if "validation/psnr" in line] == [5, 10]
