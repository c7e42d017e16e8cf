"""``DataWait``: the share of the training time in which nothing is done but wait for the next batch."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..data.loader import ResumableLoader
from ..files import write_json
from ..reading import read_json
from .history import is_logged

#: What the share is called among the trainer's metrics, 0 to 1. It is not in history.jsonl, which two equal runs share.
DATA_WAIT = "train/data_wait"


class DataWait(Callback):
    """Measure the seconds in which the loader was waited for over those of training, without validations.

    The share since training began, or went on, is shown with the progress; at the end of training it goes into the last
    record of the run.
    """

    def __init__(self, records: Path) -> None:
        self._records = records
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
            pl_module.log(DATA_WAIT, self._share(trainer), logger=False, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            records = read_json(self._records)
            records[-1]["data_wait"] = round(self._share(trainer), 4)
            write_json(self._records, records)

    def _share(self, trainer: Trainer) -> float:
        spent = time.perf_counter() - self._begin - self._paused
        return (_waited(trainer) - self._waited) / max(spent, 1e-9)


def _waited(trainer: Trainer) -> float:
    """Seconds in which the training loader was waited for; 0 for one that is not ours."""
    loader: Any = trainer.train_dataloader
    return loader.waited if isinstance(loader, ResumableLoader) else 0.0
