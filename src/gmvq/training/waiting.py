"""``DataWait``: the share of the training time in which nothing is done but wait for the next batch."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..data.loader import ResumableLoader
from .history import is_logged

#: What the figure is called in the history: the share since training began, or went on, 0 to 1.
DATA_WAIT = "train/data_wait"


class DataWait(Callback):
    """Log ``train/data_wait``: the seconds in which the loader was waited for over those of training.

    The time of validations is left out.
    """

    def __init__(self) -> None:
        self._begin = self._paused = self._pause = self._waited = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin, self._paused, self._waited = time.perf_counter(), 0.0, _waited(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused += time.perf_counter() - self._pause

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logged(trainer, trainer.global_step):
            spent = time.perf_counter() - self._begin - self._paused
            share = (_waited(trainer) - self._waited) / max(spent, 1e-9)
            pl_module.log(DATA_WAIT, share, rank_zero_only=True)


def _waited(trainer: Trainer) -> float:
    """Seconds in which the training loader was waited for; 0 for one that is not ours."""
    loader: Any = trainer.train_dataloader
    return loader.waited if isinstance(loader, ResumableLoader) else 0.0
