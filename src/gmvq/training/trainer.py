"""``build_trainer``: the Lightning trainer of ``gmvq fit``, with our loggers, callbacks and checkpoint files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ..errors import require
from ..files import real_path
from ..functional.autocast import recommended_precision
from .averaging import AveragedWeights
from .callbacks import AtomicCheckpointIO, AtStart, LastCheckpoint
from .history import HistoryWriter
from .pictures import LoggedPictures
from .progress import StepProgress
from .sharding import ShardedStrategy
from .waiting import DataWait

#: Where ``gmvq fit`` departs from the defaults of Lightning's Trainer.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 1500,
    "log_every_n_steps": 20,
    "val_check_interval": 250,
    "check_val_every_n_epoch": None,
}


def default_precision(accelerator: str) -> str:
    """Return the precision of a run whose user chose none: bf16 autocast where the device computes in it."""
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return recommended_precision("cuda" if cuda else "cpu")


def build_trainer(
    options: Mapping[str, Any],
    run_dir: Path,
    *,
    save_every: int = 200,
    keep_best: bool = False,
    logger: str | Sequence[str] = "tensorboard",
    from_step: int = 0,
    average: float = 0.0,
    checkpoint: dict[str, Any] | None = None,
    begin: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Build the trainer of one run.

    Args:
        options: arguments of Lightning's Trainer, ``precision`` among them.
        keep_best: keep the checkpoint with the least validation MSE, too.
        logger: one or several of ``LOGGERS``, beside history.jsonl.
        from_step, checkpoint: where a resumed run goes on, and the checkpoint where it was read already.
        average: decay of averaged weights (see ``AveragedWeights``); 0: none.
        begin: called in the first process when the first step is about to be made.
    """
    first = [AtStart(begin)] if begin else []
    averaging = [AveragedWeights(average)] if average else []
    callbacks: list[Callback] = [*first, *averaging, LastCheckpoint(run_dir, save_every)]
    callbacks += [LoggedPictures(), DataWait(run_dir / "run.json")]
    if options.get("enable_progress_bar") is not False:
        callbacks.append(StepProgress())
    if keep_best:
        callbacks.append(
            ModelCheckpoint(
                run_dir / "checkpoints",
                filename="best",
                monitor="validation/mse",
                enable_version_counter=False,
            )
        )
    if options.get("strategy") == "fsdp":
        options = {**options, "strategy": ShardedStrategy()}
    return Trainer(
        **options,
        callbacks=callbacks,
        logger=[HistoryWriter(run_dir / "history.jsonl"), *_loggers(logger, run_dir, from_step)],
        plugins=[AtomicCheckpointIO(checkpoint)],
        default_root_dir=run_dir,
        enable_checkpointing=keep_best,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _loggers(kinds: str | Sequence[str], run_dir: Path, from_step: int) -> list[Logger]:
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return [LOGGERS[kind](run_dir, from_step) for kind in dict.fromkeys(kinds) if kind != "none"]


def _tensorboard(run_dir: Path, from_step: int) -> Logger:
    require("tensorboard", "train")
    options: dict[str, Any] = {"purge_step": from_step} if from_step else {}
    return TensorBoardLogger(run_dir, name="", version="tensorboard", **options)


def _wandb(run_dir: Path, from_step: int) -> Logger:
    """The variables WANDB_PROJECT, WANDB_MODE and so on do what they do everywhere; a run that goes on keeps its id."""
    try:
        require("wandb", "train")
    except ImportError as error:
        raise ImportError(
            "--logger wandb needs the package wandb; install it with: pip install wandb"
        ) from error
    latest = run_dir / "wandb" / "latest-run"
    known = from_step and latest.exists()
    more: dict[str, Any] = (
        {"version": real_path(latest).name.rpartition("-")[2], "resume": "allow"} if known else {}
    )
    project = os.environ.get("WANDB_PROJECT", "gmvq")
    return WandbLogger(name=run_dir.name, save_dir=run_dir, project=project, **more)


def _csv(run_dir: Path, from_step: int) -> Logger:
    # A file that is there would be written anew.
    return CSVLogger(run_dir, name="", version=f"csv-{from_step}" if from_step else "csv")


#: The loggers beside history.jsonl, by the names of --logger.
LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "csv": _csv,
}
