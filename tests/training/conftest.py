"""A data set, a module and a trainer small enough for a test of many runs."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, Trainer

from gmvq.training import ImageDataModule, TokenizerModule
from gmvq.training.averaging import AveragedWeights
from gmvq.training.callbacks import AtomicCheckpointIO, LastCheckpoint, StopRequested
from gmvq.training.loggers import HistoryWriter


class SendSignal(Callback):
    """Send this process a signal in the middle of a step, or of a validation."""

    def __init__(self, step: int, number: int = signal.SIGINT, in_validation: bool = False) -> None:
        self.step, self.number, self.in_validation = step, number, in_validation
        self.sent = False

    def _send(self) -> None:
        if not self.sent:  # a second signal means: stop at once
            self.sent = True
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if not self.in_validation and trainer.global_step == self.step - 1:
            self._send()

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.in_validation and trainer.global_step == self.step:
            self._send()


class KilledError(Exception):
    """Stands for SIGKILL: nothing is written after it."""


class DiesInValidation(Callback):
    """End in the middle of the validation after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KilledError


@pytest.fixture(scope="session")
def dies_in_validation() -> type[DiesInValidation]:
    return DiesInValidation


@pytest.fixture(scope="session")
def send_signal() -> type[SendSignal]:
    return SendSignal


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 smooth colour images of 8 pixels as .npy; 30 or so of them are the train split."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (40, 2, 2, 3))
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8))
    return str(path)


@pytest.fixture(scope="session")
def fit(images: str) -> Callable[..., TokenizerModule]:
    """Train twelve steps over epochs of five batches; returns the module, also where a signal stopped it."""

    def run(
        run_dir: Path,
        *,
        resume: bool = False,
        stop: SendSignal | None = None,
        num_workers: int = 0,
        val_check_interval: int = 100,
        before: Callable[[], Any] = lambda: None,
        every: int = 100,
        dies: Callback | None = None,
        start_after: int = 5,
        average: float = 0.0,
        more: Sequence[Callback] = (),
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> TokenizerModule:
        module = TokenizerModule(**{"dim": 4, "codebook_size": 16, "warmup_steps": 3, **(settings or {})})
        for part in module._mixtures().values():
            part.start_after = start_after
        data = ImageDataModule(images, size=8, batch_size=6, num_workers=num_workers)
        trainer = Trainer(
            **{"max_steps": 12, "accelerator": "cpu", "log_every_n_steps": 2, **options},
            val_check_interval=val_check_interval,
            check_val_every_n_epoch=None,
            callbacks=[
                *([AveragedWeights(average)] if average else []),
                *more,
                LastCheckpoint(run_dir, every=every),
                *filter(None, [stop, dies]),
            ],
            plugins=[AtomicCheckpointIO()],
            logger=HistoryWriter(run_dir / "history.jsonl"),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        before()
        checkpoint = run_dir / "checkpoints" / "last.ckpt" if resume else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            if dies is not None:
                with pytest.raises(KilledError):
                    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            elif stop is None:
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            else:
                with pytest.raises(StopRequested, match=f"after step {stop.step}$"):
                    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return module

    return run


@pytest.fixture(scope="session")
def straight(
    fit: Callable[..., TokenizerModule], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of the run with some options of ``fit`` that nothing interrupts, which is made once."""
    made: dict[str, Path] = {}

    def folder(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("straight")
            fit(made[key], **options)
        return made[key]

    return folder
