"""``build_trainer``: the Lightning trainer of ``gmvq fit``, with our loggers, callbacks and checkpoint files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint

from ..functional.autocast import recommended_precision
from .averaging import AveragedWeights
from .callbacks import AtomicCheckpointIO, LastCheckpoint
from .loggers import HistoryWriter, build_loggers
from .progress import DataWait, LoggedPictures, StepProgress
from .sharding import ShardedStrategy

#: Where ``gmvq fit`` departs from the defaults of Lightning's Trainer.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 1500,
    "log_every_n_steps": 20,
    "val_check_interval": 250,
    "check_val_every_n_epoch": None,
}


def build_trainer(
    config: Any,
    run_dir: Path,
    step: int,
    checkpoint: dict[str, Any] | None,
    begin: Callable[[Trainer], None],
) -> Trainer:
    """Build the trainer of a run from its options, in which it enters the precision where none was chosen.

    A run that goes on does so after ``step``, from its ``checkpoint``. ``begin`` is called in the first process when
    the first step is about to be made.
    """
    options = config.trainer
    if options["precision"] is None:
        # bf16 autocast where the device computes in it.
        cuda = torch.cuda.is_available() and options["accelerator"] in ("auto", "gpu", "cuda")
        options["precision"] = recommended_precision("cuda" if cuda else "cpu")
    averaging = [AveragedWeights(config.average)] if config.average else []
    callbacks: list[Callback] = [
        LambdaCallback(on_train_start=lambda trainer, _: begin(trainer) if trainer.is_global_zero else None),
        *averaging,
        LastCheckpoint(run_dir, config.save_every),
        LoggedPictures(),
        DataWait(run_dir / "run.json"),
    ]
    if options["enable_progress_bar"] is not False:
        callbacks.append(StepProgress())
    keep_best = getattr(config, "keep_best", False)
    if keep_best:
        best = {"filename": "best", "monitor": "validation/mse", "enable_version_counter": False}
        callbacks.append(ModelCheckpoint(run_dir / "checkpoints", **best))
    given = {**dict(options), "enable_progress_bar": False}
    if options["strategy"] == "fsdp":
        given["strategy"] = ShardedStrategy()
    return Trainer(
        **given,
        callbacks=callbacks,
        logger=[HistoryWriter(run_dir / "history.jsonl"), *build_loggers(config.logger, run_dir, step)],
        plugins=[AtomicCheckpointIO(checkpoint)],
        default_root_dir=run_dir,
        enable_checkpointing=keep_best,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
