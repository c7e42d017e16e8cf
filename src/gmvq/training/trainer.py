"""``build_trainer``: the Lightning trainer of ``gmvq fit``, with our loggers, callbacks and checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ..errors import import_or_tell, require
from ..files import real_path
from ..functional.autocast import recommended_precision
from .averaging import AveragedWeights
from .callbacks import AtomicCheckpointIO, LastCheckpoint
from .history import HistoryWriter
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
    kinds = [config.logger] if isinstance(config.logger, str) else config.logger
    loggers = [_logger(kind, run_dir, step) for kind in dict.fromkeys(kinds) if kind != "none"]
    given = {**dict(options), "enable_progress_bar": False}
    if options["strategy"] == "fsdp":
        given["strategy"] = ShardedStrategy()
    return Trainer(
        **given,
        callbacks=callbacks,
        logger=[HistoryWriter(run_dir / "history.jsonl"), *loggers],
        plugins=[AtomicCheckpointIO(checkpoint)],
        default_root_dir=run_dir,
        enable_checkpointing=keep_best,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _logger(kind: str, run_dir: Path, from_step: int) -> Logger:
    """A logger beside history.jsonl, by its name in --logger."""
    if kind == "csv":
        # A file that is there would be written anew.
        return CSVLogger(run_dir, name="", version=f"csv-{from_step}" if from_step else "csv")
    if kind == "tensorboard":
        require("tensorboard", "train")
        return TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=from_step or None)
    import_or_tell("wandb", "pip install wandb")
    # WANDB_PROJECT, WANDB_MODE and so on do what they do everywhere; a run that goes on keeps its id.
    latest = run_dir / "wandb" / "latest-run"
    more: dict[str, Any] = {}
    if from_step and latest.exists():
        more = {"version": real_path(latest).name.rpartition("-")[2], "resume": "allow"}
    project = os.environ.get("WANDB_PROJECT", "gmvq")
    return WandbLogger(name=run_dir.name, save_dir=run_dir, project=project, **more)
