"""``StepProgress``: one bar over all steps of the run on a terminal, plain lines in a log file."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from ..progress import Progress
from .history import is_logged
from .waiting import DATA_WAIT

_SHOWN = (
    ("train/mse", "mse", ".2e"),
    ("train/perplexity", "perplexity", ".0f"),
    ("validation/psnr", "psnr", ".2f"),
    (DATA_WAIT, "data wait", ".0%"),
)


class StepProgress(ProgressBar):
    """Show how far training is, how fast, and the figures that tell whether it works.

    Lightning's own bars start again with every epoch, of which a small data set has a hundred.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._total = 0
        self._note = ""
        self._progress = Progress("steps")

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._total = int(trainer.estimated_stepping_batches)
        self._progress = Progress("steps", quiet=not self._enabled)
        self._progress(trainer.global_step, self._total)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._enabled and is_logged(trainer, trainer.global_step):
            values = trainer.callback_metrics
            shown = [f"{label} {float(values[key]):{style}}" for key, label, style in _SHOWN if key in values]
            self._note = "  ".join(shown)
        self._progress(trainer.global_step, self._total, self._note)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._progress.stop()
