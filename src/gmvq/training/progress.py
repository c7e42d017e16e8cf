"""What is seen of a training: its progress, the time that it waits for data, and pictures for TensorBoard and W&B."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from ..data.loader import ResumableLoader
from ..evaluation.pictures import sheet, to_picture
from ..files import write_json
from ..progress import Progress
from ..reading import read_json
from .loggers import is_logged

#: What the share is called among the trainer's metrics, 0 to 1. It is not in history.jsonl, which two equal runs share.
DATA_WAIT = "train/data_wait"
#: Under which name the picture is logged.
PICTURE = "validation/reconstructions"
_IMAGES = 8
_SHOWN = (
    ("train/mse", "mse", ".2e"),
    ("train/perplexity", "perplexity", ".0f"),
    ("validation/psnr", "psnr", ".2f"),
    (DATA_WAIT, "data wait", ".0%"),
)


class StepProgress(Callback):
    """Show in the first process how far training is, how fast, and the figures that tell whether it works.

    Lightning's own bars start again with every epoch, of which a small data set has a hundred.
    """

    def __init__(self) -> None:
        self._progress, self._total, self._note = Progress("steps", quiet=True), 0, ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._total = int(trainer.estimated_stepping_batches)
        self._progress = Progress("steps", quiet=not trainer.is_global_zero)
        self._progress(trainer.global_step, self._total)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.is_global_zero and is_logged(trainer, trainer.global_step):
            values = trainer.callback_metrics
            shown = [f"{label} {float(values[key]):{style}}" for key, label, style in _SHOWN if key in values]
            self._note = "  ".join(shown)
        self._progress(trainer.global_step, self._total, self._note)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.stop()

    def on_exception(self, *_: Any, **__: Any) -> None:
        self._progress.stop()


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

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
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


class LoggedPictures(Callback):
    """Log the first images of every validation, above their reconstructions; loggers of figures get nothing.

    Signals, and what has no ``reconstruct``, are left out.
    """

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        reconstruct = getattr(getattr(pl_module, "model", None), "reconstruct", None)
        loggers = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger | WandbLogger)]
        if batch_idx or not loggers or not trainer.is_global_zero or reconstruct is None or batch.ndim != 4:
            return
        images = batch[:_IMAGES]
        picture = sheet([to_picture(image) for image in (*images, *reconstruct(images))], len(images))
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                writer: Any = logger.experiment
                writer.add_image(PICTURE, picture, trainer.global_step, dataformats="HWC")
            else:
                logger.log_image(PICTURE, [picture], step=trainer.global_step)
