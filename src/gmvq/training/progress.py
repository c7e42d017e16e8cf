"""``StepProgress``: one bar over all steps of the run on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from .history import is_logged

_SHOWN = (
    ("train/mse", "mse", ".2e"),
    ("train/perplexity", "perplexity", ".0f"),
    ("validation/psnr", "psnr", ".2f"),
)


class StepProgress(ProgressBar):
    """Show how far training is, how fast, and the figures that tell whether it works.

    Lightning's own bars start again with every epoch, of which a small data set has a hundred.

    Args:
        every: seconds between two lines where the output is no terminal.
    """

    def __init__(self, every: float = 15.0) -> None:
        super().__init__()
        self._every = every
        self._enabled = True
        self._bar: Any = None
        self._task: Any = None
        self._started = self._printed = 0.0
        self._first = self._total = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._printed = time.monotonic()
        self._first, self._total = trainer.global_step, int(trainer.estimated_stepping_batches)
        if self._enabled and sys.stderr.isatty():
            self._bar = _rich_bar()
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._total, completed=self._first, figures="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._enabled:
            return
        step = trainer.global_step
        logs = is_logged(trainer, step)
        if self._bar is not None:
            figures = {"figures": self._figures(trainer)} if logs else {}
            self._bar.update(self._task, completed=step, **figures)
        elif logs and step < self._total and time.monotonic() - self._printed >= self._every:
            self._print(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and self._bar is None and trainer.global_step > self._first:
            self._print(trainer)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _print(self, trainer: Trainer) -> None:
        self._printed = time.monotonic()
        step, total = trainer.global_step, self._total
        rate = (step - self._first) / max(self._printed - self._started, 1e-9)
        left = (total - step) / rate if rate else 0.0
        ends = f"  {_duration(left)} left" if step < total else ""
        figures = self._figures(trainer)
        print(
            f"step {step:>{len(str(total))}}/{total}  {figures}  {rate:.1f} steps/s{ends}",
            file=sys.stderr,
            flush=True,
        )

    def _figures(self, trainer: Trainer) -> str:
        values = trainer.callback_metrics
        return "  ".join(
            f"{label} {float(values[key]):{style}}" for key, label, style in _SHOWN if key in values
        )

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    # Drawing takes about 10 ms of the interpreter, which a step then waits for.
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
