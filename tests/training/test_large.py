"""What large trainings use: half precision around the layer, and batches that are accumulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from gmvq.quantizers import state
from gmvq.training import TokenizerModule

Fit = Callable[..., TokenizerModule]


class Types(Callback):
    """What the encoder's first layer puts out, and what the quantizer's rows are computed in."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, torch.dtype]] = set()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        def note(name: str) -> Callable[..., None]:
            return lambda _, __, out: self.seen.add((name, out.dtype))

        first = next(part for part in pl_module.model.encoder.modules() if isinstance(part, torch.nn.Conv2d))
        first.register_forward_hook(note("convolution"))
        pl_module.model.quantizer.register_forward_hook(
            lambda _, __, out: self.seen.add(("nats", out.nats.dtype))
        )


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_bf16_is_for_the_networks_alone(fit: Fit, tmp_path: Path, precision: str, dtype: torch.dtype) -> None:
    types = Types()
    module = fit(tmp_path, precision=precision, more=[types])
    assert types.seen == {("convolution", dtype), ("nats", torch.float32)}
    assert {value.dtype for value in module.parameters()} == {torch.float32}


@pytest.mark.parametrize(("accumulated", "lessons"), [(1, 5), (2, 12)])
def test_the_layer_learns_from_every_accumulated_batch(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int, lessons: int
) -> None:
    """Ten steps of 10 and of 17 batches: the fifth of an epoch, its last, is a step alone. Five wait for the start."""
    seen: list[float] = []
    learn = state.learn

    def noted(layer: Any, moments: Any, *rest: Any) -> None:
        seen.append(float(moments.total))
        learn(layer, moments, *rest)

    monkeypatch.setattr(state, "learn", noted)
    fit(tmp_path, accumulate_grad_batches=accumulated, max_steps=10)
    assert seen == [24.0] * lessons, "6 images of 2 x 2 positions"
