"""Keep the newest checkpoint whole on disk, and leave one when the user or the system asks the run to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from ..files import PathLike, atomic_file, check_space, inside
from .checkpoint import LAST
from .loggers import HistoryWriter, is_logged
from .ranks import end_watch


class StopRequested(Exception):  # noqa: N818 (no error, but what was asked for)
    """Training was asked to stop by a signal; a checkpoint was written first."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.signal = signal.Signals(number)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints under a temporary name beside their own and rename: whoever reads sees a whole file.

    ``loaded`` is the checkpoint that training goes on from, where it was read already.
    """

    def __init__(self, loaded: dict[str, Any] | None = None) -> None:
        self._loaded = loaded

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded, self._loaded = self._loaded, None
        return super().load_checkpoint(path, *args, **kwargs) if loaded is None else loaded

    def save_checkpoint(self, checkpoint: dict[str, Any], path: PathLike, *_: Any, **__: Any) -> None:
        with atomic_file(path, sync=True) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(Callback):
    """Write ``checkpoints/last.ckpt`` every so many steps, after the last one, and when a signal asks to stop.

    Where a validation follows the step, it is written after that.

    Ctrl-C (SIGINT) and SIGTERM let the step at hand end, so that the checkpoint is one from which a resumed run
    goes on exactly. A second Ctrl-C stops at once. Several processes agree on stopping at the next step that is
    logged or has a checkpoint.
    """

    def __init__(self, run_dir: PathLike, every: int) -> None:
        self.path = inside(run_dir, *LAST.parts)
        self._every = every
        self._total = self._step = 0
        self._received: int | None = None
        self._due = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            # Weights and, as Adam's, two moments of each: what a checkpoint takes at least.
            size = sum(value.numel() * value.element_size() for value in pl_module.parameters())
            check_space(self.path.parent, 3 * size, "a checkpoint")
        for logger in trainer.loggers:
            if isinstance(logger, HistoryWriter):
                logger.keep_until(trainer.global_step)
        self._received, self._step = None, trainer.global_step
        self._total = int(trainer.estimated_stepping_batches)
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are still being accumulated: no state to go on from
            return
        self._step = step
        stop = self._must_stop(trainer)
        last = step >= self._total
        if stop is not None or last or step % self._every == 0 or self._due:
            fetcher = trainer.fit_loop._data_fetcher
            validates = fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
            self._due = stop is None and validates
            if not self._due:
                trainer.save_checkpoint(self.path)
        if stop is not None and not last:
            end_watch()
            raise StopRequested(stop, step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on from a checkpoint does not validate again at its step, so that is done first."""
        if self._due:
            self._due = False
            trainer.save_checkpoint(self.path)

    on_train_end = on_validation_end

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Do not make the user wait for the end of a long validation."""
        if self._received is not None and trainer.world_size == 1:
            trainer.save_checkpoint(self.path)
            raise StopRequested(self._received, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            end_watch()
            raise KeyboardInterrupt
        self._received = number

    def _must_stop(self, trainer: Trainer) -> int | None:
        """The signal that some process has received, where all processes look at the same step."""
        if trainer.world_size == 1:
            return self._received
        step = trainer.global_step
        if step % self._every and not is_logged(trainer, step):
            return None
        mine = torch.tensor(self._received or 0, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max")) or None
